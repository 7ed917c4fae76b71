/**
 * What a decision log is told of every request, step by step; admin/decision-log implements it. Arguments are the live arrays and maps of the
 * decision: immutable ones may be kept, `scores` and `totals` are scratch that must be copied before the call returns. Never prompt text.
 */
import type { Endpoints } from "../data/endpoint.ts";
import type { EndCause } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import type { Usage } from "../request/usage.ts";
import type { DecisionTrace, SchedulingResult } from "../scheduling/contracts.ts";

export interface DecisionSink {
  /** Called once a request, after routing named its model, objective and flow; undefined when this one is not recorded. */
  begin(request: InferenceRequest): DecisionRecording | undefined;
}

/**
 * Calls come in this order, those of the trace before `scheduled`. After `scheduled` always comes `ended`; a request that is cancelled before it
 * was decided gets `ended` without `scheduled`, a refused one gets no `ended`.
 */
export interface DecisionRecording extends DecisionTrace {
  /** Endpoints the subset allows, before any plugin has seen them. */
  candidates(endpoints: Endpoints): void;
  screened(screener: string, before: Endpoints, after: Endpoints): void;
  /** The last call when the request was refused, by whichever step. */
  rejected(rejection: Rejection, durationMs: number): void;
  /** `durationMs` is the time from the request's headers to the decision. */
  scheduled(result: Extract<SchedulingResult, { kind: "scheduled" }>, durationMs: number): void;
  /** How the request ended, once. */
  ended(cause: EndCause, usage: Usage | undefined, durationMs: number): void;
}

/** Keeps nothing. */
export const noDecisions: DecisionSink = { begin: () => undefined };
