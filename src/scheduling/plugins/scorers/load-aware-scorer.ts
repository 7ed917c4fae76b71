/** Scores 0.5 for an empty queue, falling to 0 at the threshold; old readings fade toward the mean. */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";
import { readSignal } from "./believed-signal.ts";

interface Parameters {
  readonly threshold: number;
}

class LoadAwareScorer implements Scorer {
  readonly #threshold: number;

  constructor({ threshold }: Parameters) {
    this.#threshold = threshold;
  }

  score(cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    const threshold = this.#threshold;
    readSignal(cycle, endpoints, "waitingRequests", scores);
    for (let i = 0; i < endpoints.length; i++) {
      scores[i] = 0.5 * (1 - Math.min(scores[i] ?? 0, threshold) / threshold);
    }
  }
}

export const loadAwareScorer: PluginDefinition<Parameters, Scorer> = {
  type: "load-aware-scorer",
  kinds: ["scorer"],
  summary: "Scores 0.5 for an empty waiting queue, falling linearly to 0 at the threshold.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      threshold: {
        type: "integer",
        exclusiveMinimum: 0,
        default: 128,
        description: "Waiting requests from which an endpoint scores 0.",
      },
    },
  },
  create: (parameters) => new LoadAwareScorer(parameters),
};
