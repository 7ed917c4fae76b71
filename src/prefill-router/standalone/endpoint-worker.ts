/** An endpoint as the router knows it: one server for a stage or for both, under its pod's name for as long as there is one. */
import type { Endpoint } from "../../data/endpoint.ts";
import { rankOf } from "../../data/kv-events/endpoint-feeds.ts";
import type { RouterWorker } from "../contracts.ts";
import { podOf } from "../plugin/placement.ts";

/** Data-parallel ranks of one server: [first, first + size). */
export interface RankSpan {
  readonly first: number;
  readonly size: number;
}

export interface EngineLimits {
  /** KV blocks of a rank; undefined: what the engine's metrics say. */
  readonly totalKvBlocks: number | undefined;
  readonly maxNumBatchedTokens: number | undefined;
}

/** What engines may have; a rank far from the others is a lie. */
const maxRanks = 256;

/** `heard` with a rank that speaks for the first time; undefined where they are too far apart. */
export function spanWith(heard: RankSpan | undefined, rank: number): RankSpan | undefined {
  if (heard === undefined) return { first: rank, size: 1 };
  const first = Math.min(heard.first, rank);
  const size = Math.max(heard.first + heard.size, rank + 1) - first;
  return size <= maxRanks ? { first, size } : undefined;
}

/** The rank of a server that has said nothing yet. */
export function assumedSpan(endpoint: Endpoint): RankSpan {
  return { first: rankOf(endpoint), size: 1 };
}

export function routerWorkerOf(
  id: bigint,
  endpoint: Endpoint,
  role: RouterWorker["role"],
  { first, size }: RankSpan,
  limits: EngineLimits,
): RouterWorker {
  return {
    id,
    role,
    dataParallelStartRank: first,
    dataParallelSize: size,
    totalKvBlocks: limits.totalKvBlocks ?? totalKvBlocksOf(endpoint),
    maxNumBatchedTokens: limits.maxNumBatchedTokens,
    taints: [],
    stableRoutingId: podOf(endpoint),
    topologyDomains: noDomains,
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
    // Engines load adapters as they are asked for them.
    loras: noAdapters,
  };
}

/** Undefined before the first scrape, and for engines that do not say. */
export function totalKvBlocksOf({ metrics }: Endpoint): number | undefined {
  return metrics.totalBlocks > 0 ? metrics.totalBlocks : undefined;
}

const noDomains: ReadonlyMap<string, string> = new Map();
const noAdapters: ReadonlySet<string> = new Set();
