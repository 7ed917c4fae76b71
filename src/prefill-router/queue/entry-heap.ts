/** A binary heap of waiting requests, first to go on top. Every entry knows its place, so that one that is cancelled leaves in O(log n). */
import { precedes, type QueueEntry } from "./queue-entry.ts";

export class EntryHeap<T> {
  readonly #entries: QueueEntry<T>[] = [];

  get size(): number {
    return this.#entries.length;
  }

  get first(): QueueEntry<T> | undefined {
    return this.#entries[0];
  }

  /** In no particular order. */
  get entries(): readonly QueueEntry<T>[] {
    return this.#entries;
  }

  push(entry: QueueEntry<T>): void {
    this.#rise(this.#entries.length, entry);
  }

  /** False when the entry is not in this heap. */
  remove(entry: QueueEntry<T>): boolean {
    const position = entry.position;
    if (position < 0 || this.#entries[position] !== entry) return false;
    entry.position = -1;
    const last = this.#entries.pop();
    if (last === undefined || last === entry) return true;
    const parent = this.#entries[(position - 1) >> 1];
    if (position > 0 && parent !== undefined && precedes(last, parent)) this.#rise(position, last);
    else this.#sink(position, last);
    return true;
  }

  #rise(from: number, entry: QueueEntry<T>): void {
    let position = from;
    while (position > 0) {
      const above = (position - 1) >> 1;
      const parent = this.#entries[above];
      if (parent === undefined || !precedes(entry, parent)) break;
      this.#put(position, parent);
      position = above;
    }
    this.#put(position, entry);
  }

  #sink(from: number, entry: QueueEntry<T>): void {
    let position = from;
    for (;;) {
      let below = 2 * position + 1;
      let child = this.#entries[below];
      if (child === undefined) break;
      const right = this.#entries[below + 1];
      if (right !== undefined && precedes(right, child)) {
        below += 1;
        child = right;
      }
      if (!precedes(child, entry)) break;
      this.#put(position, child);
      position = below;
    }
    this.#put(position, entry);
  }

  #put(position: number, entry: QueueEntry<T>): void {
    this.#entries[position] = entry;
    entry.position = position;
  }
}
