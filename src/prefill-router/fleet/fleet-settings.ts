/**
 * Everything a router is set up with: environment, the plugin's parameters and the policy file, in rising order of precedence, each fault named.
 */
import { readFileSync } from "node:fs";
import { defaultMaxSessions } from "../affinity/session-table.ts";
import {
  applyOverride,
  busyThresholdsOf,
  createSettingsOf,
  decodeLegOverride,
  type RouterConfig,
  routerConfigFromEnvironment,
  type SettingsLeg,
  type StageSettings,
  withSettings,
} from "../config.ts";
import type { ConditionalDisaggregation } from "../plan/conditional-disaggregation.ts";
import { type PlanConfig, planDefaults, type SettingsOf } from "../plan/contracts.ts";
import { syntheticProfile } from "../policy/policy-class.ts";
import { parsePolicyConfig, type RouterPolicyConfig } from "../policy/policy-config.ts";
import { type ScoringParameters, scoringOf } from "../policy/worker-selection.ts";
import { loadPrefillLoad } from "../prefill-load/load-table.ts";
import type { PrefillLoadTable } from "../prefill-load/prefill-load-table.ts";
import type { Environment } from "../settings/environment.ts";
import { routerSettingsFromPolicy } from "../settings/parameters.ts";
import { effectlessSettings, faultsWithoutDiscovery, substitutions } from "../settings/settings-check.ts";
import type { BusyThresholds } from "../stage/overload.ts";
import { readTrackingHash, type TrackingHash } from "../stage/tracking-hash.ts";

export interface FleetSettings {
  readonly config: RouterConfig;
  readonly settingsOf: SettingsOf;
  readonly busyThresholds: BusyThresholds;
  /** Queue classes may differ from model to model. */
  planConfig(model: string, isDisaggEnforced: boolean): PlanConfig;
  /** For who can serve a request on its decode worker alone; undefined where the settings do not ask for it. */
  readonly conditional: ConditionalDisaggregation | undefined;
  /** What running blocks are counted by in the place of the public chain; undefined: by that. */
  readonly tracking: TrackingHash | undefined;
  /** How long prefills take; undefined: prompt tokens count in full. */
  readonly prefillLoad: PrefillLoadTable | undefined;
}

export interface FleetSettingsRead {
  readonly settings: FleetSettings;
  readonly warnings: readonly string[];
  readonly faults: readonly string[];
}

export function readFleetSettings(
  environment: Environment,
  parameters: Readonly<Record<string, unknown>>,
): FleetSettingsRead {
  const read = routerConfigFromEnvironment(environment, parameters);
  const warnings = [...read.warnings];
  const faults = [...read.faults];
  let { config } = read;
  const policy = readPolicy(config.routerPolicyConfig, faults);
  if (policy !== undefined && policy.router.size > 0) {
    const later = withSettings(config, routerSettingsFromPolicy("router", Object.fromEntries(policy.router)));
    warnings.push(...later.warnings);
    faults.push(...later.faults);
    config = later.config;
  }
  warnings.push(...effectlessSettings(config), ...substitutions(config));
  const prefillLoad = loadPrefillLoad(config, environment, faults);
  return { settings: settingsFrom(config, policy, prefillLoad, faults), warnings, faults };
}

/** For a router whose workers no discovery of Dynamo tells of. */
export function readSettingsWithoutDiscovery(
  environment: Environment,
  parameters: Readonly<Record<string, unknown>>,
): FleetSettingsRead {
  const read = readFleetSettings(environment, parameters);
  return { ...read, faults: [...read.faults, ...faultsWithoutDiscovery(read.settings.config)] };
}

/** Where load shrinks by itself, no event says that a rank has room again. Dynamo's. */
const decayingRecheckMs = 100;

function readPolicy(path: string | undefined, faults: string[]): RouterPolicyConfig | undefined {
  if (path === undefined) return undefined;
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    faults.push(
      `routerPolicyConfig: ${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
    return undefined;
  }
  const parsed = parsePolicyConfig(text);
  if (parsed.kind === "parsed") return parsed.config;
  faults.push(...parsed.faults.map((fault) => `${path}: ${fault}`));
  return undefined;
}

function settingsFrom(
  config: RouterConfig,
  policy: RouterPolicyConfig | undefined,
  prefillLoad: PrefillLoadTable | undefined,
  faults: string[],
): FleetSettings {
  const tracking = readTrackingHash(config);
  if (tracking.kind === "fault") faults.push(tracking.message);
  const queue = syntheticProfile(config.routerQueueThreshold, config.routerQueuePolicy);
  return {
    config,
    settingsOf: scoredSettings(config, policy, faults),
    busyThresholds: busyThresholdsOf(config),
    conditional: conditionalOf(config),
    tracking: tracking.kind === "keyed" ? tracking.hash : undefined,
    prefillLoad,
    planConfig: (model, isDisaggEnforced) => ({
      profile: policy?.profileOf(model) ?? queue,
      // The picker's frontends serve what they are told: in direct mode each request of a disaggregated set names both legs.
      conditional: undefined,
      affinity:
        config.sessionAffinityTtlSecs === undefined
          ? undefined
          : {
              ttlMs: config.sessionAffinityTtlSecs * 1000,
              mode: config.sessionAffinityMode,
              maxSessions: defaultMaxSessions,
            },
      isDisaggEnforced,
      activeRequestExpiryMs: config.activeRequestExpirySecs * 1000,
      queueRecheckMs: config.routerPrefillLoadModel === "none" ? planDefaults.queueRecheckMs : decayingRecheckMs,
      maxQueuedPlans: planDefaults.maxQueuedPlans,
    }),
  };
}

function conditionalOf(config: RouterConfig): ConditionalDisaggregation | undefined {
  if (!config.conditionalDisaggEnabled) return undefined;
  return {
    policy: config.conditionalDisaggPolicy,
    effIslThreshold: config.conditionalDisaggEffIslThreshold,
    effIslRatioThreshold: config.conditionalDisaggEffIslRatioThreshold,
    prefillBusyThreshold: config.conditionalDisaggPrefillBusyThreshold ?? config.routerQueueThreshold,
    decodeBusyThreshold: config.conditionalDisaggDecodeBusyThreshold,
  };
}

/** The settings of each leg with the scoring that the policy file gives its role. */
function scoredSettings(config: RouterConfig, policy: RouterPolicyConfig | undefined, faults: string[]): SettingsOf {
  const base = createSettingsOf(config);
  const own: Readonly<Record<SettingsLeg, string | undefined>> = {
    aggregated: undefined,
    prefill: config.routerPrefillPolicy,
    decode: config.routerDecodePolicy,
  };
  const scored = new Map<SettingsLeg, StageSettings>();
  for (const leg of ["aggregated", "prefill", "decode"] as const) {
    const scoring = scoringOf(policy?.workerSelection, leg, own[leg], config.routerWorkerSelectionPolicy);
    if (scoring.kind === "unknown") faults.push(scoring.message);
    if (scoring.kind !== "instance") continue;
    const settings = withScoring(base(leg, undefined), scoring.parameters);
    scored.set(leg, leg === "decode" ? applyOverride(settings, decodeLegOverride(config)) : settings);
  }
  if (scored.size === 0) return base;
  return (leg, override) => {
    const settings = scored.get(leg);
    if (settings === undefined) return base(leg, override);
    if (override === undefined) return settings;
    const overridden = applyOverride(settings, override);
    return leg === "decode" ? applyOverride(overridden, decodeLegOverride(config)) : overridden;
  };
}

function withScoring(settings: StageSettings, parameters: ScoringParameters): StageSettings {
  const set = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return { ...settings, ...Object.fromEntries(set) };
}
