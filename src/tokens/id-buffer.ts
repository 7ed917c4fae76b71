/** Token ids being collected: a Uint32Array that grows. Owned by one encoder and reused between texts. */
export class IdBuffer {
  #ids: Uint32Array;
  #length = 0;

  constructor(capacity = 4096) {
    this.#ids = new Uint32Array(capacity);
  }

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  push(id: number): void {
    if (this.#length === this.#ids.length) this.#grow(this.#length + 1);
    this.#ids[this.#length++] = id;
  }

  pushAll(ids: Uint32Array): void {
    const needed = this.#length + ids.length;
    if (needed > this.#ids.length) this.#grow(needed);
    this.#ids.set(ids, this.#length);
    this.#length = needed;
  }

  pushRange(ids: Uint32Array, start: number, end: number): void {
    if (this.#length + end - start > this.#ids.length) this.#grow(this.#length + end - start);
    for (let at = start; at < end; at++) this.#ids[this.#length++] = ids[at] ?? 0;
  }

  /** A copy of the ids from `start` on. */
  copyFrom(start: number): Uint32Array {
    return this.#ids.slice(start, this.#length);
  }

  /** A view, valid until the next push. */
  viewFrom(start: number): Uint32Array {
    return this.#ids.subarray(start, this.#length);
  }

  #grow(needed: number): void {
    const larger = new Uint32Array(Math.max(needed, this.#ids.length * 2));
    larger.set(this.#ids.subarray(0, this.#length));
    this.#ids = larger;
  }
}
