/** The sections that refer to plugins besides the profiles: data layer, request handler, saturation detector, feature gates, flow control. */
import type { PluginKind } from "../scheduling/contracts.ts";
import type { SourceEntry } from "./complete-config.ts";
import {
  defaultDetector,
  defaultExtractor,
  defaultParsers,
  defaultSource,
  fallbackParser,
  featureGates,
  flowControlPolicies,
  notificationSource,
} from "./defaults.ts";
import { didYouMean } from "./nearest-name.ts";
import type { PluginSet } from "./plugin-set.ts";
import type { Findings, RawBand, RawConfig, RawDataLayer, RawFlowControl } from "./raw-config.ts";

export function completeGates(listed: readonly string[], { faults }: Findings): ReadonlyMap<string, boolean> {
  const gates = new Map([...featureGates].map(([name, gate]) => [name, gate.byDefault]));
  const set = new Set<string>();
  for (const [index, text] of listed.entries()) {
    const path = `featureGates[${index}]`;
    const equals = text.indexOf("=");
    const name = equals < 0 ? text : text.slice(0, equals);
    const value = equals < 0 ? "true" : text.slice(equals + 1);
    const gate = featureGates.get(name);
    if (gate === undefined) {
      const known = [...featureGates.keys()];
      faults.push(
        `${path}: unknown gate ${JSON.stringify(name)}${didYouMean(name, known)}; expected one of ${known.join(", ")}`,
      );
    } else if (value !== "true" && value !== "false") {
      faults.push(`${path}: ${JSON.stringify(text)} should be "${name}", "${name}=true" or "${name}=false"`);
    } else if (set.has(name)) faults.push(`${path}: ${name} is set already`);
    else if (value === "true" && gate.unbuilt !== undefined) {
      faults.push(`${path}: ${name} cannot be switched on: ${gate.unbuilt}`);
    } else gates.set(name, value === "true");
    set.add(name);
  }
  return gates;
}

/** A metrics source under any name counts as the metrics source: a second one beside it would scrape every endpoint twice. */
export function completeSources(layer: RawDataLayer, plugins: PluginSet, { faults }: Findings): readonly SourceEntry[] {
  const injects = layer.injectDefaults !== false;
  const listed = new Set<string>();
  let hasMetrics = false;
  const sources = (layer.sources ?? []).flatMap((source, index) => {
    const place = `dataLayer.sources[${index}]`;
    const entry = plugins.resolve(source.pluginRef, `${place}.pluginRef`, ["data-source"]);
    const listeners: readonly PluginKind[] =
      entry?.type === notificationSource ? ["extractor", "data-producer"] : ["extractor"];
    if (listed.has(source.pluginRef)) faults.push(`${place}.pluginRef: ${source.pluginRef} is listed already`);
    listed.add(source.pluginRef);
    const extractors = (source.extractors ?? []).map(({ pluginRef }, position) => {
      plugins.resolve(pluginRef, `${place}.extractors[${position}].pluginRef`, listeners);
      return pluginRef;
    });
    const isMetrics = entry?.type === defaultSource;
    hasMetrics ||= isMetrics;
    if (isMetrics && extractors.length === 0 && injects) extractors.push(plugins.addDefault(defaultExtractor, place));
    // What hears of endpoints hears of them without being listed, and nothing is polled.
    return entry?.type === notificationSource ? [] : [{ pluginRef: source.pluginRef, extractors }];
  });
  if (!injects || hasMetrics) return sources;
  const source = plugins.addDefault(defaultSource, "dataLayer");
  return [{ pluginRef: source, extractors: [plugins.addDefault(defaultExtractor, "dataLayer")] }, ...sources];
}

export function completeDiscovery(layer: RawDataLayer, plugins: PluginSet, { faults }: Findings): string | undefined {
  for (const key of ["peerDiscovery", "crossReplicaSyncerPluginRef", "crossReplicaSyncInterval"] as const) {
    if (layer[key] !== undefined) faults.push(`dataLayer.${key}: state shared between pickers is not built yet`);
  }
  if (layer.discovery === undefined) return undefined;
  const { pluginRef } = layer.discovery;
  plugins.resolve(pluginRef, "dataLayer.discovery.pluginRef", ["discovery"]);
  return pluginRef;
}

/** Types of parsers: they have no state, so naming a type is as good as listing it in plugins. */
export function completeParsers(raw: RawConfig, plugins: PluginSet, findings: Findings): readonly string[] {
  const current = raw.requestHandler?.parsers;
  const listed = current !== undefined && current.length > 0 ? current : undefined;
  if (raw.parser !== undefined) {
    const unused = listed === undefined ? "" : "; requestHandler.parsers is used";
    findings.warnings.push(`parser is deprecated; use requestHandler.parsers${unused}`);
  }
  const refs = listed ?? (raw.parser === undefined ? undefined : [raw.parser]);
  if (refs === undefined) return defaultParsers;
  const types = refs.map(({ pluginRef }, index) => {
    const path = listed === undefined ? "parser.pluginRef" : `requestHandler.parsers[${index}].pluginRef`;
    const type = plugins.get(pluginRef) === undefined ? plugins.builtInOfKind(pluginRef, "parser") : undefined;
    return type ?? plugins.resolve(pluginRef, path, ["parser"])?.type ?? pluginRef;
  });
  const fallback = types.indexOf(fallbackParser);
  for (const [index, type] of types.entries()) {
    const isBehind = fallback >= 0 && index > fallback;
    if (!isBehind && types.indexOf(type) === index) continue;
    const why = isBehind ? `stands behind ${fallbackParser}, which takes everything` : "is listed twice";
    findings.warnings.push(`requestHandler.parsers[${index}]: ${type} ${why}`);
  }
  return types;
}

/** Name of the detector that admission asks. */
export function completeDetector(raw: RawConfig, plugins: PluginSet, findings: Findings): string {
  const current = raw.flowControl?.saturationDetector?.pluginRef;
  const old = raw.saturationDetector?.pluginRef;
  if (raw.saturationDetector !== undefined) {
    const unused = current === undefined ? "" : "; flowControl.saturationDetector is used";
    findings.warnings.push(`saturationDetector is deprecated; use flowControl.saturationDetector${unused}`);
  }
  const name = current ?? old;
  if (name === undefined) return plugins.addDefault(defaultDetector, "admission");
  const path = current === undefined ? "saturationDetector.pluginRef" : "flowControl.saturationDetector.pluginRef";
  if (plugins.get(name) === undefined && name === defaultDetector) return plugins.addDefault(name, path);
  plugins.resolve(name, path, ["saturation-detector"]);
  return name;
}

type PolicyKey = keyof typeof flowControlPolicies;

/** Checks what the schema cannot: band priorities, and that each policy is one that exists for its place. */
export function checkFlowControl(section: RawFlowControl, plugins: PluginSet, findings: Findings): void {
  const policy = (key: PolicyKey, name: string | undefined, path: string): void => {
    const known: readonly string[] = flowControlPolicies[key];
    if (name === undefined || known.includes(name) || plugins.isBroken(name)) return;
    findings.faults.push(
      `${path}.${key}: ${JSON.stringify(name)} is no ${policyWords[key]}${didYouMean(name, known)}; expected one of ${known.join(", ")}`,
    );
  };
  const band = (raw: RawBand | undefined, path: string): void => {
    policy("fairnessPolicyRef", raw?.fairnessPolicyRef, path);
    policy("orderingPolicyRef", raw?.orderingPolicyRef, path);
  };
  band(section.defaultPriorityBand, "flowControl.defaultPriorityBand");
  band(section.defaultNegativePriorityBand, "flowControl.defaultNegativePriorityBand");
  const priorities = new Set<number | undefined>();
  for (const [index, raw] of (section.priorityBands ?? []).entries()) {
    const path = `flowControl.priorityBands[${index}]`;
    band(raw, path);
    if (priorities.has(raw.priority)) findings.faults.push(`${path}.priority: ${raw.priority} has a band already`);
    priorities.add(raw.priority);
  }
  policy("usageLimitPolicyPluginRef", section.usageLimitPolicyPluginRef, "flowControl");
  if (Object.keys(section).some((key) => key !== "saturationDetector")) {
    findings.warnings.push("flowControl: queueing is not built yet; only saturationDetector has an effect");
  }
}

const policyWords: Readonly<Record<PolicyKey, string>> = {
  fairnessPolicyRef: "fairness policy",
  orderingPolicyRef: "ordering policy",
  usageLimitPolicyPluginRef: "usage limit policy",
};
