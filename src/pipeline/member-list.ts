/**
 * Members in the order in which they came, for what comes and goes with every request. A Set would do, at a price: every few dozen changes V8 copies
 * its table and links the old one to the new; one such table that has grown old keeps all that are copied after it, and their members, from the young
 * generation's collector until the next full collection. Here nobody who has left leads to anybody.
 */
export class MemberList<Member> {
  #size = 0;
  #oldest: Entry<Member> | undefined = undefined;
  #newest: Entry<Member> | undefined = undefined;

  get size(): number {
    return this.#size;
  }

  get oldest(): Place<Member> | undefined {
    return this.#oldest;
  }

  enter(member: Member): Place<Member> {
    const entry: Entry<Member> = new Entry(member, this);
    entry.older = this.#newest;
    if (this.#newest === undefined) this.#oldest = entry;
    else this.#newest.newer = entry;
    this.#newest = entry;
    this.#size += 1;
    return entry;
  }

  /** Those who are there now, oldest first; they may leave while they are gone through. */
  members(): readonly Member[] {
    const members: Member[] = [];
    for (let entry = this.#oldest; entry !== undefined; entry = entry.newer) members.push(entry.member);
    return members;
  }

  /** For its places alone. */
  unlink(entry: Entry<Member>): void {
    const { older, newer } = entry;
    if (older === undefined) this.#oldest = newer;
    else older.newer = newer;
    if (newer === undefined) this.#newest = older;
    else newer.older = older;
    this.#size -= 1;
  }
}

/** One member's stay. */
export interface Place<Member> {
  readonly member: Member;
  /** Idempotent. */
  leave(): void;
}

class Entry<Member> implements Place<Member> {
  readonly member: Member;
  older: Entry<Member> | undefined;
  newer: Entry<Member> | undefined;
  #list: MemberList<Member> | undefined;

  constructor(member: Member, list: MemberList<Member>) {
    this.member = member;
    this.older = undefined;
    this.newer = undefined;
    this.#list = list;
  }

  leave(): void {
    this.#list?.unlink(this);
    this.#list = undefined;
    this.older = undefined;
    this.newer = undefined;
  }
}
