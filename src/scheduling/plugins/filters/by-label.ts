/** Keeps the endpoints whose label has one of the values; the form that the role filters are made of. */
import type { Cycle, Endpoint, Endpoints, Filter, PluginDefinition } from "../../contracts.ts";
import { type EndpointTest, keptBy } from "./kept.ts";

interface Parameters {
  readonly label: string;
  readonly validValues: readonly string[];
  readonly allowsNoLabel: boolean;
}

export class ByLabelFilter implements Filter, EndpointTest {
  readonly #label: string;
  readonly #validValues: ReadonlySet<string>;
  readonly #allowsNoLabel: boolean;

  constructor({ label, validValues, allowsNoLabel }: Parameters) {
    this.#label = label;
    this.#validValues = new Set(validValues);
    this.#allowsNoLabel = allowsNoLabel;
  }

  filter(cycle: Cycle, endpoints: Endpoints): Endpoints {
    return keptBy(this, cycle.request, endpoints);
  }

  accepts({ labels }: Endpoint): boolean {
    const value = labels.get(this.#label);
    return value === undefined ? this.#allowsNoLabel : this.#validValues.has(value);
  }
}

export const byLabel: PluginDefinition<Parameters, Filter> = {
  type: "by-label",
  kinds: ["filter"],
  summary: "Deprecated, use label-selector-filter: keeps the endpoints whose label has one of the values.",
  parameters: {
    type: "object",
    additionalProperties: false,
    required: ["label"],
    properties: {
      label: { type: "string", minLength: 1, description: "Label to look at." },
      validValues: { type: "array", items: { type: "string" }, default: [], description: "Values that are kept." },
      allowsNoLabel: { type: "boolean", default: false, description: "Whether endpoints without the label are kept." },
    },
  },
  validate: ({ validValues, allowsNoLabel }) =>
    validValues.length === 0 && !allowsNoLabel
      ? ["validValues: at least one is needed unless allowsNoLabel is true"]
      : [],
  create: (parameters) => new ByLabelFilter(parameters),
};
