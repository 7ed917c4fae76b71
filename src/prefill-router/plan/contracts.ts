/** What a PrefillRouter is built from: settings, clock, timers, index and observers, each as narrow as its use. */
import type { KvMatches } from "../../data/prefix-index/kv-index.ts";
import type { RankOverlap } from "../../dynamo/kv-index/index-answer.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { AffinitySettings } from "../affinity/session-table.ts";
import type { RouterConfigOverride, StageSettings } from "../config.ts";
import type { Plan, PlanRefusal, PlanRequest, Stage, WorkerRank } from "../contracts.ts";
import type { PolicyProfile } from "../policy/policy-class.ts";
import type { WorkerStage } from "../stage.ts";
import type { ConditionalDisaggregation } from "./conditional-disaggregation.ts";

export interface PlanConfig {
  readonly profile: PolicyProfile;
  /** Undefined: every request of a disaggregated set has both legs. A frontend in direct mode accepts nothing else. */
  readonly conditional: ConditionalDisaggregation | undefined;
  readonly affinity: AffinitySettings | undefined;
  /** A set of decode workers serves nothing until a prefill worker is there; else it serves aggregated until the first one comes. */
  readonly isDisaggEnforced: boolean;
  /** A request whose prefill leg cannot be chosen or waited for is computed on its decode worker, instead of refused. Default: refused. */
  readonly servesWithoutPrefill?: boolean;
  /** Bookings nobody ended are ended after this time. */
  readonly activeRequestExpiryMs: number;
  /** What waits is looked at again at least this often, besides every change. */
  readonly queueRecheckMs: number;
  /** Bound of all that wait. */
  readonly maxQueuedPlans: number;
}

/** Dynamo's defaults: nothing waits, no sessions, no conditional disaggregation. */
export const planDefaults = {
  isDisaggEnforced: false,
  activeRequestExpiryMs: 300_000,
  queueRecheckMs: 60_000,
  /** The capacity of Dynamo's admission channel. */
  maxQueuedPlans: 65_536,
} as const;

/** `decode` is the leg after a remote prefill. */
export type LegKind = "aggregated" | "prefill" | "decode";

/** The stage's settings with a request's overrides and the leg's own applied. Returns the same object for the same leg without overrides. */
export type SettingsOf = (leg: LegKind, override: RouterConfigOverride | undefined) => StageSettings;

/** The part of an index that a plan uses; `KvIndex` and the approximate indices have this shape. */
export interface RouterIndex {
  /** `overlaps` is what another process's index said of the prompt, for an index that keeps nothing itself. */
  match(sequenceHashes: Uint32Array, matches: KvMatches, nowMs: number, overlaps?: readonly RankOverlap[]): void;
  createMatches(): KvMatches;
  /** The request was sent to the holder's rank: approximate and predicted indices note its blocks. */
  routed?(holder: number, sequenceHashes: Uint32Array, nowMs: number, blockHashes: Uint32Array): void;
  /** One bounded slice of the work it has put off; true while more is left. */
  upkeep?(nowMs: number): boolean;
  /** Set where no events feed the index: then the router attaches every rank itself. */
  readonly ownHolders?: {
    /** `capacityBlocks` is what the rank has room for; undefined = unknown. */
    attach(capacityBlocks: number | undefined, rank: WorkerRank): number;
    detach(holder: number): void;
  };
}

/** The part of a stage that a plan uses. */
export type PlannedStage = Pick<
  WorkerStage,
  | "stage"
  | "workers"
  | "select"
  | "book"
  | "explain"
  | "isSaturated"
  | "bestCachedTokens"
  | "upsertWorker"
  | "removeWorker"
  | "setSuspect"
  | "setHolder"
  | "reap"
  | "loads"
>;

export interface Timers {
  /** Calls back once after `ms`; returns what cancels it. */
  after(ms: number, callback: () => void): () => void;
}

const longestTimerMs = 0x7fffffff;

/** Timers that keep no process alive. */
export const systemTimers: Timers = {
  after(ms, callback) {
    const timer = setTimeout(callback, Math.min(Math.max(0, ms), longestTimerMs));
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** For metrics and replicas. Exceptions are isolated and logged once a kind. */
export interface RouterObserver {
  /** Also asks for `lostTokens`, which costs a pass over the ranks. */
  readonly countsLostOverlap?: boolean;
  planned?(event: PlannedEvent): void;
  refused?(refusal: PlanRefusal, request: PlanRequest): void;
  queued?(policyClass: string): void;
  left?(policyClass: string, waitedMs: number, how: "planned" | "refused" | "cancelled"): void;
  /** Bookings that nobody ended, here or on another replica. */
  reaped?(count: number, isRemote: boolean): void;
  sessionBound?(sessionId: string, stage: Stage, rank: WorkerRank): void;
  /** A prompt was looked up in a shared cache. */
  sharedCacheAsked?(ms: number): void;
}

export interface PlannedEvent {
  readonly request: PlanRequest;
  readonly plan: Plan;
  readonly policyClass: string;
  readonly waitedMs: number;
  /** Disaggregated by topology, but computed on the decode worker. */
  readonly isBypass: boolean;
  /** Tokens that the leg that computes the prompt finds cached, and how many fewer than on the best rank. */
  readonly hitTokens: number;
  readonly lostTokens: number;
  /** Blocks of the prompt that a shared cache has for that leg, as ranges; undefined where none was asked. */
  readonly sharedHits: Uint32Array | undefined;
}

export interface PrefillRouterOptions {
  readonly config: PlanConfig;
  readonly settingsOf: SettingsOf;
  /** The prefill workers' stage, and the stage of decode and aggregated workers. Owned by the router from now on. */
  readonly prefill: PlannedStage;
  readonly decode: PlannedStage;
  /** Undefined: nothing is known of caches. */
  readonly index: RouterIndex | undefined;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly random: () => number;
  readonly timers: Timers;
  readonly mintId: () => string;
  readonly log: Logger;
  readonly observers: readonly RouterObserver[];
}
