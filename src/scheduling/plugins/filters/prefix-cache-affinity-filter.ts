/**
 * Narrows the candidates to those that hold most of the prompt's prefix, unless they are so loaded that computing the prompt elsewhere
 * would start sooner. Never empties the candidates.
 */
import {
  type AttributeKey,
  type Cycle,
  type Endpoint,
  type Endpoints,
  type Filter,
  type PluginDefinition,
  type PrefixMatch,
  prefixMatchKey,
} from "../../contracts.ts";

interface Parameters {
  readonly affinityThreshold: number;
  readonly explorationProbability: number;
  readonly maxTTFTPenaltyMs: number;
  readonly ttftSource: "prefillThroughput" | "latencyPredictor";
  readonly peakPrefillThroughput: number;
  readonly prefixMatchInfoProducerName?: string;
}

class PrefixCacheAffinityFilter implements Filter {
  readonly #parameters: Parameters;
  readonly #key: AttributeKey<PrefixMatch>;

  constructor(parameters: Parameters) {
    this.#parameters = parameters;
    this.#key = prefixMatchKey(parameters.prefixMatchInfoProducerName ?? "approx-prefix-cache-producer");
  }

  filter(cycle: Cycle, endpoints: Endpoints): Endpoints {
    const { affinityThreshold, explorationProbability, maxTTFTPenaltyMs, peakPrefillThroughput } = this.#parameters;
    if (endpoints.length <= 1 || affinityThreshold <= 0) return endpoints;
    if (explorationProbability > 0 && cycle.random() < explorationProbability) return endpoints;
    const match = cycle.request.attribute(this.#key);
    if (match === undefined || match.totalBlocks === 0) return endpoints;

    const sticky: Endpoint[] = [];
    let stickyTokens = Number.POSITIVE_INFINITY;
    let otherTokens = Number.POSITIVE_INFINITY;
    for (const endpoint of endpoints) {
      const tokens = endpoint.load.tokens;
      if (match.matchedBlocks(endpoint) / match.totalBlocks >= affinityThreshold) {
        sticky.push(endpoint);
        stickyTokens = Math.min(stickyTokens, tokens);
      } else {
        otherTokens = Math.min(otherTokens, tokens);
      }
    }
    if (sticky.length === 0 || sticky.length === endpoints.length) return endpoints;
    const penaltyMs = ((stickyTokens - otherTokens) / peakPrefillThroughput) * 1000;
    return maxTTFTPenaltyMs > 0 && penaltyMs > maxTTFTPenaltyMs ? endpoints : sticky;
  }
}

function faultsOf({ ttftSource, maxTTFTPenaltyMs, peakPrefillThroughput }: Parameters): string[] {
  const faults: string[] = [];
  if (ttftSource === "latencyPredictor") {
    faults.push("ttftSource: latencyPredictor is not built yet (waits for predicted-latency-producer)");
  }
  if (maxTTFTPenaltyMs > 0 && peakPrefillThroughput === 0) {
    faults.push("peakPrefillThroughput: must be above 0 while maxTTFTPenaltyMs is");
  }
  return faults;
}

export const prefixCacheAffinityFilter: PluginDefinition<Parameters, Filter> = {
  type: "prefix-cache-affinity-filter",
  kinds: ["filter"],
  summary:
    "Keeps the endpoints that hold most of the prompt's prefix, unless their time to first token would be too much worse than the others'.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      affinityThreshold: {
        type: "number",
        maximum: 1,
        default: 0.8,
        description: "Share of the prompt's blocks from which an endpoint is kept; 0 or less switches the filter off.",
      },
      explorationProbability: {
        type: "number",
        minimum: 0,
        maximum: 1,
        default: 0,
        description: "Share of requests that skip the filter, so that other endpoints learn the prefix.",
      },
      maxTTFTPenaltyMs: {
        type: "number",
        minimum: 0,
        default: 18000,
        description:
          "Milliseconds by which the best kept endpoint may start later than the best other one; 0 always keeps.",
      },
      ttftSource: {
        enum: ["prefillThroughput", "latencyPredictor"],
        default: "prefillThroughput",
        description: "Where the time to first token comes from: tokens in flight over the throughput, or a predictor.",
      },
      peakPrefillThroughput: {
        type: "number",
        minimum: 0,
        default: 15928,
        description:
          "Prefill tokens per second of one endpoint (the default is the reference's: Qwen 32B on two H100).",
      },
      prefixMatchInfoProducerName: {
        type: "string",
        "x-producer": "approx-prefix-cache-producer",
        description: "Name of the data producer whose matches are read; unset, the only one configured.",
      },
      inFlightLoadProducerName: {
        type: "string",
        "x-producer": "inflight-load-producer",
        description: "Name of the producer that counts tokens in flight.",
      },
      latencyPredictionInfoProducerName: {
        type: "string",
        description: "Name of the latency predictor; read only with ttftSource latencyPredictor.",
      },
    },
  },
  needs: ["approx-prefix-cache-producer", "inflight-load-producer"],
  validate: faultsOf,
  create: (parameters) => new PrefixCacheAffinityFilter(parameters),
};
