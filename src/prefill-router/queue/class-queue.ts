/**
 * What waits in one policy class: one shared lane and one lane for each pin, so that a request that waits for one worker holds up none that
 * may go elsewhere. Counters always equal the sum over its entries.
 */
import type { PolicyClass } from "../policy/policy-class.ts";
import { EntryHeap } from "./entry-heap.ts";
import { precedes, type QueueEntry } from "./queue-entry.ts";

export class ClassQueue<T> {
  readonly policyClass: PolicyClass;
  readonly #shared = new EntryHeap<T>();
  readonly #lanes = new Map<string, EntryHeap<T>>();
  size = 0;
  rawTokens = 0;
  cachedTokens = 0;
  /** Credit in tokens; none is saved up by an empty class. */
  deficit = 0;

  constructor(policyClass: PolicyClass) {
    this.policyClass = policyClass;
  }

  push(entry: QueueEntry<T>): void {
    this.size += 1;
    this.rawTokens += entry.rawTokens;
    this.cachedTokens += entry.cachedTokens;
    if (entry.lane === undefined) {
      this.#shared.push(entry);
      return;
    }
    let lane = this.#lanes.get(entry.lane);
    if (lane === undefined) {
      lane = new EntryHeap<T>();
      this.#lanes.set(entry.lane, lane);
    }
    lane.push(entry);
  }

  remove(entry: QueueEntry<T>): boolean {
    const lane = entry.lane === undefined ? this.#shared : this.#lanes.get(entry.lane);
    if (lane === undefined || !lane.remove(entry)) return false;
    if (entry.lane !== undefined && lane.size === 0) this.#lanes.delete(entry.lane);
    this.size -= 1;
    this.rawTokens -= entry.rawTokens;
    this.cachedTokens -= entry.cachedTokens;
    if (this.size === 0) this.deficit = 0;
    return true;
  }

  /** The first of the lanes' first entries that may go now. Behind a first entry that may not, its lane waits (as in Dynamo). */
  firstReady(isReady: (policyClass: PolicyClass, payload: T) => boolean): QueueEntry<T> | undefined {
    let best: QueueEntry<T> | undefined;
    const shared = this.#shared.first;
    if (shared !== undefined && isReady(this.policyClass, shared.payload)) best = shared;
    if (this.#lanes.size === 0) return best;
    for (const lane of this.#lanes.values()) {
      const first = lane.first;
      if (first === undefined || (best !== undefined && !precedes(first, best))) continue;
      if (isReady(this.policyClass, first.payload)) best = first;
    }
    return best;
  }

  *entries(): IterableIterator<QueueEntry<T>> {
    yield* this.#shared.entries;
    for (const lane of this.#lanes.values()) yield* lane.entries;
  }
}
