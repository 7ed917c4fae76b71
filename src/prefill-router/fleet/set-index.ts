/** The index of one worker set, as the settings want it: fed by events, by events and predictions, by routing alone, or none. */
import { createApproximateKvIndex } from "../../data/prefix-index/approximate-kv-index.ts";
import { createKvIndex } from "../../data/prefix-index/exact-kv-index.ts";
import type { KvIndex, KvMatcher } from "../../data/prefix-index/kv-index.ts";
import { createPredictedKvIndex } from "../../data/prefix-index/predicted-kv-index.ts";
import type { RouterConfig } from "../config.ts";
import type { RouterIndex } from "../plan/contracts.ts";

export interface SetIndex {
  /** What a plan reads; undefined: nothing is known of caches. */
  readonly router: RouterIndex | undefined;
  /** What events feed; undefined: none are heard. */
  readonly fed: KvIndex | undefined;
  readonly size: IndexSize | undefined;
}

/** What an index holds now. */
export type IndexSize = Pick<KvMatcher, "blocks" | "heldBlocks" | "sizeBytes">;

export function createSetIndex(config: RouterConfig, random: () => number): SetIndex {
  // Without credit an overlap counts nothing, so nothing is kept (Dynamo opens no subscription then either).
  if (config.overlapScoreCredit === 0) return { router: undefined, fed: undefined, size: undefined };
  if (config.useKvEvents) {
    const exact = createKvIndex({ random });
    const { routerPredictedTtlSecs } = config;
    if (routerPredictedTtlSecs === undefined || routerPredictedTtlSecs === 0)
      return { router: exact, fed: exact, size: exact };
    const predicted = createPredictedKvIndex(exact, { random, ttlMs: routerPredictedTtlSecs * 1000 });
    return { router: predicted, fed: predicted, size: predicted };
  }
  const ttlMs = config.routerApproximateCachePolicy === "lru" ? undefined : config.routerTtlSecs * 1000;
  const approximate = createApproximateKvIndex({ random, ttlMs });
  return { router: approximate, fed: undefined, size: approximate };
}
