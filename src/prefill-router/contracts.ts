/**
 * What the PrefillRouter is to its callers: give it workers, KV events and requests, and it says which prefill and which decode worker serve a
 * request and keeps the books of both. Nothing here knows of gateways, HTTP or endpoints.
 */
import type { RankOverlap } from "../dynamo/kv-index/index-answer.ts";
import type { RouterConfigOverride } from "./config.ts";

/** One rank of one worker; u64 id as bigint. */
export interface WorkerRank {
  readonly workerId: bigint;
  readonly dpRank: number;
}

export type Stage = "prefill" | "decode";

/** What the router knows of a worker. A worker of role "aggregated" does both stages. */
export interface RouterWorker {
  readonly id: bigint;
  readonly role: "aggregated" | Stage;
  readonly dataParallelStartRank: number;
  readonly dataParallelSize: number;
  /** KV blocks of one rank; undefined = unknown. */
  readonly totalKvBlocks: number | undefined;
  /** Undefined makes the worker unschedulable while a threshold is set that needs it. */
  readonly maxNumBatchedTokens: number | undefined;
  readonly taints: readonly string[];
  /** A name that outlives the worker's id, for session affinity. */
  readonly stableRoutingId: string | undefined;
  readonly topologyDomains: ReadonlyMap<string, string>;
  readonly kvTransferDomain: string | undefined;
  readonly kvTransferEnforcement: "required" | "preferred" | undefined;
  readonly kvTransferPreferredWeight: number | undefined;
  /** Adapters it has loaded; a request for one prefers or requires workers that have it, as the configuration says. */
  readonly loras: ReadonlySet<string>;
}

export interface RoutingConstraints {
  readonly requiredTaints: readonly string[];
  /** Weight by taint. */
  readonly preferredTaints: ReadonlyMap<string, number>;
}

/** What a cache that all workers of a stage share has of one prompt. */
export interface SharedHits {
  /** Ranges [from, to) of the prompt's blocks, flat, rising and apart: [0, 3, 5, 6] are the first three and the sixth. The same at every call. */
  of(stage: Stage): Uint32Array;
}

export interface PlanRequest {
  /** For logs only: clients may repeat it. */
  readonly requestId: string;
  /** Prompt tokens, the incomplete last block included. */
  readonly isl: number;
  /** XXH3 of each complete block and the rolling hashes of the chain: u64 as u32 pairs, low word first. Empty where the tokens are not known. */
  readonly blockHashes: Uint32Array;
  readonly sequenceHashes: Uint32Array;
  /** What another process's index said of these blocks, for a router that keeps none; as old as the request by the time it is planned. */
  readonly overlaps?: readonly RankOverlap[] | undefined;
  /** What running blocks are shared and counted by, one a block, where that is not the chain itself. */
  readonly trackingHashes?: Uint32Array | undefined;
  /** Undefined where there is no such cache. Counts as `sharedCacheMultiplier` says. */
  readonly sharedHits?: SharedHits | undefined;
  readonly loraName?: string | undefined;
  readonly expectedOutputTokens?: number | undefined;
  /** The booking's id where the caller has one that no other booking has; else one is minted. */
  readonly bookingId?: string | undefined;
  /** Waits its turn and is chosen for like any other, but nothing is booked or remembered: the plan's booking does nothing. */
  readonly isQuery?: boolean;
  /** Seconds this request jumps ahead in its queue; ≥ 0. */
  readonly priorityJump?: number;
  /** Higher goes first, whatever has waited longer. */
  readonly strictPriority?: number;
  readonly policyClass?: string | undefined;
  /** Refuse at once instead of waiting in a queue. */
  readonly doNotQueue?: boolean;
  readonly constraints?: RoutingConstraints;
  /** Only these may be chosen; undefined: all of the stage. */
  readonly allowed?: {
    readonly prefill?: ReadonlySet<bigint> | undefined;
    readonly decode?: ReadonlySet<bigint> | undefined;
  };
  readonly pinned?: { readonly prefill?: PinnedWorker | undefined; readonly decode?: PinnedWorker | undefined };
  /** Chosen when eligible, else the others. */
  readonly preferred?: { readonly prefill?: WorkerRank | undefined; readonly decode?: WorkerRank | undefined };
  readonly sessionId?: string | undefined;
  /** The session ends with this request. */
  readonly isSessionFinal?: boolean;
  readonly override?: RouterConfigOverride | undefined;
  /** Called once before `done`, with what was considered; costs as much as the plan itself. */
  readonly explain?: ((explanation: PlanExplanation) => void) | undefined;
}

export interface PinnedWorker {
  readonly workerId: bigint;
  /** Undefined: any rank of it. */
  readonly dpRank: number | undefined;
}

export interface Leg {
  readonly worker: RouterWorker;
  readonly dpRank: number;
  /** Blocks of the prompt the rank holds, by tier, and the tokens that saves (weighted, as the cost counts them). */
  readonly deviceBlocks: number;
  readonly hostBlocks: number;
  readonly diskBlocks: number;
  readonly cachedTokens: number;
  readonly cost: number;
  /** Blocks active on the rank once the request runs there. */
  readonly potentialDecodeBlocks: number;
  /** Prompt tokens the rank had to compute without the request. */
  readonly activePrefillTokens: number;
}

/** A rank that was chosen before, with the prompt tokens it has to compute. */
export interface PlacedLeg extends WorkerRank {
  readonly prefillTokens: number;
}

/** The books of one planned request. Every method may be called late, twice or not at all but `free`, which is idempotent. */
export interface Booking {
  /** Minted, unique: a UUID. */
  readonly id: string;
  /** First byte of the answer: the prompt is computed, its tokens stop counting. */
  prefillCompleted(): void;
  /** One more block of output, where the configuration tracks them; `decay` in [0, 1] is how much of the expected output is left. */
  outputBlock(decay?: number): void;
  free(): void;
}

export type Plan =
  | { readonly mode: "aggregated"; readonly prefill: undefined; readonly decode: Leg; readonly booking: Booking }
  | { readonly mode: "disaggregated"; readonly prefill: Leg; readonly decode: Leg; readonly booking: Booking };

export type PlanRefusal =
  | { readonly kind: "no-workers"; readonly stage: Stage; readonly message: string }
  | { readonly kind: "overloaded"; readonly stage: Stage; readonly message: string }
  | {
      readonly kind: "queue-full";
      readonly stage: Stage;
      readonly message: string;
      readonly policyClass: string;
      /** The limit that was reached; undefined where the request said not to wait. */
      readonly limit?: QueueLimit | undefined;
    }
  | { readonly kind: "pinned-unavailable"; readonly stage: Stage; readonly message: string }
  | { readonly kind: "not-ready"; readonly message: string }
  | { readonly kind: "closed"; readonly message: string };

export interface QueueLimit {
  readonly kind: "requests" | "raw_isl_tokens" | "cached_tokens";
  readonly current: number;
  readonly limit: number;
}

export type PlanOutcome =
  | { readonly kind: "planned"; readonly plan: Plan }
  | { readonly kind: "refused"; readonly refusal: PlanRefusal };

/** What a plan without booking would be: the choice of this moment. */
export type PlanPreview =
  | { readonly kind: "chosen"; readonly prefill: Leg | undefined; readonly decode: Leg }
  | { readonly kind: "refused"; readonly refusal: PlanRefusal };

/** Why a rank stands where it does in a choice; for the decision log. */
export interface RankExplanation {
  readonly workerId: bigint;
  readonly dpRank: number;
  /** Undefined: eligible. */
  readonly excluded: string | undefined;
  /** Undefined where excluded. */
  readonly cost: number | undefined;
  /** The cost's terms by name. */
  readonly terms: Readonly<Record<string, number>>;
}

export interface RankLoad {
  readonly workerId: bigint;
  readonly dpRank: number;
  readonly activePrefillTokens: number;
  readonly activeDecodeBlocks: number;
  readonly activeRequests: number;
}

/** Why a plan is as it is; for the decision log. */
export interface PlanExplanation {
  readonly mode: "aggregated" | "disaggregated";
  /** Why a request of a disaggregated set stayed on its decode worker, or did not. */
  readonly conditional: string | undefined;
  readonly policyClass: string;
  readonly waitedMs: number;
  /** What the session was bound to when the request came, by stage. */
  readonly session: { readonly prefill: WorkerRank | undefined; readonly decode: WorkerRank | undefined };
  readonly stages: readonly { readonly stage: Stage; readonly ranks: readonly RankExplanation[] }[];
}

export interface PendingPlan {
  /** Leaves the queue; `done` is not called after it. A no-op once planned: then the booking is to be freed. */
  cancel(): void;
}

/** One router for the workers of one model in one namespace (one worker set). */
export interface PrefillRouter {
  /**
   * Chooses and books both legs in one step, or neither. `done` is called exactly once, before `plan` returns unless the request waits in
   * a queue. Where `done` throws, what was booked is freed.
   */
  plan(request: PlanRequest, done: (outcome: PlanOutcome) => void): PendingPlan;
  upsertWorker(worker: RouterWorker): void;
  /** Its bookings end, its blocks are forgotten. */
  removeWorker(workerId: bigint): void;
  /** A refused or broken answer: out of the choice until it is upserted again or `forMs` have passed (Infinity: until told). 0 ends it. */
  suspectWorker(workerId: bigint, forMs: number): void;
  /** The index's number for a rank's blocks; may come before its worker. Undefined: it has none any more. */
  setHolder(rank: WorkerRank, holder: number | undefined): void;
  /** That number, also where the router attached the rank itself. */
  holderOf(rank: WorkerRank): number | undefined;
  /** Loads changed that the router does not know of, e.g. another replica's request ended: who waits is looked at again. */
  capacityChanged(): void;
  /** Chooses as `plan` would now, waits for nothing and books nothing. */
  preview(request: PlanRequest): PlanPreview;
  /** Books a choice that was made before, here or elsewhere: no queue, no selection. Refused where a rank is gone or a session is bound to another. */
  place(request: PlanRequest, decode: PlacedLeg, prefill: PlacedLeg | undefined): PlanOutcome;
  /** For /debug and the service's dump; built anew at each call. */
  snapshot(): RouterSnapshot;
  /** Refuses what waits, ends every booking and timer. */
  close(): void;
}

export interface RouterSnapshot {
  readonly topology: Topology;
  readonly workers: readonly {
    readonly worker: RouterWorker;
    readonly isSuspect: boolean;
  }[];
  readonly loads: { readonly prefill: readonly RankLoad[]; readonly decode: readonly RankLoad[] };
  readonly queue: readonly {
    readonly policyClass: string;
    readonly requests: number;
    readonly rawTokens: number;
    readonly cachedTokens: number;
  }[];
  readonly bookings: number;
  readonly oldestBookingMs: number;
  readonly sessions: { readonly prefill: number; readonly decode: number };
  readonly counters: RouterCounters;
}

/** `waiting` has workers, but not of every stage it needs. */
export type Topology = "empty" | "aggregated" | "disaggregated" | "waiting";

export interface RouterCounters {
  readonly planned: number;
  readonly refused: number;
  readonly cancelled: number;
  readonly bypassed: number;
  /** Bookings nobody ended; 0 as long as every owner frees. */
  readonly reaped: number;
  /** The same for bookings of other replicas, which may lose an end. */
  readonly reapedRemote: number;
  /** Requests routed without their session: its table was full or its id too long. */
  readonly sessionsIgnored: number;
}
