/**
 * The contracts of scheduling plugins, and the only file of ours a plugin imports. Scheduling is pure: no I/O, no timers, no clock of its
 * own; time and randomness come with the cycle. One object may play several roles: it simply has several of these methods.
 */
import type { Endpoint, Endpoints } from "../data/endpoint.ts";
import type { DataProducer, RequestObserver } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";

export {
  type PrefixMatch,
  type PromptTokens,
  prefixMatchKey,
  promptTokensKey,
  sessionIdKey,
  type UncachedTokens,
  uncachedTokensKey,
} from "../data/attributes.ts";
export type { Discovery } from "../data/discovery/discovery.ts";
export { formatBytes, formatDuration, parseBytes, parseDuration } from "../data/duration.ts";
export {
  type Endpoint,
  type EndpointName,
  type Endpoints,
  type EngineMetrics,
  endpointName,
} from "../data/endpoint.ts";
export { freshness } from "../data/freshness.ts";
export type {
  Activatable,
  Closable,
  JsonSchema,
  PluginContext,
  PluginDefinition,
  PluginKind,
  Readiness,
} from "../data/plugin.ts";
export type { Assignment, DataProducer, EndCause, HeaderSink, RequestObserver } from "../data/producer.ts";
export type { DataSource, Extractor, PageReader, ReadOutcome } from "../data/scrape/source.ts";
export type { ChangeSink, PeerId, Shareable, SharedKnowledge } from "../data/shared-state.ts";
export type { EndpointListener, EndpointStoreView } from "../data/store-view.ts";
export { AttributeKey, type HeaderLookup, type InferenceRequest } from "../request/inference-request.ts";
export { type Rejection, reject } from "../request/rejection.ts";
export type { Usage } from "../request/usage.ts";

/** One scheduling decision in the making. */
export interface Cycle {
  readonly request: InferenceRequest;
  /** Monotonic milliseconds of the decision. */
  readonly nowMs: number;
  /** Age in milliseconds from which an endpoint's engine metrics count as stale: `freshness` fades them from there on. */
  readonly staleAfterMs: number;
  /** Uniform in [0, 1). */
  random(): number;
}

/** Runs first, over the whole candidate set, before any profile. */
export interface Screener {
  screen(cycle: Cycle, endpoints: Endpoints): Endpoints;
}

export interface Filter {
  /** The endpoints to keep, in their order. Returns the argument itself when all stay. */
  filter(cycle: Cycle, endpoints: Endpoints): Endpoints;
}

export interface Scorer {
  /**
   * Writes the score of endpoints[i] into scores[i], which is 0 on entry. Scores are clamped to [0, 1] by the caller, NaN counts as 0,
   * then multiplied by the weight and summed over the profile's scorers.
   */
  score(cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void;
}

export interface Picker {
  /** Picks from endpoints (never empty) by their weighted totals; best first. Never empty. */
  pick(cycle: Cycle, endpoints: Endpoints, totals: Float64Array): Endpoints;
}

/** What one profile decided. */
export type ProfileOutcome =
  | { readonly kind: "picked"; readonly endpoints: Endpoints; readonly totals: ReadonlyMap<Endpoint, number> }
  | { readonly kind: "no-endpoints"; readonly filter: string };

/** Decides which profiles run and which of them names the destination. */
export interface ProfileHandler {
  /** Profiles to run next, given what already ran; empty ends the cycle. */
  nextProfiles(
    cycle: Cycle,
    profiles: readonly string[],
    outcomes: ReadonlyMap<string, ProfileOutcome>,
  ): readonly string[] | Rejection;
  /** The profile whose pick is the destination, or why there is none. */
  primaryProfile(cycle: Cycle, outcomes: ReadonlyMap<string, ProfileOutcome>): string | Rejection;
}

/** What a planner may choose from. */
export interface PlanOffer {
  /** Endpoints that the gateway allows and that screeners left. Never empty. */
  readonly candidates: Endpoints;
  /** The offer as it is now: itself until endpoints come, go or change. For a planner that has waited. */
  latest(): PlanOffer;
  /** Names of the configured profiles. */
  readonly profiles: readonly string[];
  /** Somebody may look at the decision later, so it is worth keeping what was considered. */
  readonly isRecorded?: boolean;
  /** The candidates that the filters of a profile leave; all of them for a profile that the configuration does not have. */
  eligible(profile: string): Endpoints;
}

export type PlannerOutcome =
  | {
      readonly kind: "planned";
      /** Destination first. Never empty. */
      readonly destinations: Endpoints;
      /** For the decision log, which calls it when somebody looks: holds on to nothing large and no prompt text. */
      readonly explain?: () => Readonly<Record<string, unknown>>;
      /** Called instead of `assigned` when the request goes nowhere after all: gives back what the plan booked. */
      readonly abandoned: () => void;
    }
  | Rejection;

export interface PendingPlanning {
  /** The request is gone: gives back everything; `done` is not called after it. A no-op once done. */
  cancel(): void;
}

/**
 * A profile handler that decides by a plan of its own, which may wait and books what it takes. The profiles then run over the planned
 * destinations only. It plays the roles of an observer, too: what it booked ends with `ended`.
 */
export interface Planner {
  /** Calls done exactly once, before it returns unless it waits, unless cancelled first. */
  plan(cycle: Cycle, offer: PlanOffer, done: (outcome: PlannerOutcome) => void): PendingPlanning;
}

/** May refuse a request before it is scheduled. */
export interface Admitter {
  admit(cycle: Cycle, endpoints: Endpoints): Rejection | undefined;
}

/** Sees the request before routing; may set `fairnessId`. */
export interface RequestHeaderProcessor {
  processHeaders(request: InferenceRequest): void;
}

/** Any subset of roles: what `create` of a plugin definition returns. */
export type SchedulingPlugin = Partial<
  Screener &
    Filter &
    Scorer &
    Picker &
    ProfileHandler &
    Planner &
    Admitter &
    RequestHeaderProcessor &
    DataProducer &
    RequestObserver
>;

export function isRejection(value: unknown): value is Rejection {
  return typeof value === "object" && value !== null && "code" in value && "droppedReason" in value;
}

/** A profile of the configuration: plugins by instance, in order. */
export interface Profile {
  readonly name: string;
  readonly filters: readonly Named<Filter>[];
  readonly scorers: readonly WeightedScorer[];
  readonly picker: Named<Picker>;
}

export interface Named<Role> {
  readonly name: string;
  readonly type: string;
  readonly plugin: Role;
}

export interface WeightedScorer extends Named<Scorer> {
  readonly weight: number;
}

/** Everything scheduling runs: what the configuration loads and a hot reload swaps as a whole. */
export interface SchedulingPlan {
  readonly handler: Named<ProfileHandler>;
  /** The handler, when it plans. */
  readonly planner?: Named<Planner> | undefined;
  readonly profiles: ReadonlyMap<string, Profile>;
  readonly screeners: readonly Named<Screener>[];
  readonly admitters: readonly Named<Admitter>[];
  readonly headerProcessors: readonly Named<RequestHeaderProcessor>[];
  /** In dependency order. */
  readonly producers: readonly Named<DataProducer>[];
  /** Plugins with any RequestObserver method, in configuration order, producers included. */
  readonly observers: readonly Named<RequestObserver>[];
}

/** Receives every step of a decision for the decision log; undefined members cost nothing. */
export interface DecisionTrace {
  /** A planner chose; `explain` is called, if at all, when the log is read. */
  planned?(planner: string, explain: () => Readonly<Record<string, unknown>>): void;
  /** Before the first step of a profile. */
  profileStarted?(profile: string): void;
  filtered(profile: string, filter: string, before: Endpoints, after: Endpoints): void;
  scored(profile: string, scorer: string, weight: number, endpoints: Endpoints, scores: Float64Array): void;
  picked(profile: string, picker: string, endpoints: Endpoints, totals: Float64Array, picked: Endpoints): void;
}

/** What the scheduler answers. */
export type SchedulingResult =
  | {
      readonly kind: "scheduled";
      readonly primary: string;
      readonly destinations: Endpoints;
      readonly outcomes: ReadonlyMap<string, ProfileOutcome>;
    }
  | { readonly kind: "rejected"; readonly rejection: Rejection };
