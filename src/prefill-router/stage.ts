/**
 * One stage of routing (prefill, or decode and aggregated): its workers, what they have active, and the choice among them. Pure: no timers,
 * no I/O; time and randomness are arguments. The queue and the plan stand on top of it (plan.ts).
 */
import type { KvMatches } from "../data/prefix-index/kv-index.ts";
import type { StageSettings } from "./config.ts";
import type {
  PinnedWorker,
  RankExplanation,
  RankLoad,
  RouterWorker,
  RoutingConstraints,
  Stage,
  WorkerRank,
} from "./contracts.ts";
import type { BusyThresholds, ReportedLoad } from "./stage/overload.ts";

export type { RankExplanation, RankLoad };

export interface StageRequest {
  readonly isl: number;
  readonly sequenceHashes: Uint32Array;
  /** Undefined: no overlap is known or wanted. */
  readonly matches: KvMatches | undefined;
  /** Ranges [from, to) of the prompt's blocks that a cache shared by all workers has, flat. */
  readonly sharedHits?: Uint32Array | undefined;
  readonly loraName: string | undefined;
  readonly expectedOutputTokens: number | undefined;
  readonly allowedWorkerIds: ReadonlySet<bigint> | undefined;
  readonly pinned: PinnedWorker | undefined;
  readonly preferred: WorkerRank | undefined;
  readonly constraints: RoutingConstraints | undefined;
  /** The configuration with the request's overrides and the stage's own (a decode leg after a remote prefill) applied. */
  readonly settings: StageSettings;
}

export interface Selected {
  readonly kind: "selected";
  readonly worker: RouterWorker;
  readonly dpRank: number;
  /** Dense number of the rank within the stage, valid until the worker is removed. */
  readonly slot: number;
  readonly cost: number;
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  readonly diskBlocks: number;
  readonly cachedTokens: number;
  /** Blocks active on the rank once this request runs there. */
  readonly potentialDecodeBlocks: number;
  /** Prompt tokens the rank still has to compute, without this request, by the time of the choice. */
  readonly activePrefillTokens: number;
}

export type Selection =
  | Selected
  | {
      readonly kind: "none";
      readonly why: "no-workers" | "overloaded" | "filtered" | "pinned-unavailable";
      readonly message: string;
    };

/** What a booking's prompt is to its rank. */
export interface PrefillLoad {
  /** Prompt tokens that are still to be computed. */
  readonly prefillTokens: number;
  /** How long that takes once it runs alone, in milliseconds; undefined where nobody knows. */
  readonly expectedPrefillMs: number | undefined;
}

/** One request's share of one rank's load. Idempotent; harmless after the worker has left. */
export interface StageBooking {
  readonly id: string;
  prefillCompleted(): void;
  outputBlock(decay: number | undefined): void;
  free(): void;
}

/**
 * What replicas tell each other of bookings, and what metrics count: this router's own bookings, never those of `bookRemote`. Whatever ends a
 * booking (its owner, the reaper, a worker that leaves) is told once.
 */
export interface StageObserver {
  /** Where `request.settings` says not to assume reuse, or not to track blocks, its hashes count for nothing that another booking shares. */
  booked?(booking: StageBooking, rank: WorkerRank, request: StageRequest, prefill: PrefillLoad): void;
  prefillCompleted?(bookingId: string, rank: WorkerRank): void;
  freed?(bookingId: string, rank: WorkerRank): void;
}

export interface WorkerStage {
  readonly stage: Stage;
  select(request: StageRequest, nowMs: number, random: () => number): Selection;
  /** Books what `select` chose in the same turn of the event loop; `id` is the caller's, unique. */
  book(id: string, selected: Selected, request: StageRequest, nowMs: number): StageBooking;
  /** A booking of another replica; unknown ranks are remembered until their worker appears or the booking ends. */
  bookRemote(
    id: string,
    rank: WorkerRank,
    sequenceHashes: Uint32Array,
    prefill: PrefillLoad,
    expectedOutputTokens: number | undefined,
    nowMs: number,
  ): StageBooking;
  /**
   * Whether every eligible rank is busy: it has more active prefill tokens than `threshold` × its max_num_batched_tokens, or more than
   * `thresholdTokens`. Infinity disables either. False where no rank is eligible: then the choice says why. Overload thresholds and
   * `preferred` do not count here; suspects do.
   */
  isSaturated(request: StageRequest, threshold: number, thresholdTokens?: number): boolean;
  /** The most tokens any eligible rank would save the request (of the pinned one where it is pinned), weighted as `Selected.cachedTokens`. */
  bestCachedTokens(request: StageRequest): number;
  /** A suspect is registered and keeps its books, but is not eligible. Forgotten when the worker is upserted or removed. */
  setSuspect(workerId: bigint, isSuspect: boolean): void;
  /** Every rank, chosen or not, for the decision log; as costly as a selection. */
  explain(request: StageRequest, nowMs: number): readonly RankExplanation[];
  upsertWorker(worker: RouterWorker): void;
  removeWorker(workerId: bigint): void;
  /** What the worker says of its own load; compared with the busy thresholds. Unknown ranks are ignored. */
  setReportedLoad(rank: WorkerRank, load: ReportedLoad): void;
  readonly busyThresholds: BusyThresholds;
  setBusyThresholds(thresholds: BusyThresholds): void;
  /** The index's number for a rank's blocks; undefined for a rank without an index. */
  setHolder(rank: WorkerRank, holder: number | undefined): void;
  /** Bookings older than maxAgeMs are freed; returns how many. */
  reap(nowMs: number, maxAgeMs: number): number;
  loads(): readonly RankLoad[];
  /** What the loads would be with the request on each rank. */
  potentialLoads(request: StageRequest): readonly RankLoad[];
  readonly activeBookings: number;
  /** Of the block table, which grows with what runs at once. */
  readonly sizeBytes: number;
  observe(observer: StageObserver): () => void;
  readonly workers: ReadonlyMap<bigint, RouterWorker>;
}
