/**
 * A decision as spans under the request's own (names: the reference's): orchestration ⊃ profile ⊃ filters, scoring ⊃ each scorer. It listens as
 * a decision log does, and only to requests that carry a span.
 */
import type { Endpoints } from "../data/endpoint.ts";
import type { EndCause } from "../data/producer.ts";
import { AttributeKey, type InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import type { Usage } from "../request/usage.ts";
import type { TraceSpan } from "../telemetry/tracing.ts";
import type { DecisionRecording, DecisionSink } from "./decision-sink.ts";
import type { Scheduled } from "./outcome.ts";

/** Set by the front door on a request that is traced. */
export const requestSpanKey = new AttributeKey<TraceSpan>("request-span");

export interface DecisionSpansOptions {
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** Type of a plugin by its name. */
  readonly typeOf: (plugin: string) => string;
}

export function createDecisionSpans(options: DecisionSpansOptions): DecisionSink {
  return {
    begin: (request) => {
      const span = request.attribute(requestSpanKey);
      return span === undefined ? undefined : new DecisionSpans(request, span, options);
    },
  };
}

class DecisionSpans implements DecisionRecording {
  readonly #request: TraceSpan;
  readonly #options: DecisionSpansOptions;
  readonly #orchestration: TraceSpan;
  #isOver = false;
  #profile: TraceSpan | undefined;
  #filters: TraceSpan | undefined;
  #scoring: TraceSpan | undefined;
  /** End of the last step, which is the start of the next: plugins run one after the other. */
  #stepMs: number;

  constructor(request: InferenceRequest, span: TraceSpan, options: DecisionSpansOptions) {
    this.#request = span;
    this.#options = options;
    this.#stepMs = options.now();
    this.#orchestration = span.child("gateway.request_orchestration", this.#stepMs);
    span.set({
      "gateway.request.id": request.id,
      "gen_ai.request.model": request.parsed.model,
      "gateway.target_model": request.targetModel,
      "gateway.objective": request.objective,
      "gateway.priority": request.priority,
      "gateway.fairness_id": request.fairnessId,
    });
  }

  candidates(endpoints: Endpoints): void {
    this.#orchestration.set({ "gateway.candidates": endpoints.length });
  }

  screened(): void {}

  profileStarted(profile: string): void {
    this.#stepMs = this.#options.now();
    this.#profile = this.#orchestration.child("run_scheduler_profile", this.#stepMs, { "gateway.profile": profile });
  }

  filtered(_profile: string, filter: string, before: Endpoints, after: Endpoints): void {
    const startMs = this.#step();
    this.#filters ??= this.#profile?.child("filter_endpoints", startMs, { "gateway.filters.before": before.length });
    this.#filters?.set({ "gateway.filters.after": after.length });
    if (after.length > 0) return;
    this.#filters?.set({ "gateway.filters.emptied_by": filter });
    this.#endProfile("NoEndpoints");
  }

  scored(_profile: string, scorer: string, weight: number): void {
    const startMs = this.#step();
    this.#endFilters(startMs);
    this.#scoring ??= this.#profile?.child("llm_d.epp.scoring", startMs);
    this.#scoring
      ?.child(`llm_d.epp.scorer.${this.#options.typeOf(scorer)}`, startMs, {
        "gateway.plugin.name": scorer,
        "gateway.scorer.weight": weight,
      })
      .end(this.#stepMs);
  }

  picked(_profile: string, picker: string, _endpoints: Endpoints, _totals: Float64Array, picked: Endpoints): void {
    const startMs = this.#step();
    this.#endFilters(startMs);
    this.#scoring?.end(startMs);
    this.#scoring = undefined;
    this.#profile?.set({ "gateway.picker": picker, "gateway.picked": picked[0]?.hostPort ?? "" });
    this.#endProfile(undefined);
  }

  rejected(rejection: Rejection): void {
    this.#over(rejection.code);
  }

  scheduled(result: Scheduled): void {
    const destination = result.destinations[0]?.hostPort ?? "";
    this.#orchestration.set({ "gateway.profile": result.primary, "gateway.destination": destination });
    this.#request.set({ "gateway.destination": destination });
    this.#over(undefined);
  }

  ended(cause: EndCause, usage: Usage | undefined): void {
    this.#over(cause.kind);
    if (usage === undefined) return;
    const { promptTokens, completionTokens, cachedTokens } = usage;
    this.#request.set({
      ...(promptTokens === undefined ? {} : { "gen_ai.usage.input_tokens": promptTokens }),
      ...(completionTokens === undefined ? {} : { "gen_ai.usage.output_tokens": completionTokens }),
      ...(cachedTokens === undefined ? {} : { "gen_ai.usage.cached_tokens": cachedTokens }),
    });
  }

  /** Ends a step now; returns when it began. */
  #step(): number {
    const startMs = this.#stepMs;
    this.#stepMs = this.#options.now();
    return startMs;
  }

  #endFilters(atMs: number): void {
    this.#filters?.end(atMs);
    this.#filters = undefined;
  }

  #endProfile(error: string | undefined): void {
    this.#endFilters(this.#stepMs);
    this.#scoring?.end(this.#stepMs);
    this.#scoring = undefined;
    this.#profile?.end(this.#stepMs, error);
    this.#profile = undefined;
  }

  #over(error: string | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#step();
    this.#endProfile(error);
    this.#orchestration.end(this.#stepMs, error);
  }
}
