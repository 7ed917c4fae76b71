/** A configuration after validation and defaults: frozen, nothing optional that code would have to default again. */
import type { PluginDefinition } from "../scheduling/contracts.ts";

export interface PluginEntry {
  readonly name: string;
  readonly type: string;
  readonly definition: PluginDefinition;
  /** Complete: the schema's defaults are filled in. */
  readonly parameters: Readonly<Record<string, unknown>>;
}

export interface ProfileEntry {
  readonly name: string;
  readonly plugins: readonly { readonly pluginRef: string; readonly weight: number }[];
}

export interface SourceEntry {
  readonly pluginRef: string;
  readonly extractors: readonly string[];
}

export interface CompleteConfig {
  readonly featureGates: ReadonlyMap<string, boolean>;
  /** Every instance, the injected ones included; producers before those that read from them. */
  readonly plugins: readonly PluginEntry[];
  readonly profiles: readonly ProfileEntry[];
  readonly profileHandler: string;
  readonly parsers: readonly string[];
  readonly sources: readonly SourceEntry[];
  readonly discovery: string | undefined;
  readonly saturationDetector: string;
  readonly warnings: readonly string[];
}

/** The configuration cannot be used: every fault found, each with its path. */
export class ConfigError extends Error {
  readonly code = "INVALID_CONFIG";
  readonly faults: readonly string[];
  constructor(source: string, faults: readonly string[]) {
    super(
      `${source}: ${faults.length === 1 ? "1 fault" : `${faults.length} faults`}\n${faults.map((fault) => `  ${fault}`).join("\n")}`,
    );
    this.name = "ConfigError";
    this.faults = faults;
  }
}

/** The plugin types that exist, and those of the reference that are known but not built. Handed in by the composition root. */
export interface PluginRegistry {
  get(type: string): PluginDefinition | undefined;
  readonly types: readonly string[];
  /** Type → what it waits for. */
  readonly unbuilt: ReadonlyMap<string, string>;
  /** Types that are accepted under another name, with the reason shown as a warning. */
  readonly deprecated: ReadonlyMap<string, { readonly use: string; readonly note: string }>;
}
