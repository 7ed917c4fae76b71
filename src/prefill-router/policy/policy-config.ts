/**
 * The router policy file (DYN_ROUTER_POLICY_CONFIG, --router-policy-config) as Dynamo 1.6.1 reads it: router settings, queue profiles for all
 * models and for single ones, and worker selection. All faults are reported at once, each with its path.
 */
import { parseDocument } from "yaml";
import { Fields, isMapping, type Mapping, shown } from "./fields.ts";
import type { PolicyProfile } from "./policy-class.ts";
import { parseProfile, profileKeys } from "./policy-profile.ts";
import { parseWorkerSelection, type WorkerSelection } from "./worker-selection.ts";

export interface RouterPolicyConfig {
  /** The router section: settings by their name in Dynamo, checked by name and type; null unsets one. Empty when there is none. */
  readonly router: ReadonlyMap<string, string | number | boolean | null>;
  /** The queue profile for a model: its own, else the root's, else undefined. */
  profileOf(model: string | undefined): PolicyProfile | undefined;
  readonly hasProfiles: boolean;
  readonly workerSelection: WorkerSelection | undefined;
}

export type PolicyConfigOutcome =
  | { readonly kind: "parsed"; readonly config: RouterPolicyConfig }
  | { readonly kind: "faults"; readonly faults: readonly string[] };

const sections = ["router", ...profileKeys, "models", "worker_selection", "request_classifier"] as const;

/** Far above any real file; keeps a wrong path from being read into memory for nothing. */
const maxCharacters = 1024 * 1024;

export function parsePolicyConfig(text: string): PolicyConfigOutcome {
  if (text.length > maxCharacters)
    return { kind: "faults", faults: [`the document: larger than ${maxCharacters} characters`] };
  const document = readYaml(text);
  if (document.kind === "faults") return document;
  const root = document.value;
  if (!isMapping(root)) return { kind: "faults", faults: [`the document: expected a mapping, got ${shown(root)}`] };

  const faults: string[] = [];
  const fields = new Fields(root, "", sections, faults);
  const router = parseRouterSettings(fields.mapping("router"), faults);
  const hasRoot = profileKeys.some((key) => fields.value(key) !== undefined);
  const rootProfile = hasRoot ? parseProfile(fields, faults) : undefined;
  const models = parseModels(fields.mapping("models"), faults);
  const selection = fields.mapping("worker_selection");
  const workerSelection = selection === undefined ? undefined : parseWorkerSelection(selection, faults);
  if (fields.value("request_classifier") !== undefined) {
    fields.fault("request_classifier", "classifiers are code compiled into Dynamo; expected no such key");
  }
  const isEmpty =
    fields.value("router") === undefined &&
    !hasRoot &&
    Object.keys(fields.mapping("models") ?? {}).length === 0 &&
    selection === undefined;
  if (isEmpty && faults.length === 0) {
    faults.push("the document: expected router settings, a root profile, profiles of models, or worker_selection");
  }
  if (faults.length > 0) return { kind: "faults", faults };
  return {
    kind: "parsed",
    config: {
      router,
      profileOf: (model) => (model === undefined ? undefined : models.get(model)) ?? rootProfile,
      hasProfiles: rootProfile !== undefined || models.size > 0,
      workerSelection,
    },
  };
}

type Yaml =
  | { readonly kind: "value"; readonly value: unknown }
  | { readonly kind: "faults"; readonly faults: string[] };

function readYaml(text: string): Yaml {
  try {
    const document = parseDocument(text, { prettyErrors: true });
    const first = document.errors[0];
    if (first !== undefined) return { kind: "faults", faults: [`the document: ${first.message.split("\n", 1)[0]}`] };
    return { kind: "value", value: document.toJS() };
  } catch (error) {
    // Aliases that expand beyond the library's bound are thrown, not listed.
    return { kind: "faults", faults: [`the document: ${String(error)}`] };
  }
}

function parseModels(mapping: Mapping | undefined, faults: string[]): ReadonlyMap<string, PolicyProfile> {
  const models = new Map<string, PolicyProfile>();
  for (const [name, profile] of Object.entries(mapping ?? {})) {
    const path = `models[${JSON.stringify(name)}]`;
    if (name === "") faults.push(`${path}: expected the name of a model`);
    if (!isMapping(profile)) {
      faults.push(`${path}: expected a mapping, got ${shown(profile)}`);
      continue;
    }
    const parsed = parseProfile(new Fields(profile, path, profileKeys, faults), faults);
    if (parsed !== undefined) models.set(name, parsed);
  }
  return models;
}

type SettingKind = "boolean" | "share" | "amount" | "count" | "text" | readonly string[];

interface Setting {
  readonly kind: SettingKind;
  readonly nullable?: boolean;
}

/** What the router section may set, by Dynamo's names. */
const routerSettings: Readonly<Record<string, Setting>> = {
  host_cache_hit_weight: { kind: "share" },
  disk_cache_hit_weight: { kind: "share" },
  use_kv_events: { kind: "boolean" },
  router_replica_sync: { kind: "boolean" },
  router_track_active_blocks: { kind: "boolean" },
  router_track_output_blocks: { kind: "boolean" },
  router_assume_kv_reuse: { kind: "boolean" },
  router_track_prefill_tokens: { kind: "boolean" },
  router_tracking_hash: { kind: ["public-xxh3-v1", "keyed-xxh3-v1"] },
  router_tracking_key_file: { kind: "text", nullable: true },
  router_tracking_key_id: { kind: "text", nullable: true },
  router_prefill_load_model: { kind: ["none", "ais", "aic"] },
  router_ttl_secs: { kind: "amount" },
  router_approximate_cache_policy: { kind: ["ttl", "lru"] },
  router_event_threads: { kind: "count" },
  use_remote_indexer: { kind: "boolean" },
  serve_indexer: { kind: "boolean" },
  enable_session_prefix_index: { kind: "boolean" },
  shared_cache_type: { kind: ["none", "hicache"] },
  router_predicted_ttl_secs: { kind: "amount", nullable: true },
};

function parseRouterSettings(mapping: Mapping | undefined, faults: string[]) {
  const settings = new Map<string, string | number | boolean | null>();
  for (const [name, value] of Object.entries(mapping ?? {})) {
    const setting = Object.hasOwn(routerSettings, name) ? routerSettings[name] : undefined;
    if (setting === undefined) {
      faults.push(`router.${name}: unknown key; expected one of ${Object.keys(routerSettings).join(", ")}`);
    } else if (value === null && setting.nullable === true) {
      settings.set(name, null);
    } else if (isOfKind(value, setting.kind)) {
      settings.set(name, value);
    } else {
      faults.push(`router.${name}: expected ${expectation(setting.kind)}, got ${shown(value)}`);
    }
  }
  return settings;
}

function isOfKind(value: unknown, kind: SettingKind): value is string | number | boolean {
  if (kind === "boolean") return typeof value === "boolean";
  if (kind === "text") return typeof value === "string";
  if (kind === "share") return typeof value === "number" && value >= 0 && value <= 1;
  if (kind === "amount") return typeof value === "number" && Number.isFinite(value) && value >= 0;
  if (kind === "count") return typeof value === "number" && Number.isSafeInteger(value) && value >= 1;
  return typeof value === "string" && kind.includes(value);
}

function expectation(kind: SettingKind): string {
  switch (kind) {
    case "boolean":
      return "true or false";
    case "share":
      return "a number from 0 to 1";
    case "amount":
      return "a finite number of at least 0";
    case "count":
      return "an integer of at least 1";
    case "text":
      return "text";
    default:
      return `one of ${kind.join(", ")}`;
  }
}
