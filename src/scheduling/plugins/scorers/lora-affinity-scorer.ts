/**
 * Prefers the endpoint on which the request's adapter is active, then one with a free slot, then one where it already waits. What was never
 * scraped is known to hold nothing and scores 0; when no candidate was scraped that is no preference.
 */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";

class LoraAffinityScorer implements Scorer {
  score({ request }: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    const adapter = request.targetModel;
    let i = 0;
    for (const { metrics } of endpoints) {
      const { activeAdapters, waitingAdapters, maxAdapters } = metrics;
      if (activeAdapters.has(adapter)) scores[i] = 1;
      else if (activeAdapters.size + waitingAdapters.size < maxAdapters) scores[i] = 0.8;
      else if (waitingAdapters.has(adapter)) scores[i] = 0.6;
      i += 1;
    }
  }
}

export const loraAffinityScorer: PluginDefinition<object, Scorer> = {
  type: "lora-affinity-scorer",
  kinds: ["scorer"],
  summary:
    "Scores 1 where the target model is an active LoRA adapter, 0.8 with a free slot, 0.6 where it waits, else 0.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new LoraAffinityScorer(),
};
