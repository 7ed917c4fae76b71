/**
 * The states that this replica shares, by topic: their changes go into the log, and what peers say goes to the state it is for. On the wire a
 * topic is 32 bits of its name's hash; a topic that only one side has is skipped, as during a rollout.
 */
import type { PeerId, SharedContribution, SharedKnowledge, SharedState } from "../shared-state.ts";
import { type ChangeLog, entryHeaderBytes } from "./change-log.ts";
import type { PeerCounters } from "./peer-counters.ts";

export class SharedTopics {
  readonly #log: ChangeLog;
  readonly #counters: PeerCounters;
  readonly #changed: () => void;
  #byId: ReadonlyMap<number, SharedState> = new Map();
  #names: readonly string[] = [];
  /** Whose contributions are counted. */
  readonly #peers = new Set<PeerId>();

  /** `changed` is called whenever there is something to send. */
  constructor(log: ChangeLog, counters: PeerCounters, changed: () => void) {
    this.#log = log;
    this.#counters = counters;
    this.#changed = changed;
  }

  get names(): readonly string[] {
    return this.#names;
  }

  /** Shares exactly these from now on, by their names in all replicas. Of two names with one hash the first is shared. */
  share(states: ReadonlyMap<string, SharedState>): void {
    const byId = new Map<number, SharedState>();
    const names: string[] = [];
    for (const [name, state] of states) {
      const id = topicIdOf(name);
      if (byId.has(id)) continue;
      byId.set(id, state);
      names.push(name);
    }
    const before = this.#byId;
    this.#byId = byId;
    this.#names = names;
    for (const [id, state] of before) if (byId.get(id) !== state) state.shareWith(undefined);
    for (const [id, state] of byId) if (before.get(id) !== state) state.shareWith(this.#sinkOf(id));
  }

  /** What of a peer's contributions counts. */
  describe(peer: PeerId): readonly unknown[] {
    return Array.from(this.#contributions(), (state) => state.describe(peer));
  }

  /** Puts into the log what changed of contributions. */
  collect(): void {
    for (const state of this.#contributions()) state.collect();
  }

  /** Entries of all own values. */
  *own(): Iterable<Buffer> {
    for (const [id, state] of this.#byId) {
      if (state.kind !== "contribution") continue;
      for (const payload of state.own()) yield entryOf(id, payload);
    }
  }

  /** Entries of all that is known; a state that was replaced meanwhile says no more. */
  *known(nowMs: number): Iterable<Buffer> {
    for (const [id, state] of this.#byId) {
      if (state.kind !== "knowledge") continue;
      for (const payload of state.known(nowMs)) {
        if (this.#byId.get(id) !== state) break;
        yield entryOf(id, payload);
      }
    }
  }

  replacing(peer: PeerId): void {
    this.#peers.add(peer);
    for (const state of this.#contributions()) state.replacing(peer);
  }

  replaced(peer: PeerId): void {
    for (const state of this.#contributions()) state.replaced(peer);
  }

  gone(peer: PeerId): void {
    if (!this.#peers.delete(peer)) return;
    for (const state of this.#contributions()) state.gone(peer);
  }

  /** Hands on the entries that the bytes hold. False where they do not end with an entry. */
  apply(peer: PeerId, entries: Buffer, nowMs: number): boolean {
    for (let at = 0; at < entries.length; ) {
      if (entries.length - at < entryHeaderBytes) return false;
      const end = at + entryHeaderBytes + entries.readUInt32LE(at);
      if (end > entries.length) return false;
      const state = this.#byId.get(entries.readUInt32LE(at + 4));
      if (state === undefined) this.#counters.unknownTopic++;
      else if (!state.apply(peer, entries.subarray(at + entryHeaderBytes, end), nowMs)) this.#counters.malformed++;
      at = end;
    }
    return true;
  }

  #sinkOf(id: number) {
    return {
      append: (payload: Uint8Array, length: number): boolean => {
        if (!this.#log.append(id, payload, length)) {
          this.#counters.tooLong++;
          return false;
        }
        this.#changed();
        return true;
      },
      changed: this.#changed,
    };
  }

  *#contributions(): Iterable<SharedContribution> {
    for (const state of this.#byId.values()) if (isContribution(state)) yield state;
  }
}

function isContribution(state: SharedContribution | SharedKnowledge): state is SharedContribution {
  return state.kind === "contribution";
}

function entryOf(topicId: number, payload: Uint8Array): Buffer {
  const entry = Buffer.allocUnsafe(entryHeaderBytes + payload.length);
  entry.writeUInt32LE(payload.length, 0);
  entry.writeUInt32LE(topicId, 4);
  entry.set(payload, entryHeaderBytes);
  return entry;
}

/** FNV-1a. */
export function topicIdOf(topic: string): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(topic)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}
