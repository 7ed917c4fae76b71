/**
 * The router's settings from Dynamo's environment variables. As in Dynamo, what cannot be read is ignored (here with a warning), while a value
 * out of range, or an unknown word where one of a few is expected, is a fault. An empty variable counts as unset.
 */
import type { Setting, SettingValue } from "./setting.ts";
import { type RouterSettings, type SettingName, settings, settingTable } from "./setting-table.ts";
import { faultOf, parseSetting, parseTruth } from "./setting-values.ts";

export interface SettingsRead {
  readonly settings: RouterSettings;
  /** To be logged. */
  readonly warnings: readonly string[];
  /** The process must not start. */
  readonly faults: readonly string[];
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** Deprecated names of the prefill weight, from when it was called so. */
const overlapWeightVariables = ["DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT", "DYN_OVERLAP_SCORE_WEIGHT"];
const conditionalVariable = "DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG";
const loadAwareVariable = "DYN_ROUTER_LOAD_AWARE";

/** What "load aware" stands for: routing by load alone, cached prefixes left out. */
const loadAware: RouterSettings = {
  overlapScoreCredit: 0,
  useKvEvents: false,
  routerTrackActiveBlocks: true,
  routerAssumeKvReuse: false,
  routerTrackPrefillTokens: true,
  useRemoteIndexer: false,
  serveIndexer: false,
  sharedCacheMultiplier: 0,
  sharedCacheType: "none",
  routerPredictedTtlSecs: undefined,
};

/** What the JSON of the conditional disaggregation variable may say. */
const conditionalFields: Readonly<Record<string, SettingName>> = {
  policy: "conditionalDisaggPolicy",
  eff_isl_threshold: "conditionalDisaggEffIslThreshold",
  eff_isl_ratio_threshold: "conditionalDisaggEffIslRatioThreshold",
  prefill_busy_threshold: "conditionalDisaggPrefillBusyThreshold",
  decode_busy_threshold: "conditionalDisaggDecodeBusyThreshold",
};

export function routerSettingsFromEnvironment(environment: Environment): SettingsRead {
  const found = new Map<SettingName, SettingValue>();
  const warnings: string[] = [];
  const faults: string[] = [];
  for (const [name, setting] of settings) {
    for (const variable of setting.environment) {
      const text = environment[variable];
      if (text === undefined || text === "") continue;
      const read = parseSetting(setting, text);
      if (read.kind === "unreadable") {
        const says = `${variable}=${text}: ${read.expected} expected`;
        if (setting.kind.kind === "choice" && setting.kind.isLenient !== true) faults.push(says);
        else warnings.push(`${says}; ignored`);
        continue;
      }
      const fault = faultOf(setting, read.value);
      if (fault === undefined) found.set(name, read.value);
      else faults.push(`${variable} ${fault}`);
      break;
    }
  }
  readOverlapWeight(environment, found, warnings, faults);
  readConditional(environment, found, faults);
  const isLoadAware = parseTruth(environment[loadAwareVariable] ?? "");
  const forced = isLoadAware.kind === "value" && isLoadAware.value === true ? loadAware : {};
  return { settings: { ...(Object.fromEntries(found) as RouterSettings), ...forced }, warnings, faults };
}

function readOverlapWeight(
  environment: Environment,
  found: Map<SettingName, SettingValue>,
  warnings: string[],
  faults: string[],
): void {
  const scale: Setting = settingTable.prefillLoadScale;
  for (const variable of overlapWeightVariables) {
    const text = environment[variable];
    if (text === undefined || text === "") continue;
    const read = parseSetting(scale, text);
    if (read.kind === "unreadable") {
      warnings.push(`${variable}=${text}: ${read.expected} expected; ignored`);
      continue;
    }
    warnings.push(`${variable} is deprecated; DYN_ROUTER_PREFILL_LOAD_SCALE is its successor`);
    const fault = faultOf(scale, read.value);
    if (fault === undefined) setOverlapWeight(found, read.value);
    else faults.push(`${variable} ${fault}`);
    return;
  }
}

/** The old weight scaled the whole prefill cost; at 0 it also left cached prefixes out. */
export function setOverlapWeight(found: Map<SettingName, SettingValue>, weight: SettingValue): void {
  found.set("prefillLoadScale", weight);
  if (weight === 0) found.set("overlapScoreCredit", 0);
}

function readConditional(environment: Environment, found: Map<SettingName, SettingValue>, faults: string[]): void {
  const text = environment[conditionalVariable];
  if (text === undefined || text === "") return;
  let members: unknown;
  try {
    members = JSON.parse(text);
  } catch {
    members = undefined;
  }
  if (typeof members !== "object" || members === null || Array.isArray(members)) {
    faults.push(`${conditionalVariable} must be a JSON object`);
    return;
  }
  for (const [member, value] of Object.entries(members)) {
    const name = conditionalFields[member];
    if (name === undefined) {
      faults.push(
        `${conditionalVariable} has an unknown member "${member}"; known are ${Object.keys(conditionalFields).join(", ")}`,
      );
      continue;
    }
    const setting: Setting = settingTable[name];
    if (value === null && setting.defaultValue === undefined) continue;
    const fault = faultOf(setting, value);
    if (fault === undefined) found.set(name, value as SettingValue);
    else faults.push(`${conditionalVariable}: ${member} ${fault}`);
  }
}
