/** Prefers the shortest waiting queue, relative to the candidates: (max − q) / (max − min). */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";
import { scoreLowest } from "./believed-signal.ts";

class QueueScorer implements Scorer {
  score(cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    scoreLowest(cycle, endpoints, "waitingRequests", scores);
  }
}

export const queueScorer: PluginDefinition<object, Scorer> = {
  type: "queue-scorer",
  kinds: ["scorer"],
  summary:
    "Prefers the shortest waiting queue: (max − q) / (max − min) over the candidates, 1 for all when they are equal; old readings fade toward the mean.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new QueueScorer(),
};
