/**
 * What AISimulate is asked about, from Dynamo's variables: DYN_AIS_PERF_CONFIG, the whole configuration, or the DYN_AIS_* that say the most common of it
 * one by one. The rules are those of Dynamo 1.6.1 (dynamo/common/configuration/groups/ais_perf_args.py); what AISimulate itself refuses it says.
 */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import type { Environment } from "../settings/environment.ts";

export const wholeVariable = "DYN_AIS_PERF_CONFIG";

interface Field {
  /** Ends the variable's name. */
  readonly name: string;
  /** In AISimulate's configuration; undefined for what only the simulated engine reads. */
  readonly member: string | undefined;
  readonly kind: "text" | "integer" | "rates";
}

const fields: readonly Field[] = [
  { name: "BACKEND", member: "backend", kind: "text" },
  { name: "SYSTEM", member: "system", kind: "text" },
  { name: "BACKEND_VERSION", member: "backend_version", kind: "text" },
  { name: "TP_SIZE", member: "tp", kind: "integer" },
  { name: "MODEL_PATH", member: "model", kind: "text" },
  { name: "MOE_TP_SIZE", member: "moe_tp_size", kind: "integer" },
  { name: "MOE_EP_SIZE", member: "moe_ep_size", kind: "integer" },
  { name: "ATTENTION_DP_SIZE", member: "attention_dp", kind: "integer" },
  { name: "NEXTN", member: "nextn", kind: "integer" },
  { name: "NEXTN_ACCEPT_RATES", member: undefined, kind: "rates" },
  { name: "MTP_SEED", member: undefined, kind: "integer" },
];

const required = ["backend", "system", "model", "worker_type"];

export type EstimatorConfig = Readonly<Record<string, unknown>>;

export type EstimatorConfigRead =
  | { readonly kind: "config"; readonly config: EstimatorConfig }
  | { readonly kind: "unset" }
  | { readonly kind: "faults"; readonly faults: readonly string[] };

/** The names of before 1.6, which Dynamo reads no more: where one is set, somebody expects it to count. */
export function renamedVariables(environment: Environment): readonly string[] {
  return fields.map(({ name }) => `DYN_AIC_${name}`).filter((variable) => isSet(environment[variable]));
}

/** An empty variable counts as unset. */
export function readEstimatorConfig(environment: Environment): EstimatorConfigRead {
  const faults: string[] = [];
  const single: Record<string, unknown> = {};
  let isAnySet = false;
  for (const { name, member, kind } of fields) {
    const variable = `DYN_AIS_${name}`;
    const text = environment[variable];
    if (text === undefined || text === "") continue;
    isAnySet ||= member !== undefined;
    const fault = faultOf(kind, text);
    if (fault !== undefined) faults.push(`${variable}=${text}: ${fault}`);
    else if (member !== undefined) single[member] = kind === "integer" ? Number(text.trim()) : text;
  }
  const whole = environment[wholeVariable];
  if (isSet(whole) && isAnySet) faults.push(`${wholeVariable} cannot be combined with DYN_AIS_* of single fields`);
  if (faults.length > 0) return { kind: "faults", faults };
  if (!isSet(whole)) return isAnySet ? complete({ worker_type: "aggregated", ...single }, "DYN_AIS_*") : unset;
  const members = wholeConfig(whole);
  return typeof members === "string"
    ? { kind: "faults", faults: [`${wholeVariable} ${members}`] }
    : complete(members, wholeVariable);
}

const unset: EstimatorConfigRead = { kind: "unset" };

function complete(config: EstimatorConfig, from: string): EstimatorConfigRead {
  const missing = required.filter((member) => !config[member]);
  if (missing.length === 0) return { kind: "config", config };
  return { kind: "faults", faults: [`${from} must say ${missing.join(", ")}`] };
}

/** JSON, or the path of a file with JSON or YAML; what is wrong with it, as text. */
function wholeConfig(text: string): EstimatorConfig | string {
  let members: unknown;
  try {
    members = text.trimStart().startsWith("{") ? JSON.parse(text) : parse(readFileSync(text, "utf8"));
  } catch (error) {
    return `cannot be read: ${error instanceof Error ? error.message : String(error)}`;
  }
  const isObject = typeof members === "object" && members !== null && !Array.isArray(members);
  return isObject ? (members as EstimatorConfig) : "must be an object";
}

function faultOf(kind: Field["kind"], text: string): string | undefined {
  if (kind === "integer") return /^[+-]?\d+$/.test(text.trim()) ? undefined : "a whole number expected";
  if (kind !== "rates") return undefined;
  const rates = text.split(",").filter((rate) => rate.trim() !== "");
  return rates.every((rate) => Number(rate) >= 0 && Number(rate) <= 1)
    ? undefined
    : "numbers between 0 and 1 expected, with commas between them";
}

function isSet(text: string | undefined): text is string {
  return text !== undefined && text !== "";
}
