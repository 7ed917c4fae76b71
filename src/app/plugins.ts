/** Every plugin type this version has, and those of the reference it knows but does not have. The only file that lists them. */
import type { PluginRegistry } from "../config/complete-config.ts";
import { fileDiscoveryPlugin } from "../data/discovery/file.ts";
import type { PluginDefinition } from "../data/plugin.ts";
import { parserTypes } from "../request/parser-set.ts";
import { builtinPlugins } from "../scheduling/builtin.ts";

/** A parser has no state or parameters: the parser set makes it from its type. */
const parsers: readonly PluginDefinition[] = parserTypes.map((type) => ({
  type,
  kinds: ["parser"],
  summary: "Reads one family of request bodies.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => ({ type }),
}));

export function createPluginRegistry(): PluginRegistry {
  const definitions: readonly PluginDefinition[] = [
    ...builtinPlugins,
    ...parsers,
    fileDiscoveryPlugin as PluginDefinition,
  ];
  const byType = new Map(definitions.map((definition) => [definition.type, definition]));
  return {
    get: (type) => byType.get(type),
    types: [...byType.keys()].sort(),
    unbuilt: new Map(),
    deprecated: new Map([["tokenizer", { use: "token-producer", note: "it is called token-producer" }]]),
  };
}
