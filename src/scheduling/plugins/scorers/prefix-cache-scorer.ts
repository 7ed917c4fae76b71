/**
 * Prefers the endpoint believed to hold most of the prompt's prefix: matched / total blocks, mixed with the square of the matched length
 * where that is given weight (attention grows with the square of the length). Without a match attribute every score is 0.
 */
import {
  type AttributeKey,
  type Cycle,
  type Endpoints,
  type PluginDefinition,
  type PrefixMatch,
  prefixMatchKey,
  type Scorer,
} from "../../contracts.ts";

interface Parameters {
  readonly prefixMatchInfoProducerName?: string;
  readonly matchLengthWeight: number;
  readonly matchLengthScaleTokens: number;
}

class PrefixCacheScorer implements Scorer {
  readonly #key: AttributeKey<PrefixMatch>;
  readonly #lengthWeight: number;
  readonly #scaleTokens: number;

  constructor(parameters: Parameters) {
    this.#key = prefixMatchKey(parameters.prefixMatchInfoProducerName ?? "approx-prefix-cache-producer");
    this.#lengthWeight = parameters.matchLengthWeight;
    this.#scaleTokens = parameters.matchLengthScaleTokens;
  }

  score(cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    const match = cycle.request.attribute(this.#key);
    if (match === undefined || match.totalBlocks === 0) return;
    const ratioScale = (1 - this.#lengthWeight) / match.totalBlocks;
    const lengthScale = match.blockSizeTokens / this.#scaleTokens;
    let i = 0;
    for (const endpoint of endpoints) {
      const blocks = match.matchedBlocks(endpoint);
      let score = blocks * ratioScale;
      if (this.#lengthWeight > 0) {
        const length = Math.min(1, blocks * lengthScale);
        score += this.#lengthWeight * length * length;
      }
      scores[i++] = score;
    }
  }
}

export const prefixCacheScorer: PluginDefinition<Parameters, Scorer> = {
  type: "prefix-cache-scorer",
  kinds: ["scorer"],
  summary:
    "Prefers the endpoint that holds most of the prompt's prefix: matched / total blocks, optionally mixed with the square of the matched length.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      prefixMatchInfoProducerName: {
        type: "string",
        "x-producer": "approx-prefix-cache-producer",
        description: "Name of the data producer whose matches are scored; unset, the only one configured.",
      },
      matchLengthWeight: {
        type: "number",
        minimum: 0,
        maximum: 1,
        default: 0,
        description: "Weight of the matched length against the matched share, 0 to 1.",
      },
      matchLengthScaleTokens: {
        type: "integer",
        exclusiveMinimum: 0,
        default: 8192,
        description: "Matched tokens at which the length counts in full; about the 95th percentile of prompt lengths.",
      },
    },
  },
  needs: ["approx-prefix-cache-producer"],
  create: (parameters) => new PrefixCacheScorer(parameters),
};
