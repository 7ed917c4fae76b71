/** Keeps the endpoints for which a numeric attribute compares with a threshold as configured. */
import type { Cycle, Endpoint, Endpoints, Filter, PluginDefinition } from "../../contracts.ts";
import { attributeName, namingFaults, numberAt, producerParameter } from "./attribute.ts";

type Operator = "LessThan" | "LessThanOrEqual" | "GreaterThan" | "GreaterThanOrEqual" | "Equal" | "NotEqual";

interface Parameters {
  readonly attribute: string;
  readonly producer?: string;
  readonly onMissing: "Pass" | "Fail";
  readonly fallbackOnEmpty: boolean;
  readonly algorithm: {
    readonly type: "threshold";
    readonly threshold: { readonly operator: Operator; readonly value: number };
  };
}

class EndpointAttributeFilter implements Filter {
  readonly #attribute: string;
  readonly #keepsMissing: boolean;
  readonly #fallbackOnEmpty: boolean;
  readonly #operator: Operator;
  readonly #threshold: number;

  constructor(parameters: Parameters) {
    this.#attribute = attributeName(parameters.attribute, parameters.producer);
    this.#keepsMissing = parameters.onMissing === "Pass";
    this.#fallbackOnEmpty = parameters.fallbackOnEmpty;
    this.#operator = parameters.algorithm.threshold.operator;
    this.#threshold = parameters.algorithm.threshold.value;
  }

  filter(_cycle: Cycle, endpoints: Endpoints): Endpoints {
    const kept: Endpoint[] = [];
    for (const endpoint of endpoints) {
      const value = numberAt(endpoint, this.#attribute);
      if (value === undefined ? this.#keepsMissing : compares(value, this.#operator, this.#threshold)) {
        kept.push(endpoint);
      }
    }
    if (kept.length === endpoints.length) return endpoints;
    return kept.length === 0 && this.#fallbackOnEmpty ? endpoints : kept;
  }
}

function compares(value: number, operator: Operator, threshold: number): boolean {
  switch (operator) {
    case "LessThan":
      return value < threshold;
    case "LessThanOrEqual":
      return value <= threshold;
    case "GreaterThan":
      return value > threshold;
    case "GreaterThanOrEqual":
      return value >= threshold;
    case "Equal":
      return value === threshold;
    case "NotEqual":
      return value !== threshold;
    default:
      return operator satisfies never;
  }
}

export const endpointAttributeFilter: PluginDefinition<Parameters, Filter> = {
  type: "endpoint-attribute-filter",
  kinds: ["filter"],
  summary: "Keeps the endpoints whose numeric attribute is on the right side of a threshold.",
  parameters: {
    type: "object",
    additionalProperties: false,
    required: ["attribute", "algorithm"],
    properties: {
      attribute: { type: "string", minLength: 1, description: "Endpoint attribute to read." },
      producer: producerParameter,
      onMissing: {
        enum: ["Pass", "Fail"],
        default: "Pass",
        description: "Whether an endpoint without the attribute is kept.",
      },
      fallbackOnEmpty: {
        type: "boolean",
        default: false,
        description: "Keep every endpoint when none passes; otherwise the request is refused with 429.",
      },
      algorithm: {
        type: "object",
        additionalProperties: false,
        required: ["type", "threshold"],
        description: "How the value is judged.",
        properties: {
          type: { enum: ["threshold"], description: "Comparison with one value." },
          threshold: {
            type: "object",
            additionalProperties: false,
            required: ["operator", "value"],
            description: "An endpoint is kept when `value(endpoint) operator value` is true.",
            properties: {
              operator: {
                enum: ["LessThan", "LessThanOrEqual", "GreaterThan", "GreaterThanOrEqual", "Equal", "NotEqual"],
                description: "Comparison of the endpoint's value with the threshold.",
              },
              value: { type: "number", description: "Threshold, in the attribute's unit." },
            },
          },
        },
      },
    },
  },
  validate: ({ attribute, producer }) => namingFaults("attribute", attribute, producer),
  create: (parameters) => new EndpointAttributeFilter(parameters),
};
