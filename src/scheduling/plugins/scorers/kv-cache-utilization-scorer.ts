/** Prefers the emptiest KV cache: 1 − usage. An endpoint never scraped scores as the mean of those that were. */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";
import { wasScraped } from "./spread.ts";

class KvCacheUtilizationScorer implements Scorer {
  score(_cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    let sum = 0;
    let known = 0;
    let i = 0;
    for (const endpoint of endpoints) {
      const metrics = endpoint.metrics;
      if (wasScraped(metrics)) {
        sum += metrics.kvCacheUsage;
        known += 1;
      }
      scores[i++] = 1 - metrics.kvCacheUsage;
    }
    if (known === i || known === 0) return;
    const neutral = 1 - sum / known;
    i = 0;
    for (const endpoint of endpoints) {
      if (!wasScraped(endpoint.metrics)) scores[i] = neutral;
      i += 1;
    }
  }
}

export const kvCacheUtilizationScorer: PluginDefinition<object, Scorer> = {
  type: "kv-cache-utilization-scorer",
  kinds: ["scorer"],
  summary: "Prefers the emptiest KV cache: 1 − usage; an endpoint never scraped counts as the mean.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new KvCacheUtilizationScorer(),
};
