/** Keeps the endpoints whose labels match a Kubernetes label selector: every pair and every expression must hold; an empty one matches all. */
import type { Cycle, Endpoint, Endpoints, Filter, PluginDefinition } from "../../contracts.ts";
import { type EndpointTest, keptBy } from "./kept.ts";

interface Expression {
  readonly key: string;
  readonly operator: "In" | "NotIn" | "Exists" | "DoesNotExist";
  readonly values?: readonly string[];
}

interface Parameters {
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly matchExpressions?: readonly Expression[];
}

class LabelSelectorFilter implements Filter, EndpointTest {
  readonly #expressions: readonly Expression[];

  constructor({ matchLabels = {}, matchExpressions = [] }: Parameters) {
    const pairs = Object.entries(matchLabels).map(
      ([key, value]): Expression => ({ key, operator: "In", values: [value] }),
    );
    this.#expressions = [...pairs, ...matchExpressions];
  }

  filter(cycle: Cycle, endpoints: Endpoints): Endpoints {
    return keptBy(this, cycle.request, endpoints);
  }

  accepts({ labels }: Endpoint): boolean {
    for (const expression of this.#expressions) if (!holds(expression, labels)) return false;
    return true;
  }
}

/** As Kubernetes' labels.Requirement: NotIn also holds where the label is absent. */
function holds({ key, operator, values = [] }: Expression, labels: ReadonlyMap<string, string>): boolean {
  const value = labels.get(key);
  switch (operator) {
    case "In":
      return value !== undefined && values.includes(value);
    case "NotIn":
      return value === undefined || !values.includes(value);
    case "Exists":
      return value !== undefined;
    case "DoesNotExist":
      return value === undefined;
    default:
      return operator satisfies never;
  }
}

function faultsOf({ matchExpressions = [] }: Parameters): string[] {
  return matchExpressions.flatMap(({ operator, values = [] }, index) => {
    const takesValues = operator === "In" || operator === "NotIn";
    if (takesValues && values.length === 0)
      return [`matchExpressions[${index}].values: ${operator} needs at least one`];
    if (!takesValues && values.length > 0) return [`matchExpressions[${index}].values: ${operator} takes none`];
    return [];
  });
}

export const labelSelectorFilter: PluginDefinition<Parameters, Filter> = {
  type: "label-selector-filter",
  kinds: ["filter"],
  summary: "Keeps the endpoints whose labels match a Kubernetes label selector.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      matchLabels: {
        type: "object",
        additionalProperties: { type: "string" },
        description: "Label values that must all be equal.",
      },
      matchExpressions: {
        type: "array",
        description: "Requirements that must all hold.",
        items: {
          type: "object",
          additionalProperties: false,
          required: ["key", "operator"],
          properties: {
            key: { type: "string", minLength: 1, description: "Label the requirement is about." },
            operator: {
              enum: ["In", "NotIn", "Exists", "DoesNotExist"],
              description: "NotIn also holds where the label is absent.",
            },
            values: {
              type: "array",
              items: { type: "string" },
              description: "Values of In and NotIn; none for the others.",
            },
          },
        },
      },
    },
  },
  validate: faultsOf,
  create: (parameters) => new LabelSelectorFilter(parameters),
};
