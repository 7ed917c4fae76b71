/**
 * Saturation from what this picker has sent and what has not ended, with no scrape between (the reference's concurrency-detector). Also a
 * filter that keeps the endpoints with room; it may leave none, which is a refusal.
 */
import type { Endpoint, Endpoints } from "../data/endpoint.ts";
import type { PluginDefinition } from "../data/plugin.ts";
import type { SaturationDetector } from "./saturation.ts";

export interface ConcurrencyParameters {
  readonly maxConcurrency: number;
  readonly maxTokenConcurrency: number;
  readonly concurrencyMode: "requests" | "tokens" | "hybrid";
  readonly headroom: number;
}

export class ConcurrencyDetector implements SaturationDetector {
  readonly #parameters: ConcurrencyParameters;

  constructor(parameters: ConcurrencyParameters) {
    this.#parameters = parameters;
  }

  saturation(endpoints: Endpoints, _nowMs: number): number {
    if (endpoints.length === 0) return 1;
    let requests = 0;
    let tokens = 0;
    for (const { load } of endpoints) {
      requests += load.requests;
      tokens += load.tokens;
    }
    return this.#use(requests / endpoints.length, tokens / endpoints.length);
  }

  /** Endpoints below their limit, raised by the headroom. */
  filter(_cycle: unknown, endpoints: Endpoints): Endpoints {
    const limit = 1 + this.#parameters.headroom;
    const hasRoom = ({ load }: Endpoint): boolean => this.#use(load.requests, load.tokens) < limit;
    return endpoints.every(hasRoom) ? endpoints : endpoints.filter(hasRoom);
  }

  #use(requests: number, tokens: number): number {
    const { concurrencyMode, maxConcurrency, maxTokenConcurrency } = this.#parameters;
    switch (concurrencyMode) {
      case "requests":
        return requests / maxConcurrency;
      case "tokens":
        return tokens / maxTokenConcurrency;
      case "hybrid":
        return Math.max(requests / maxConcurrency, tokens / maxTokenConcurrency);
      default:
        return concurrencyMode satisfies never;
    }
  }
}

export const concurrencyDetector: PluginDefinition<ConcurrencyParameters, ConcurrencyDetector> = {
  type: "concurrency-detector",
  kinds: ["saturation-detector", "filter"],
  summary:
    "Measures in-flight requests or tokens against a limit per endpoint; as a filter, keeps the endpoints with room.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      maxConcurrency: {
        type: "integer",
        minimum: 1,
        default: 100,
        description: "Requests in flight at which an endpoint is full.",
      },
      maxTokenConcurrency: {
        type: "integer",
        minimum: 1,
        default: 1_000_000,
        description: "Tokens in flight at which an endpoint is full.",
      },
      concurrencyMode: {
        type: "string",
        enum: ["requests", "tokens", "hybrid"],
        default: "requests",
        description: "What is counted; hybrid takes the worse of both.",
      },
      headroom: {
        type: "number",
        minimum: 0,
        default: 0,
        description: "As a filter: the fraction by which an endpoint may exceed its limit and still be kept.",
      },
    },
  },
  create: (parameters) => new ConcurrencyDetector(parameters),
};
