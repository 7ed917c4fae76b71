/** Prefers the fewest running requests, relative to the candidates: (max − r) / (max − min). */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";
import { scoreLowest } from "./believed-signal.ts";

class RunningRequestsSizeScorer implements Scorer {
  score(cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    scoreLowest(cycle, endpoints, "runningRequests", scores);
  }
}

export const runningRequestsSizeScorer: PluginDefinition<object, Scorer> = {
  type: "running-requests-size-scorer",
  kinds: ["scorer"],
  summary:
    "Prefers the fewest running requests: (max − r) / (max − min) over the candidates, 1 for all when they are equal; old readings fade toward the mean.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new RunningRequestsSizeScorer(),
};
