/**
 * Scores a numeric attribute linearly, over a fixed range or over that of the candidates. An endpoint without the attribute scores 0 and
 * takes no part in the range; where all that have it are equal they score 1.
 */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";
import { attributeName, namingFaults, numberAt, producerParameter } from "./attribute.ts";

interface Range {
  readonly min: number;
  readonly max: number;
}

interface Parameters {
  readonly attributeKey: string;
  readonly producer?: string;
  readonly algorithm: {
    readonly type: "linear_lower_is_better" | "linear_higher_is_better";
    readonly normalization?: { readonly fixedRange?: Range; readonly adaptiveRange?: object };
  };
}

class EndpointAttributeScorer implements Scorer {
  readonly #attribute: string;
  readonly #lowerIsBetter: boolean;
  readonly #fixedRange: Range | undefined;

  constructor({ attributeKey, producer, algorithm }: Parameters) {
    this.#attribute = attributeName(attributeKey, producer);
    this.#lowerIsBetter = algorithm.type === "linear_lower_is_better";
    this.#fixedRange = algorithm.normalization?.fixedRange;
  }

  score(_cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    const { min, max } = this.#fixedRange ?? this.#rangeOf(endpoints);
    let i = 0;
    for (const endpoint of endpoints) {
      const value = numberAt(endpoint, this.#attribute);
      if (value !== undefined) scores[i] = this.#scoreOf(value, min, max);
      i += 1;
    }
  }

  #scoreOf(value: number, min: number, max: number): number {
    if (min === max) return 1;
    const share = Math.max(0, Math.min(1, (value - min) / (max - min)));
    return this.#lowerIsBetter ? 1 - share : share;
  }

  #rangeOf(endpoints: Endpoints): Range {
    let min = Number.POSITIVE_INFINITY;
    let max = Number.NEGATIVE_INFINITY;
    for (const endpoint of endpoints) {
      const value = numberAt(endpoint, this.#attribute);
      if (value === undefined) continue;
      if (value < min) min = value;
      if (value > max) max = value;
    }
    return { min, max };
  }
}

function faultsOf({ attributeKey, producer, algorithm }: Parameters): string[] {
  const faults = namingFaults("attributeKey", attributeKey, producer);
  const { fixedRange, adaptiveRange } = algorithm.normalization ?? {};
  if (fixedRange !== undefined && adaptiveRange !== undefined) {
    faults.push("algorithm.normalization: at most one of fixedRange and adaptiveRange");
  }
  if (fixedRange !== undefined && fixedRange.min >= fixedRange.max) {
    faults.push(
      `algorithm.normalization.fixedRange: min must be below max, not ${fixedRange.min} and ${fixedRange.max}`,
    );
  }
  return faults;
}

export const endpointAttributeScorer: PluginDefinition<Parameters, Scorer> = {
  type: "endpoint-attribute-scorer",
  kinds: ["scorer"],
  summary: "Scores a numeric endpoint attribute linearly over a fixed range or that of the candidates.",
  parameters: {
    type: "object",
    additionalProperties: false,
    required: ["attributeKey", "algorithm"],
    properties: {
      attributeKey: { type: "string", minLength: 1, description: "Endpoint attribute to read." },
      producer: producerParameter,
      algorithm: {
        type: "object",
        additionalProperties: false,
        required: ["type"],
        description: "How the value becomes a score.",
        properties: {
          type: {
            enum: ["linear_lower_is_better", "linear_higher_is_better"],
            description: "Which end of the range scores 1.",
          },
          normalization: {
            type: "object",
            additionalProperties: false,
            description: "Range the score runs over; adaptiveRange when neither is given.",
            properties: {
              adaptiveRange: {
                type: "object",
                additionalProperties: false,
                properties: {},
                description: "The range of the candidates of each decision.",
              },
              fixedRange: {
                type: "object",
                additionalProperties: false,
                required: ["min", "max"],
                description: "A range known beforehand; values outside are clamped.",
                properties: {
                  min: { type: "number", description: "Lower end, in the attribute's unit." },
                  max: { type: "number", description: "Upper end, in the attribute's unit." },
                },
              },
            },
          },
        },
      },
    },
  },
  validate: faultsOf,
  create: (parameters) => new EndpointAttributeScorer(parameters),
};
