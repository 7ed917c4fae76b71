/**
 * The scorers through which Dynamo's picker in Go called its router: named in its configurations, and without a vote here, where the router is the
 * profile handler. There, too, each gave every endpoint the same score.
 */
import type { PluginDefinition, Scorer } from "../../../scheduling/contracts.ts";
import { dynamoPrefillRouterType } from "../dynamo-prefill-router-plugin.ts";

const equal: Scorer = {
  score(_cycle, _endpoints, scores) {
    scores.fill(1);
  },
};

export const routerScorerDefinitions: readonly PluginDefinition<object, Scorer>[] = [
  "dyn-prefill-scorer",
  "dyn-decode-scorer",
  "dyn-kv",
  "kv-aware-scorer",
].map((type) => ({
  type,
  kinds: ["scorer"],
  summary: `Of Dynamo's picker in Go, accepted in its configurations: scores every endpoint alike, since ${dynamoPrefillRouterType} chooses.`,
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => equal,
}));
