/**
 * EndpointPickerConfig text → complete configuration, in stages: document → schema → plugins → what refers to them → defaults. Strict: all
 * faults of a stage are reported at once, each with its path; a stage runs only on what the one before has let through.
 */
import { type CompleteConfig, ConfigError, type PluginRegistry } from "./complete-config.ts";
import { defaultPlugins, defaultProfile, loadProducer } from "./defaults.ts";
import { readDocument } from "./document.ts";
import { fromGoGeneration } from "./go-generation.ts";
import { PluginSet } from "./plugin-set.ts";
import { completeProducers, inProducerOrder } from "./producers.ts";
import { completeHandler, completeProfiles } from "./profiles.ts";
import type { Findings, RawConfig } from "./raw-config.ts";
import { apiVersions, configSchema } from "./schema.ts";
import {
  checkFlowControl,
  completeDetector,
  completeDiscovery,
  completeGates,
  completeParsers,
  completeSources,
} from "./sections.ts";
import { validateAgainst } from "./validate.ts";

export interface LoadOptions {
  readonly registry: PluginRegistry;
  /** Folder that a plugin's `module` is relative to. */
  readonly folder: string;
  /** Shown in messages: the file's path, or "--config-text". */
  readonly source: string;
  /** Told of every module file the configuration names, before it is read, also when it is refused: an edit of one may mend it. */
  onModule?(path: string): Promise<void>;
}

/** Loads the text; undefined, or a text without content, is the default configuration. Throws ConfigError with every fault. */
export async function loadConfig(text: string | undefined, options: LoadOptions): Promise<CompleteConfig> {
  const findings: Findings = { faults: [], warnings: [] };
  const raw = fromGoGeneration(readRaw(text, options.source, findings), findings);
  const plugins = new PluginSet(options.registry, findings);
  const gates = completeGates(raw.featureGates ?? [], findings);
  await plugins.addListed(raw.plugins ?? [], options.folder, async (path) => options.onModule?.(path));
  const sources = completeSources(raw.dataLayer ?? {}, plugins, findings);
  const parsers = completeParsers(raw, plugins, findings);
  const saturationDetector = completeDetector(raw, plugins, findings);
  checkFlowControl(raw.flowControl ?? {}, plugins, findings);
  const profiles = completeProfiles(raw.schedulingProfiles, plugins, findings);
  const profileHandler = completeHandler(profiles.length, plugins, findings);
  plugins.addDefault(loadProducer, "the picker");
  completeProducers(plugins, findings);
  const discovery = completeDiscovery(raw.dataLayer ?? {}, plugins, findings);
  const ordered = inProducerOrder(plugins, findings);
  if (findings.faults.length > 0) throw new ConfigError(options.source, findings.faults);
  return deepFreeze({
    featureGates: gates,
    plugins: ordered.map(({ name, type, definition, parameters }) => ({ name, type, definition, parameters })),
    profiles,
    profileHandler,
    parsers,
    sources,
    discovery,
    saturationDetector,
    warnings: findings.warnings,
  });
}

function readRaw(text: string | undefined, source: string, findings: Findings): RawConfig {
  if (text === undefined) return structuredClone(defaultConfig);
  const { value, faults, warnings } = readDocument(text);
  if (faults.length > 0) throw new ConfigError(source, faults);
  findings.warnings.push(...warnings);
  if (value === undefined) {
    findings.warnings.push("the configuration is empty: the default one is used");
    return structuredClone(defaultConfig);
  }
  const invalid = validateAgainst(configSchema, value, "");
  if (invalid.length > 0) throw new ConfigError(source, invalid);
  const config = value as RawConfig;
  if (config.apiVersion === undefined) findings.warnings.push(`apiVersion is missing; taken for ${apiVersions[0]}`);
  else if (config.apiVersion !== apiVersions[0]) {
    findings.warnings.push(`apiVersion ${config.apiVersion} is deprecated; use ${apiVersions[0]}`);
  }
  if (config.kind === undefined) findings.warnings.push("kind is missing; taken for EndpointPickerConfig");
  return config;
}

const defaultConfig: RawConfig = {
  apiVersion: apiVersions[0],
  kind: "EndpointPickerConfig",
  plugins: defaultPlugins.map((plugin) => ({ ...plugin })),
  schedulingProfiles: [{ name: defaultProfile.name, plugins: defaultProfile.plugins.map((ref) => ({ ...ref })) }],
};

/** Plain objects and arrays only: a definition belongs to its module, and a map has no frozen form. */
function deepFreeze<Value>(value: Value): Value {
  if (Array.isArray(value)) for (const item of value) deepFreeze(item);
  else if (Object.prototype.toString.call(value) === "[object Object]") {
    for (const [key, member] of Object.entries(value as object)) if (key !== "definition") deepFreeze(member);
  } else return value;
  return Object.freeze(value);
}
