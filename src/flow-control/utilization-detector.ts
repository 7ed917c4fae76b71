/**
 * Saturation from what the engines report: per endpoint the worse of queue and KV memory against its threshold, the mean of them for the
 * pool (the reference's utilization-detector). Also a filter that keeps the endpoints below the thresholds.
 *
 * The reference counts an endpoint as saturated the moment its metrics are older than `metricsStalenessThreshold`, so one slow scrape
 * sheds load, and so would the slow scraping of an idle pool. Here the last reading fades into 1: it counts whole up to the threshold, and from there on 1 takes its place linearly until
 * `fadeFactor` times the threshold. An endpoint that was never scraped is 1, as in the reference.
 */

import { parseDuration } from "../data/duration.ts";
import type { Endpoint, Endpoints } from "../data/endpoint.ts";
import type { PluginDefinition } from "../data/plugin.ts";
import type { SaturationDetector } from "./saturation.ts";

/** Metrics this many times older than the threshold say nothing any more: 2 s at the default threshold, as for the pool's metrics. */
const fadeFactor = 10;

export interface UtilizationParameters {
  readonly queueDepthThreshold: number;
  readonly kvCacheUtilThreshold: number;
  readonly metricsStalenessThreshold: string;
  readonly headroom: number;
}

export class UtilizationDetector implements SaturationDetector {
  readonly #queueDepthThreshold: number;
  readonly #kvCacheUtilThreshold: number;
  readonly #stalenessMs: number;
  readonly #headroom: number;

  constructor(parameters: UtilizationParameters) {
    this.#queueDepthThreshold = parameters.queueDepthThreshold;
    this.#kvCacheUtilThreshold = parameters.kvCacheUtilThreshold;
    this.#stalenessMs = parseDuration(parameters.metricsStalenessThreshold) ?? 0;
    this.#headroom = parameters.headroom;
  }

  saturation(endpoints: Endpoints, nowMs: number): number {
    if (endpoints.length === 0) return 1;
    let sum = 0;
    for (const endpoint of endpoints) sum += this.#of(endpoint, nowMs);
    return sum / endpoints.length;
  }

  /** Endpoints within both thresholds, each raised by the headroom, whose metrics still say something; all of them when there is none. */
  filter(cycle: { readonly nowMs: number }, endpoints: Endpoints): Endpoints {
    const limit = 1 + this.#headroom;
    const kept = endpoints.filter(
      (endpoint) => this.#isKnown(endpoint, cycle.nowMs) && this.#reported(endpoint) <= limit,
    );
    return kept.length === 0 || kept.length === endpoints.length ? endpoints : kept;
  }

  #of(endpoint: Endpoint, nowMs: number): number {
    if (!this.#isKnown(endpoint, nowMs)) return 1;
    const reported = this.#reported(endpoint);
    const staleMs = nowMs - endpoint.metrics.updatedAtMs - this.#stalenessMs;
    if (staleMs <= 0) return reported;
    const fade = staleMs / (this.#stalenessMs * (fadeFactor - 1));
    return reported + (1 - reported) * fade;
  }

  #reported({ metrics }: Endpoint): number {
    return Math.max(
      metrics.waitingRequests / this.#queueDepthThreshold,
      metrics.kvCacheUsage / this.#kvCacheUtilThreshold,
    );
  }

  #isKnown({ metrics }: Endpoint, nowMs: number): boolean {
    return nowMs - metrics.updatedAtMs < this.#stalenessMs * fadeFactor;
  }
}

export const utilizationDetector: PluginDefinition<UtilizationParameters, UtilizationDetector> = {
  type: "utilization-detector",
  kinds: ["saturation-detector", "filter"],
  summary:
    "Measures how close the pool is to its queue and KV cache thresholds; as a filter, keeps the endpoints below them.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      queueDepthThreshold: {
        type: "number",
        exclusiveMinimum: 0,
        default: 5,
        description: "Waiting requests at which an endpoint counts as saturated.",
      },
      kvCacheUtilThreshold: {
        type: "number",
        exclusiveMinimum: 0,
        maximum: 1,
        default: 0.8,
        description: "KV cache usage (0 to 1) at which an endpoint counts as saturated.",
      },
      metricsStalenessThreshold: {
        type: "string",
        default: "200ms",
        description:
          "Age from which on an endpoint's metrics begin to fade; at ten times this age it counts as saturated.",
      },
      headroom: {
        type: "number",
        minimum: 0,
        default: 0,
        description: "As a filter: the fraction by which an endpoint may exceed a threshold and still be kept.",
      },
    },
  },
  validate: ({ metricsStalenessThreshold }) => {
    const ms = parseDuration(metricsStalenessThreshold);
    return ms === undefined || ms <= 0 ? ["metricsStalenessThreshold must be a positive duration such as 200ms"] : [];
  },
  create: (parameters) => new UtilizationDetector(parameters),
};
