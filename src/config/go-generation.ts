/**
 * Configurations of the picker that Dynamo had in Go (up to 1.4), as configurations of ours: there a profile handler and scorers called the router;
 * here the router is the handler. Its names mean this only beside its own scorers: `disagg-profile-handler` alone is the reference picker's.
 */
import type { Findings, RawConfig, RawPlugin } from "./raw-config.ts";

/** Types that only that picker has. The router decides in their place. */
const routerScorers: ReadonlySet<string> = new Set([
  "dyn-prefill-scorer",
  "dyn-decode-scorer",
  "dyn-kv",
  "kv-aware-scorer",
]);
const handlers: ReadonlySet<string> = new Set(["disagg-profile-handler", "single-profile-handler"]);
const router = "dynamo-prefill-router";
const discovery = "dynamo-discovery";

/** The configuration itself where none of that picker's plugins is in it. Places of the plugins that stay do not change. */
export function fromGoGeneration(raw: RawConfig, findings: Findings): RawConfig {
  const listed = raw.plugins ?? [];
  const scorer = listed.find(({ type, module }) => routerScorers.has(type) && module === undefined);
  if (scorer === undefined) return raw;
  const { warnings } = findings;
  const finder = listed.find(({ type }) => type === discovery)?.name ?? discovery;
  const settings = finder === discovery ? {} : { parameters: { discovery: finder } };
  const plugins = listed.map((plugin, index): RawPlugin => {
    const place = `plugins[${index}]`;
    if (handlers.has(plugin.type)) {
      warnings.push(
        `${place}.type: ${plugin.type} is taken for ${router}, since ${scorer.type} stands beside it: it plans the prefill and the decode worker in one step and keeps their books`,
      );
      return { ...replaced(plugin, router, place, findings), ...settings };
    }
    if (!routerScorers.has(plugin.type)) return plugin;
    warnings.push(`${place}.type: ${plugin.type} has no vote any more: ${router} chooses`);
    return replaced(plugin, plugin.type, place, findings);
  });
  if (!plugins.some(({ type }) => type === router)) {
    plugins.push({ type: router, ...settings });
    warnings.push(`plugins: ${router} is added, which does what ${scorer.type} did`);
  }
  return { ...raw, plugins: withDiscovery(plugins, raw, findings), dataLayer: layerOf(finder, raw) };
}

/** Under the name it had, since profiles and others refer to it. */
function replaced(plugin: RawPlugin, type: string, place: string, { warnings }: Findings): RawPlugin {
  const keys = Object.keys(plugin.parameters ?? {});
  if (keys.length > 0) {
    warnings.push(`${place}.parameters: ${keys.join(", ")} have no effect; settings are ${router}'s, or DYN_ROUTER_*`);
  }
  return { name: plugin.name ?? plugin.type, type };
}

function withDiscovery(plugins: readonly RawPlugin[], raw: RawConfig, { warnings }: Findings): RawPlugin[] {
  if (raw.dataLayer?.discovery !== undefined || plugins.some(({ type }) => type === discovery)) return [...plugins];
  warnings.push(
    `dataLayer.discovery: ${discovery} is added, which finds the workers and, by --dynamo-frontend, their frontends`,
  );
  return [...plugins, { type: discovery }];
}

/** Endpoints are frontends: there are no engine metrics to scrape from them. */
function layerOf(pluginRef: string, { dataLayer = {} }: RawConfig): NonNullable<RawConfig["dataLayer"]> {
  return { injectDefaults: false, discovery: { pluginRef }, ...dataLayer };
}
