/**
 * Settings of the PrefillRouter, from Dynamo's environment variables and the plugin's parameters, which go before them; and what one selection
 * reads of them for its leg and its request.
 */
import { type Environment, routerSettingsFromEnvironment, type SettingsRead } from "./settings/environment.ts";
import { routerSettingsFromParameters } from "./settings/parameters.ts";
import { type RouterConfig, type RouterSettings, settings } from "./settings/setting-table.ts";
import { faultsBetween } from "./settings/settings-check.ts";
import type { BusyThresholds } from "./stage/overload.ts";

export type { RouterConfig, RouterSettings } from "./settings/setting-table.ts";

/** Per-request overrides; undefined keeps the configured value. */
export interface RouterConfigOverride {
  readonly overlapScoreCredit?: number | undefined;
  readonly prefillLoadScale?: number | undefined;
  readonly routerTemperature?: number | undefined;
  readonly assumeKvReuse?: boolean | undefined;
  readonly trackPrefillTokens?: boolean | undefined;
  readonly sharedCacheMultiplier?: number | undefined;
}

/** What one selection reads. */
export interface StageSettings {
  readonly overlapScoreCredit: number;
  readonly overlapScoreCreditDecay: number;
  readonly prefillLoadScale: number;
  readonly decodeActiveRequestWeight: number;
  readonly hostCacheHitWeight: number;
  readonly diskCacheHitWeight: number;
  readonly sharedCacheMultiplier: number;
  readonly temperature: number;
  readonly assumeKvReuse: boolean;
  readonly trackPrefillTokens: boolean;
  readonly trackActiveBlocks: boolean;
}

export interface ConfigRead {
  readonly config: RouterConfig;
  /** To be logged. */
  readonly warnings: readonly string[];
  /** The process must not start with any. */
  readonly faults: readonly string[];
}

export const defaultRouterConfig: RouterConfig = completed([]);

/** Environment, then parameters; what neither names has Dynamo's default. */
export function routerConfigFromEnvironment(
  environment: Environment,
  parameters: Readonly<Record<string, unknown>> = {},
): ConfigRead {
  return combined([routerSettingsFromEnvironment(environment), routerSettingsFromParameters(parameters)]);
}

/** The configuration with settings of a later source, e.g. the policy file, laid over it. */
export function withSettings(config: RouterConfig, later: SettingsRead): ConfigRead {
  return combined([{ settings: config, warnings: [], faults: [] }, later]);
}

function combined(sources: readonly SettingsRead[]): ConfigRead {
  const config = completed(sources.map((source) => source.settings));
  return {
    config,
    warnings: sources.flatMap((source) => source.warnings),
    faults: [...sources.flatMap((source) => source.faults), ...faultsBetween(config)],
  };
}

function completed(sources: readonly RouterSettings[]): RouterConfig {
  const defaults = Object.fromEntries(settings.map(([name, setting]) => [name, setting.defaultValue]));
  return Object.freeze(Object.assign(defaults, ...sources)) as RouterConfig;
}

/** Which leg of a plan is selected. `decode` is the one after a remote prefill. */
export type SettingsLeg = "aggregated" | "prefill" | "decode";

/**
 * The settings of each leg, with a request's overrides. The prefill stage counts no blocks. A decode leg follows load alone: cached prefixes
 * count only where conditional disaggregation may send whole requests there, no block is shared and no prompt token waits.
 */
export function createSettingsOf(
  config: RouterConfig,
): (leg: SettingsLeg, override: RouterConfigOverride | undefined) => StageSettings {
  const aggregated = stageSettings(config);
  const legs: Readonly<Record<SettingsLeg, StageSettings>> = {
    aggregated,
    prefill: { ...aggregated, trackActiveBlocks: false },
    decode: applyOverride(aggregated, decodeLegOverride(config)),
  };
  return (leg, override) => {
    if (override === undefined) return legs[leg];
    const settingsOfLeg = applyOverride(legs[leg], override);
    return leg === "decode" ? applyOverride(settingsOfLeg, decodeLegOverride(config)) : settingsOfLeg;
  };
}

/** What a decode leg after a remote prefill overrides, whatever its request says. */
export function decodeLegOverride(config: RouterConfig): RouterConfigOverride {
  return {
    overlapScoreCredit: config.conditionalDisaggEnabled ? undefined : 0,
    assumeKvReuse: false,
    trackPrefillTokens: false,
  };
}

export function stageSettings(config: RouterConfig): StageSettings {
  return {
    overlapScoreCredit: config.overlapScoreCredit,
    overlapScoreCreditDecay: config.overlapScoreCreditDecay,
    prefillLoadScale: config.prefillLoadScale,
    decodeActiveRequestWeight: config.decodeActiveRequestWeight,
    hostCacheHitWeight: config.hostCacheHitWeight,
    diskCacheHitWeight: config.diskCacheHitWeight,
    sharedCacheMultiplier: config.sharedCacheMultiplier ?? (config.sharedCacheType === "hicache" ? 0.5 : 0),
    temperature: config.routerTemperature,
    assumeKvReuse: config.routerAssumeKvReuse,
    trackPrefillTokens: config.routerTrackPrefillTokens,
    trackActiveBlocks: config.routerTrackActiveBlocks,
  };
}

/** An override out of its range counts as absent; `parseOverride` refuses one where a client can be told. */
export function applyOverride(base: StageSettings, override: RouterConfigOverride): StageSettings {
  const valid = (value: number | undefined, most: number): number | undefined =>
    value !== undefined && Number.isFinite(value) && value >= 0 && value <= most ? value : undefined;
  return {
    ...base,
    overlapScoreCredit: valid(override.overlapScoreCredit, Number.MAX_VALUE) ?? base.overlapScoreCredit,
    prefillLoadScale: valid(override.prefillLoadScale, Number.MAX_VALUE) ?? base.prefillLoadScale,
    temperature: valid(override.routerTemperature, Number.MAX_VALUE) ?? base.temperature,
    sharedCacheMultiplier: valid(override.sharedCacheMultiplier, 1) ?? base.sharedCacheMultiplier,
    assumeKvReuse: override.assumeKvReuse ?? base.assumeKvReuse,
    trackPrefillTokens: override.trackPrefillTokens ?? base.trackPrefillTokens,
  };
}

export type OverrideRead =
  | { readonly kind: "override"; readonly override: RouterConfigOverride }
  | { readonly kind: "invalid"; readonly message: string };

/** A request's `router_config_override`, in Dynamo's spelling, the deprecated overlap_score_weight included. Unknown members are ignored, as there. */
export function parseOverride(value: unknown): OverrideRead {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return { kind: "invalid", message: "router_config_override must be an object" };
  }
  const members = value as Readonly<Record<string, unknown>>;
  for (const [member, most] of overrideNumbers) {
    const number = members[member] ?? undefined;
    if (number === undefined) continue;
    if (typeof number !== "number" || !(number >= 0 && number <= most)) {
      const range = most === 1 ? "between 0 and 1" : "finite and not negative";
      return { kind: "invalid", message: `router_config_override.${member} must be ${range}` };
    }
  }
  for (const member of ["assume_kv_reuse", "track_prefill_tokens"]) {
    const truth = members[member] ?? undefined;
    if (truth !== undefined && typeof truth !== "boolean") {
      return { kind: "invalid", message: `router_config_override.${member} must be true or false` };
    }
  }
  const number = (member: string): number | undefined => (members[member] ?? undefined) as number | undefined;
  const truth = (member: string): boolean | undefined => (members[member] ?? undefined) as boolean | undefined;
  const weight = number("overlap_score_weight");
  return {
    kind: "override",
    override: {
      overlapScoreCredit: weight === 0 ? 0 : number("overlap_score_credit"),
      prefillLoadScale: weight ?? number("prefill_load_scale"),
      routerTemperature: number("router_temperature"),
      sharedCacheMultiplier: number("shared_cache_multiplier"),
      assumeKvReuse: truth("assume_kv_reuse"),
      trackPrefillTokens: truth("track_prefill_tokens"),
    },
  };
}

const overrideNumbers: readonly (readonly [member: string, most: number])[] = [
  ["overlap_score_credit", Number.MAX_VALUE],
  ["prefill_load_scale", Number.MAX_VALUE],
  ["overlap_score_weight", Number.MAX_VALUE],
  ["router_temperature", Number.MAX_VALUE],
  ["shared_cache_multiplier", 1],
];

export function busyThresholdsOf(config: RouterConfig): BusyThresholds {
  return {
    activeDecodeBlocks: config.activeDecodeBlocksThreshold,
    activePrefillTokens: config.activePrefillTokensThreshold,
    activePrefillTokensFraction: config.activePrefillTokensThresholdFrac,
  };
}
