/**
 * Prefers the endpoint with the fewest tokens in flight, this request's uncached prompt included: 1 − min(tokens, threshold) / threshold.
 * The counters are this picker's own and its replicas', so the score has no scrape lag.
 */
import { type Cycle, type Endpoints, type PluginDefinition, type Scorer, uncachedTokensKey } from "../../contracts.ts";

interface Parameters {
  readonly queueThresholdTokens: number;
}

class TokenLoadScorer implements Scorer {
  readonly #threshold: number;

  constructor({ queueThresholdTokens }: Parameters) {
    this.#threshold = queueThresholdTokens;
  }

  score({ request }: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    const uncached = request.attribute(uncachedTokensKey);
    const threshold = this.#threshold;
    let i = 0;
    for (const endpoint of endpoints) {
      const tokens = endpoint.load.tokens + (uncached === undefined ? 0 : uncached.uncachedTokens(endpoint));
      scores[i++] = 1 - Math.min(tokens, threshold) / threshold;
    }
  }
}

export const tokenLoadScorer: PluginDefinition<Parameters, Scorer> = {
  type: "token-load-scorer",
  kinds: ["scorer"],
  summary:
    "Prefers the fewest tokens in flight: 1 − min(in-flight tokens + this request's uncached tokens, threshold) / threshold.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      queueThresholdTokens: {
        type: "integer",
        exclusiveMinimum: 0,
        default: 4194304,
        description: "Tokens in flight from which an endpoint scores 0 (the default is 128 requests of 32K).",
      },
      inFlightLoadProducerName: {
        type: "string",
        "x-producer": "inflight-load-producer",
        description: "Name of the producer that counts tokens in flight.",
      },
    },
  },
  needs: ["inflight-load-producer"],
  create: (parameters) => new TokenLoadScorer(parameters),
};
