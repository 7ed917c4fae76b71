/**
 * A scorer of your own, in one file: prefers the endpoints that cost least, by a label that says what an hour of them costs. With a small
 * weight it breaks ties between idle endpoints; with a large one it fills the cheap machines first.
 */
import type { Cycle, Endpoints, PluginContext, PluginDefinition, Scorer } from "signalbox/plugin";

interface Parameters {
  readonly label: string;
  readonly unlabelledCost: number;
}

class CheapestFirstScorer implements Scorer {
  readonly #label: string;
  readonly #unlabelledCost: number;
  /** Label values repeat for every request: each is parsed once. A pool has a handful of prices. */
  readonly #costs = new Map<string, number>();

  constructor({ label, unlabelledCost }: Parameters, context: PluginContext) {
    this.#label = label;
    this.#unlabelledCost = unlabelledCost;
    context.log.debug({ label }, "prefers the cheapest endpoints");
  }

  /** (dearest − cost) / (dearest − cheapest): 1 for the cheapest, 0 for the dearest, 1 for all when they cost the same. */
  score(_cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    let cheapest = Number.POSITIVE_INFINITY;
    let dearest = Number.NEGATIVE_INFINITY;
    endpoints.forEach((endpoint, index) => {
      const cost = this.#costOf(endpoint.labels.get(this.#label));
      scores[index] = cost;
      cheapest = Math.min(cheapest, cost);
      dearest = Math.max(dearest, cost);
    });
    const range = dearest - cheapest;
    for (let index = 0; index < endpoints.length; index++) {
      scores[index] = range === 0 ? 1 : (dearest - (scores[index] ?? 0)) / range;
    }
  }

  #costOf(text: string | undefined): number {
    if (text === undefined) return this.#unlabelledCost;
    let cost = this.#costs.get(text);
    if (cost === undefined) {
      const value = Number(text);
      cost = Number.isFinite(value) && value >= 0 ? value : this.#unlabelledCost;
      if (this.#costs.size < 1000) this.#costs.set(text, cost);
    }
    return cost;
  }
}

const definition: PluginDefinition<Parameters, Scorer> = {
  type: "cheapest-first-scorer",
  kinds: ["scorer"],
  summary: "Prefers the endpoints whose label names the lowest cost.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      label: {
        type: "string",
        minLength: 1,
        default: "cost-per-hour",
        description: "Label of an endpoint that holds its cost, in any unit.",
      },
      unlabelledCost: {
        type: "number",
        minimum: 0,
        default: 0,
        description: "Cost of an endpoint without the label, or with one that is no number.",
      },
    },
  },
  create: (parameters, context) => new CheapestFirstScorer(parameters, context),
};

export default definition;
