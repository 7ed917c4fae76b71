/** The index of one worker set, as the settings want it: fed by events, by events and predictions, by routing alone, another process's, or none. */
import { createApproximateKvIndex } from "../../data/prefix-index/approximate-kv-index.ts";
import { createKvIndex } from "../../data/prefix-index/exact-kv-index.ts";
import type { KvIndex, KvMatcher } from "../../data/prefix-index/kv-index.ts";
import { createPredictedKvIndex } from "../../data/prefix-index/predicted-kv-index.ts";
import type { RouterConfig } from "../config.ts";
import type { WorkerRank } from "../contracts.ts";
import type { RouterIndex } from "../plan/contracts.ts";
import { createRemoteIndex } from "../remote-index/remote-index.ts";

export interface SetIndex {
  /** What a plan reads; undefined: nothing is known of caches. */
  readonly router: RouterIndex | undefined;
  /** What events feed; undefined: none are heard. */
  readonly fed: KvIndex | undefined;
  readonly size: IndexSize | undefined;
  /** What other processes may be told: what is only predicted is left out. */
  readonly served: KvMatcher | undefined;
}

/** What an index holds now. */
export type IndexSize = Pick<KvMatcher, "blocks" | "heldBlocks" | "sizeBytes">;

export function createSetIndex(config: RouterConfig, random: () => number): SetIndex {
  // Without credit an overlap counts nothing, so nothing is kept (Dynamo opens no subscription then either).
  if (config.overlapScoreCredit === 0) return noIndex;
  if (config.useKvEvents) {
    const exact = createKvIndex({ random });
    const { routerPredictedTtlSecs } = config;
    if (routerPredictedTtlSecs === undefined || routerPredictedTtlSecs === 0)
      return { router: exact, fed: exact, size: exact, served: exact };
    const predicted = createPredictedKvIndex(exact, { random, ttlMs: routerPredictedTtlSecs * 1000 });
    return { router: predicted, fed: predicted, size: predicted, served: exact };
  }
  // What others routed has no known end: their blocks last for a time, as Dynamo's do.
  const isLru = config.routerApproximateCachePolicy === "lru" && !config.serveIndexer;
  const approximate = createApproximateKvIndex({ random, ttlMs: isLru ? undefined : config.routerTtlSecs * 1000 });
  return { router: approximate, fed: undefined, size: approximate, served: approximate };
}

/** Keeps nothing but predictions. `record` writes a decision into the other's index, where no events feed it. */
export function createRemoteSetIndex(
  config: RouterConfig,
  random: () => number,
  record: (rank: WorkerRank, blockHashes: Uint32Array, sequenceHashes: Uint32Array) => void,
): SetIndex {
  const { useKvEvents, routerPredictedTtlSecs: ttlSecs } = config;
  const router = createRemoteIndex({
    predictedTtlMs: useKvEvents && ttlSecs !== undefined && ttlSecs > 0 ? ttlSecs * 1000 : undefined,
    random,
    record: useKvEvents ? undefined : record,
  });
  return { router, fed: undefined, size: router.predicted, served: undefined };
}

const noIndex: SetIndex = { router: undefined, fed: undefined, size: undefined, served: undefined };
