/**
 * The router's settings from documents: the plugin's parameters (camelCase, with a JSON Schema drawn from the table), and the policy file (Dynamo's
 * own spelling).
 */
import type { JsonSchema } from "../../data/plugin.ts";
import { type SettingsRead, setOverlapWeight } from "./environment.ts";
import type { Setting, SettingValue } from "./setting.ts";
import { type RouterSettings, type SettingName, settings, settingTable } from "./setting-table.ts";
import { canonical, faultOf } from "./setting-values.ts";

/** JSON Schema of each setting as a member of the plugin's parameters. */
export function settingSchemas(): Readonly<Record<string, JsonSchema>> {
  const schemas: Record<string, JsonSchema> = {};
  for (const [name, setting] of settings) schemas[name] = schemaOf(setting);
  schemas["overlapScoreWeight"] = {
    ...schemaOf(settingTable.prefillLoadScale),
    deprecated: true,
    description: "Old name of prefillLoadScale; 0 also sets overlapScoreCredit to 0.",
  };
  return schemas;
}

/** Reads parameters that the schema has let through; others give faults that name their path. */
export function routerSettingsFromParameters(parameters: Readonly<Record<string, unknown>>): SettingsRead {
  const found = new Map<SettingName, SettingValue>();
  const warnings: string[] = [];
  const faults: string[] = [];
  for (const [name, value] of Object.entries(parameters)) {
    if (value === undefined) continue;
    const isWeight = name === "overlapScoreWeight";
    const setting: Setting | undefined = isWeight
      ? settingTable.prefillLoadScale
      : Object.hasOwn(settingTable, name)
        ? settingTable[name as SettingName]
        : undefined;
    const fault = setting === undefined ? "is unknown" : faultOf(setting, value);
    if (setting === undefined || fault !== undefined) {
      faults.push(`${name} ${fault}`);
    } else if (!isWeight) {
      found.set(name as SettingName, canonical(setting, value));
    }
  }
  const weight = parameters["overlapScoreWeight"];
  if (typeof weight === "number" && faultOf(settingTable.prefillLoadScale, weight) === undefined) {
    warnings.push("overlapScoreWeight is deprecated; prefillLoadScale is its successor");
    setOverlapWeight(found, weight);
  }
  return { settings: Object.fromEntries(found) as RouterSettings, warnings, faults };
}

/** Members of the policy file's section for the router, at `path` of it; null unsets what may be unset. */
export function routerSettingsFromPolicy(path: string, members: Readonly<Record<string, unknown>>): SettingsRead {
  const found = new Map<SettingName, SettingValue>();
  const faults: string[] = [];
  for (const [member, value] of Object.entries(members)) {
    const entry = settings.find(([, setting]) => setting.field === member && setting.isPolicySetting === true);
    if (entry === undefined) {
      faults.push(`${path}.${member} is unknown`);
      continue;
    }
    const [name, setting] = entry;
    const isUnset = value === null && setting.defaultValue === undefined;
    const fault = isUnset ? undefined : faultOf(setting, value);
    if (fault === undefined) found.set(name, isUnset ? undefined : canonical(setting, value));
    else faults.push(`${path}.${member} ${fault}`);
  }
  return { settings: Object.fromEntries(found) as RouterSettings, warnings: [], faults };
}

function schemaOf(setting: Setting): JsonSchema {
  const { kind, defaultValue, environment } = setting;
  const description = environment.length === 0 ? setting.description : `${setting.description} ${environment[0]}`;
  const shared = defaultValue === undefined ? { description } : { description, default: defaultValue };
  switch (kind.kind) {
    case "number":
    case "integer":
      return {
        type: kind.kind,
        minimum: kind.min,
        ...(kind.max === undefined ? {} : { maximum: kind.max }),
        ...shared,
      };
    case "boolean":
      return { type: "boolean", ...shared };
    case "string":
      return { type: "string", minLength: 1, ...shared };
    case "choice":
      return { enum: [...kind.values, ...Object.keys(kind.aliases ?? {})], ...shared };
    default: {
      const never: never = kind;
      return never;
    }
  }
}
