/**
 * The worker_selection section of a policy file: named instances of a scoring policy and which of them each role uses. Dynamo's default cost
 * function is the one type served here; its parameters replace the router's own where they are set. An instance of another type may stand in
 * the file as long as no role uses it.
 */
import { Fields, type Mapping, shown } from "./fields.ts";

/** Undefined members keep the router's own setting. */
export interface ScoringParameters {
  readonly overlapScoreCredit: number | undefined;
  readonly overlapScoreCreditDecay: number | undefined;
  readonly prefillLoadScale: number | undefined;
  readonly decodeActiveRequestWeight: number | undefined;
  readonly hostCacheHitWeight: number | undefined;
  readonly diskCacheHitWeight: number | undefined;
  readonly sharedCacheMultiplier: number | undefined;
  readonly temperature: number | undefined;
}

export type SelectionRole = "aggregated" | "prefill" | "decode";

export interface WorkerSelection {
  /** Undefined: of a type that is code compiled into Dynamo. */
  readonly instances: ReadonlyMap<string, ScoringParameters | undefined>;
  /** Name of an instance or "default"; undefined: "default". */
  readonly selected: Readonly<Record<SelectionRole, string | undefined>>;
}

export const defaultScoringType = "dynamo-default-cost-fn";

const roles = ["aggregated", "prefill", "decode", "encode"] as const;
const parameterKeys = [
  "overlap_score_credit",
  "overlap_score_credit_decay",
  "prefill_load_scale",
  "decode_active_request_weight",
  "host_cache_hit_weight",
  "disk_cache_hit_weight",
  "shared_cache_multiplier",
  "router_temperature",
] as const;

export function parseWorkerSelection(mapping: Mapping, faults: string[]): WorkerSelection {
  const fields = new Fields(mapping, "worker_selection", [...roles, "instances"], faults);
  const instances = parseInstances(fields, faults);
  const selected = new Map<string, string>();
  for (const role of roles) {
    const name = fields.value(role);
    if (name === undefined) continue;
    if (typeof name !== "string" || (name !== "default" && !instances.has(name))) {
      fields.fault(role, `expected the name of an instance or "default", got ${shown(name)}`);
    } else if (role !== "encode" && name !== "default" && instances.get(name) === undefined) {
      fields.fault(role, notServed(name));
    } else {
      selected.set(role, name);
    }
  }
  if (instances.size === 0 && roles.every((role) => fields.value(role) === undefined)) {
    faults.push(`worker_selection: expected instances, or a selection for one of ${roles.join(", ")}`);
  }
  return {
    instances,
    selected: {
      aggregated: selected.get("aggregated"),
      prefill: selected.get("prefill"),
      decode: selected.get("decode"),
    },
  };
}

function parseInstances(fields: Fields, faults: string[]): Map<string, ScoringParameters | undefined> {
  const instances = new Map<string, ScoringParameters | undefined>();
  for (const { mapping, path } of fields.mappings("instances")) {
    const each = new Fields(mapping, path, ["name", "type", "parameters"], faults);
    const name = each.requiredName("name");
    const type = each.requiredName("type");
    const parameters = each.mapping("parameters") ?? {};
    if (name === "default") each.fault("name", `"default" is the built-in scoring; expected another name`);
    if (name === undefined) continue;
    if (instances.has(name)) each.fault("name", `duplicate instance ${JSON.stringify(name)}`);
    const isServed = type === defaultScoringType;
    instances.set(name, isServed ? parseParameters(parameters, each.pathOf("parameters"), faults) : undefined);
  }
  return instances;
}

function notServed(name: string): string {
  return `${JSON.stringify(name)} is not of type ${defaultScoringType}: other policies are code compiled into Dynamo`;
}

function parseParameters(mapping: Mapping, path: string, faults: string[]): ScoringParameters {
  const fields = new Fields(mapping, path, parameterKeys, faults);
  return {
    overlapScoreCredit: fields.amount("overlap_score_credit"),
    overlapScoreCreditDecay: fields.amount("overlap_score_credit_decay"),
    prefillLoadScale: fields.amount("prefill_load_scale"),
    decodeActiveRequestWeight: fields.amount("decode_active_request_weight"),
    hostCacheHitWeight: fields.amount("host_cache_hit_weight"),
    diskCacheHitWeight: fields.amount("disk_cache_hit_weight"),
    sharedCacheMultiplier: fields.amount("shared_cache_multiplier"),
    temperature: fields.amount("router_temperature"),
  };
}

export type Scoring =
  | { readonly kind: "own" }
  | { readonly kind: "instance"; readonly parameters: ScoringParameters }
  | { readonly kind: "unknown"; readonly message: string };

/**
 * The scoring of one role. `overrides` are names from outside the file, strongest first (the role's own flag, then
 * DYN_ROUTER_WORKER_SELECTION_POLICY); empty ones do not count.
 */
export function scoringOf(
  selection: WorkerSelection | undefined,
  role: SelectionRole,
  ...overrides: readonly (string | undefined)[]
): Scoring {
  const name = overrides.map((each) => each?.trim()).find((each) => each !== undefined && each !== "");
  const chosen = name ?? selection?.selected[role];
  if (chosen === undefined || chosen === "default") return { kind: "own" };
  const parameters = selection?.instances.get(chosen);
  if (parameters !== undefined) return { kind: "instance", parameters };
  if (selection?.instances.has(chosen) === true)
    return { kind: "unknown", message: `worker selection ${notServed(chosen)}` };
  const known = ["default", ...(selection?.instances.keys() ?? [])].join(", ");
  return {
    kind: "unknown",
    message: `worker selection ${JSON.stringify(chosen)} is not configured; expected one of ${known}`,
  };
}
