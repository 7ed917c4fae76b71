/** Everything a pipeline is given by the process around it: narrow, so that a test hands in literals. */
import type { EndpointStoreView } from "../data/store-view.ts";
import type { Admission } from "../flow-control/admission.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import type { SchedulingPlan } from "../scheduling/contracts.ts";
import type { Logger } from "../telemetry/log.ts";
import type { RequestMetrics } from "../telemetry/request-metrics.ts";
import type { DecisionSink } from "./decision-sink.ts";
import type { Timers } from "./production.ts";

export interface PipelineDependencies {
  /** The current plan; asked once a request. */
  plan(): SchedulingPlan;
  readonly endpoints: Pick<EndpointStoreView, "snapshot">;
  /** Routing over the current objects of the pool. */
  route(request: InferenceRequest): Rejection | undefined;
  readonly admission: Admission;
  readonly metrics: RequestMetrics;
  readonly decisions: DecisionSink;
  readonly log: Logger;
  readonly timers: Timers;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** Age from which engine metrics count as stale (--metrics-staleness-threshold). */
  readonly staleAfterMs: number;
  /** Called for each request that is to be scheduled: what adapts to traffic (the scraper) listens here. */
  noteTraffic(): void;
  /** False with --disable-endpoint-subset-filter. */
  readonly filterSubset: boolean;
  /** --emit-endpoint-scores */
  readonly emitEndpointScores: boolean;
}
