/** Scores 1 where an endpoint's label equals a request header's value. */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";

interface Parameters {
  readonly headerName: string;
  readonly labelKey: string;
}

class HeaderLabelAffinityScorer implements Scorer {
  readonly #header: string;
  readonly #label: string;

  constructor({ headerName, labelKey }: Parameters) {
    this.#header = headerName.toLowerCase();
    this.#label = labelKey;
  }

  score({ request }: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    const wanted = request.headers.get(this.#header);
    if (wanted === undefined || wanted === "") return;
    let i = 0;
    for (const { labels } of endpoints) {
      if (labels.get(this.#label) === wanted) scores[i] = 1;
      i += 1;
    }
  }
}

export const headerLabelAffinityScorer: PluginDefinition<Parameters, Scorer> = {
  type: "header-label-affinity-scorer",
  kinds: ["scorer"],
  summary: "Scores 1 where a label of the endpoint equals a header of the request.",
  parameters: {
    type: "object",
    additionalProperties: false,
    required: ["headerName", "labelKey"],
    properties: {
      headerName: { type: "string", minLength: 1, description: "Request header whose value is wanted." },
      labelKey: { type: "string", minLength: 1, description: "Endpoint label that must equal it." },
    },
  },
  create: (parameters) => new HeaderLabelAffinityScorer(parameters),
};
