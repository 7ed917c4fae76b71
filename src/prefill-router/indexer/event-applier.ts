/**
 * Puts one event into the index, in portions: a portion is a few hundred blocks, so that an event with a whole context in it can be spread over
 * several slices. An event that cannot be applied is counted and is over.
 */

import type { Holder, KvIndex, StorageTier } from "../../data/prefix-index/kv-index.ts";
import { domains, eventKinds, type RouterEvent } from "../../dynamo/kv-events/router-event.ts";
import type { IngestCounters } from "./ingest-counters.ts";

/** What events need of an index. */
export type IngestIndex = Pick<KvIndex, "attach" | "detach" | "stored" | "removed" | "cleared" | "upkeep">;

const portionBlocks = 512;

const dropReasons = { "unknown-parent": "unknown-parent", invalid: "invalid-block", full: "index-full" } as const;

export class EventApplier {
  readonly #index: IngestIndex;
  readonly #counters: IngestCounters;
  /** Blocks of the current event already in the index. */
  #done: number;

  constructor(index: IngestIndex, counters: IngestCounters) {
    this.#index = index;
    this.#counters = counters;
    this.#done = 0;
  }

  /** The next portion of `event`; true when the event is over. */
  step(holder: Holder, event: RouterEvent): boolean {
    if (this.#done === 0 && this.#isUnusable(event)) return true;
    switch (event.kind) {
      case eventKinds.cleared:
        this.#index.cleared(holder);
        this.#counters.cleared++;
        return true;
      case eventKinds.removed:
        return this.#remove(holder, event);
      case eventKinds.stored:
        return this.#store(holder, event);
      default:
        return event.kind satisfies never;
    }
  }

  /** All of it. */
  apply(holder: Holder, event: RouterEvent): void {
    while (!this.step(holder, event)) {
      // step advances by a portion each time
    }
  }

  /** Forgets an event begun. */
  reset(): void {
    this.#done = 0;
  }

  #isUnusable(event: RouterEvent): boolean {
    const { dropped } = this.#counters;
    if (event.domain === domains.other) dropped["foreign-domain"]++;
    else if (event.kind === eventKinds.cleared) return false;
    else if (event.tier < 0) dropped["unknown-tier"]++;
    else if (!event.hasParent && event.startPosition > 0) dropped["orphan-position"]++;
    else return false;
    return true;
  }

  #remove(holder: Holder, event: RouterEvent): boolean {
    const count = Math.min(portionBlocks, event.count - this.#done);
    if (count > 0) this.#index.removed(holder, event.tier as StorageTier, event.engineHashes, this.#done, count);
    if (this.#advance(event, count)) return false;
    this.#counters.removed++;
    return true;
  }

  #store(holder: Holder, event: RouterEvent): boolean {
    const first = this.#done;
    const count = Math.min(portionBlocks, event.count - first);
    if (count > 0) {
      const { engineHashes } = event;
      const isRest = first > 0;
      const parentLow = isRest ? (engineHashes[2 * first - 2] ?? 0) : event.parentLow;
      const parentHigh = isRest ? (engineHashes[2 * first - 1] ?? 0) : event.parentHigh;
      const tier = event.tier as StorageTier;
      const hasParent = isRest || event.hasParent;
      const outcome = this.#index.stored(
        holder,
        tier,
        parentLow,
        parentHigh,
        hasParent,
        engineHashes,
        event.tokensHashes,
        first,
        count,
      );
      if (outcome !== "applied") {
        this.#counters.dropped[dropReasons[outcome]]++;
        this.#done = 0;
        return true;
      }
    }
    if (this.#advance(event, count)) return false;
    this.#counters.stored++;
    return true;
  }

  /** True while blocks are left. */
  #advance(event: RouterEvent, count: number): boolean {
    this.#counters.blocks += count;
    this.#done += count;
    if (this.#done < event.count) return true;
    this.#done = 0;
    return false;
  }
}
