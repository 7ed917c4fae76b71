/** Every plugin type this version has, and those of the reference it knows but does not have. The only file that lists them. */
import type { PluginRegistry } from "../config/complete-config.ts";
import { dataPlugins } from "../data/data-plugins.ts";
import type { PluginDefinition } from "../data/plugin.ts";
import { approxPrefixCacheProducerDefinition } from "../data/producers/approx-prefix-cache-producer.ts";
import { inflightLoadProducerDefinition } from "../data/producers/inflight-load-producer.ts";
import { precisePrefixCacheProducerDefinition } from "../data/producers/precise-prefix-cache-producer.ts";
import { precisePrefixCacheScorerDefinition } from "../data/producers/precise-prefix-cache-scorer.ts";
import { sessionIdProducerDefinition } from "../data/producers/session-id-producer.ts";
import { tokenProducerDefinition } from "../data/producers/token-producer.ts";
import { concurrencyDetector } from "../flow-control/concurrency-detector.ts";
import { utilizationDetector } from "../flow-control/utilization-detector.ts";
import { dynamoPrefillRouterDefinition } from "../prefill-router/plugin/dynamo-prefill-router-plugin.ts";
import { routerScorerDefinitions } from "../prefill-router/plugin/go-generation/router-scorers.ts";
import { parserTypes } from "../request/parser-set.ts";
import { builtinPlugins, deprecatedTypes, knownUnbuilt } from "../scheduling/builtin.ts";

/** A parser has no state or parameters: the parser set makes it from its type. */
const parsers: readonly PluginDefinition[] = parserTypes.map((type) => ({
  type,
  kinds: ["parser"],
  summary: "Reads one family of request bodies.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => ({ type }),
}));

const producers = [
  approxPrefixCacheProducerDefinition,
  inflightLoadProducerDefinition,
  precisePrefixCacheProducerDefinition,
  precisePrefixCacheScorerDefinition,
  sessionIdProducerDefinition,
  tokenProducerDefinition,
] as readonly unknown[] as readonly PluginDefinition[];

export function createPluginRegistry(): PluginRegistry {
  const definitions: readonly PluginDefinition[] = [
    ...builtinPlugins,
    ...(dataPlugins as readonly PluginDefinition[]),
    ...parsers,
    ...producers,
    dynamoPrefillRouterDefinition as unknown as PluginDefinition,
    ...(routerScorerDefinitions as readonly PluginDefinition[]),
    utilizationDetector as PluginDefinition,
    concurrencyDetector as PluginDefinition,
  ];
  const byType = new Map(definitions.map((definition) => [definition.type, definition]));
  return {
    get: (type) => byType.get(type),
    types: [...byType.keys()].sort(),
    unbuilt: knownUnbuilt,
    deprecated: new Map([
      ...deprecatedTypes,
      ["label-filter", { use: "by-label", note: "the name of Dynamo's picker in Go; use label-selector-filter" }],
      ["tokenizer", { use: "token-producer", note: "it is called token-producer" }],
    ]),
  };
}
