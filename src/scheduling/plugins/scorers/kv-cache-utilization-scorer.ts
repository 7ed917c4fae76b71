/** Prefers the emptiest KV cache: 1 − usage. */
import type { Cycle, Endpoints, PluginDefinition, Scorer } from "../../contracts.ts";
import { readSignal } from "./believed-signal.ts";

class KvCacheUtilizationScorer implements Scorer {
  score(cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    readSignal(cycle, endpoints, "kvCacheUsage", scores);
    for (let i = 0; i < endpoints.length; i++) scores[i] = 1 - (scores[i] ?? 0);
  }
}

export const kvCacheUtilizationScorer: PluginDefinition<object, Scorer> = {
  type: "kv-cache-utilization-scorer",
  kinds: ["scorer"],
  summary: "Prefers the emptiest KV cache: 1 − usage; old readings fade toward the mean.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new KvCacheUtilizationScorer(),
};
