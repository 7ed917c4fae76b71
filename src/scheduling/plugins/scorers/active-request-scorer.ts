/** Prefers the endpoint with the fewest requests in flight; those at or below the idle threshold score 1. No scrape lag: the counts are ours. */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";

interface Parameters {
  readonly idleThreshold: number;
  readonly maxBusyScore: number;
}

class ActiveRequestScorer implements Scorer {
  readonly #idleThreshold: number;
  readonly #maxBusyScore: number;

  constructor({ idleThreshold, maxBusyScore }: Parameters) {
    this.#idleThreshold = idleThreshold;
    this.#maxBusyScore = maxBusyScore;
  }

  score(_cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    let most = 0;
    for (const { load } of endpoints) if (load.requests > most) most = load.requests;
    let i = 0;
    for (const { load } of endpoints) {
      // A busy endpoint has more than idleThreshold ≥ 0 requests, so `most` is not 0 here.
      scores[i++] = load.requests <= this.#idleThreshold ? 1 : ((most - load.requests) / most) * this.#maxBusyScore;
    }
  }
}

export const activeRequestScorer: PluginDefinition<Parameters, Scorer> = {
  type: "active-request-scorer",
  kinds: ["scorer"],
  summary:
    "Prefers the fewest requests in flight: 1 at or below the idle threshold, else (max − count) / max · maxBusyScore.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      idleThreshold: {
        type: "integer",
        minimum: 0,
        default: 0,
        description: "Requests in flight up to which an endpoint is idle and scores 1.",
      },
      maxBusyScore: {
        type: "number",
        minimum: 0,
        maximum: 1,
        default: 1,
        description: "Highest score of an endpoint that is not idle.",
      },
      requestTimeout: {
        type: "string",
        deprecated: true,
        description: "Ignored: a request counts until it ends.",
      },
      inFlightLoadProducerName: {
        type: "string",
        "x-producer": "inflight-load-producer",
        description: "Name of the producer that counts requests in flight.",
      },
    },
  },
  needs: ["inflight-load-producer"],
  create: (parameters) => new ActiveRequestScorer(parameters),
};
