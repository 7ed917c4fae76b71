/**
 * The environment of Dynamo's endpoint picker as settings of ours: an image is replaced and nothing else. A flag goes before its variable. Without
 * a configuration or a list of endpoints, the variables that place a picker in a Dynamo namespace stand for a configuration of their own.
 */
import { didYouMean } from "../config/nearest-name.ts";
import { runtimeComponentLabel } from "../data/discovery/dynamo/dynamo-discovery.ts";
import { standaloneSettings } from "../data/kv-events/standalone-settings.ts";
import type { Adapted, Environment } from "./command.ts";
import {
  type DynamoVariable,
  knownNames,
  pickerVariables,
  placingVariables,
  standaloneNames,
  standaloneVariables,
} from "./epp-dynamo-variables.ts";
import type { EppSettings } from "./epp-flags.ts";

type Mutable = { -readonly [Name in keyof EppSettings]: EppSettings[Name] };

/** A configuration as EndpointPickerConfig text; JSON is YAML. */
interface Document {
  readonly plugins: readonly { readonly type: string; readonly parameters?: object }[];
  readonly schedulingProfiles: readonly {
    readonly name: string;
    readonly plugins: readonly { readonly pluginRef: string; readonly weight?: number }[];
  }[];
  readonly dataLayer?: object;
}

/** Dynamo's: how long a picker that ends is announced before it accepts no more. Its manifests give the whole end 30 s. */
const dynamoDrainMs = 5_000;
/** Port of a Dynamo frontend. */
const frontendPort = 8000;

export function adaptToDynamo(
  settings: EppSettings,
  given: ReadonlySet<string>,
  environment: Environment,
): Adapted<EppSettings> {
  const reader = new Variables(environment);
  const values: Mutable = { ...settings };
  readServing(values, given, reader);
  const mode = reader.text("DYN_EPP_MODE");
  if (mode !== undefined && mode !== "dynamo" && mode !== "standalone") {
    reader.faults.push(`DYN_EPP_MODE: ${JSON.stringify(mode)} is not "dynamo" or "standalone"`);
  }
  const isStandalone = mode === "standalone";
  const isPlaced = mode !== undefined || placingVariables.some((name) => reader.text(name) !== undefined);
  const hasConfiguration = values["config-file"] !== "" || values["config-text"] !== "";
  const rival = hasConfiguration ? "a configuration is given" : isStandalone ? undefined : endpointsGiven(values);
  if (isPlaced && rival !== undefined && mode !== undefined) {
    reader.warnings.push(`DYN_EPP_MODE has no effect: ${rival}`);
  }
  if (isPlaced && rival === undefined && reader.faults.length === 0) {
    if (!given.has("drain-timeout") && reader.text("DYN_EPP_GRACEFUL_SHUTDOWN_PROPAGATION_SECS") === undefined) {
      values["drain-timeout"] = dynamoDrainMs;
    }
    readPlace(values, given, reader);
    if (isStandalone) becomeStandalone(values, given, reader);
    else becomeDynamo(values, reader);
  }
  if (isPlaced || hasConfiguration) warnOfUnknown(reader, isStandalone);
  return { values, warnings: [...new Set(reader.warnings)], faults: reader.faults };
}

function endpointsGiven({ endpoints }: EppSettings): string | undefined {
  return endpoints.length > 0 ? "--endpoints is given" : undefined;
}

/** What holds for every picker, whatever it routes by. */
function readServing(values: Mutable, given: ReadonlySet<string>, reader: Variables): void {
  const secure = reader.truth("DYN_SECURE_SERVING");
  if (secure !== undefined && !given.has("secure-serving")) values["secure-serving"] = secure;
  const metricsPort = reader.integer("DYN_EPP_METRICS_PORT", 65_535);
  if (metricsPort !== undefined && !given.has("metrics-port")) {
    // Dynamo's 0 is "none"; ours is "any".
    values["metrics-port"] = metricsPort === 0 ? -1 : metricsPort;
  }
  const seconds = reader.integer("DYN_EPP_GRACEFUL_SHUTDOWN_PROPAGATION_SECS", 86_400);
  if (seconds !== undefined && !given.has("drain-timeout")) values["drain-timeout"] = seconds * 1000;
  if (reader.truth("DYN_EPP_LEGACY_HEADERS") === true && !given.has("dynamo-legacy-headers")) {
    values["dynamo-legacy-headers"] = true;
  }
}

function readPlace(values: Mutable, given: ReadonlySet<string>, reader: Variables): void {
  const namespace = reader.text("POD_NAMESPACE");
  if (namespace !== undefined && !given.has("pool-namespace") && reader.text("NAMESPACE") === undefined) {
    values["pool-namespace"] = namespace;
  }
  const verbosity = verbosityOf(reader.text("RUST_LOG"));
  if (verbosity !== undefined && !given.has("v") && values["zap-log-level"] === "") values.v = verbosity;
}

function becomeDynamo(values: Mutable, reader: Variables): void {
  const component = reader.text("DYN_COMPONENT_NAME");
  const byComponent = { matchLabels: { [runtimeComponentLabel]: component } };
  const isTold = values["dynamo-frontend"].length > 0 || reader.text("DYN_EPP_FRONTENDS") !== undefined;
  // In Kubernetes the pod says where its frontend is.
  const hasFrontends = isTold || reader.text("DYN_DISCOVERY_BACKEND") === "kubernetes";
  values["config-text"] = textOf({
    plugins: [
      { type: "dynamo-discovery", ...(hasFrontends ? {} : { parameters: { frontendPort } }) },
      { type: "dynamo-prefill-router" },
      ...(component === undefined ? [] : [{ type: "label-selector-filter", parameters: byComponent }]),
    ],
    schedulingProfiles: [
      { name: "decode", plugins: component === undefined ? [] : [{ pluginRef: "label-selector-filter" }] },
    ],
    dataLayer: { injectDefaults: false, discovery: { pluginRef: "dynamo-discovery" } },
  });
  warnOfNoEffect(pickerVariables, reader);
}

function becomeStandalone(values: Mutable, given: ReadonlySet<string>, reader: Variables): void {
  const reading = standaloneSettings(reader.environment);
  if (reading.kind === "faults") {
    reader.faults.push(...reading.faults);
    return;
  }
  reader.warnings.push(...reading.warnings);
  const { inferencePoolName, prefillInferencePoolName } = reading.settings;
  if (!given.has("pool-name")) values["pool-name"] = [inferencePoolName];
  const hasPrefill = prefillInferencePoolName !== undefined;
  if (hasPrefill && !given.has("prefill-pool-name")) values["prefill-pool-name"] = prefillInferencePoolName;
  warnOfNoEffect(standaloneVariables, reader);
  values["config-text"] = textOf({
    // Requests without a prompt, which the router does not plan, are for decode servers as well.
    plugins: [...reading.plugins, ...(hasPrefill ? [{ type: "decode-filter", parameters: {} }] : [])],
    schedulingProfiles: [{ name: "decode", plugins: hasPrefill ? [{ pluginRef: "decode-filter" }] : [] }],
  });
}

function textOf(document: Document): string {
  return JSON.stringify({ apiVersion: "llm-d.ai/v1alpha1", kind: "EndpointPickerConfig", ...document });
}

/** The level for everything of a RUST_LOG, which may list others for parts of a program. */
function verbosityOf(filter: string | undefined): number | undefined {
  const levels: Readonly<Record<string, number>> = { off: 0, error: 0, warn: 0, info: 2, debug: 4, trace: 5 };
  const level = filter?.split(",").find((directive) => !directive.includes("="));
  return level === undefined ? undefined : levels[level.trim().toLowerCase()];
}

function warnOfNoEffect(variables: readonly DynamoVariable[], reader: Variables): void {
  for (const { name, noEffect } of variables) {
    if (noEffect === undefined || reader.text(name) === undefined) continue;
    reader.warnings.push(`${name} has no effect: ${noEffect}`);
  }
}

/** Variables of a Service, which Kubernetes sets in every pod of its namespace. */
const serviceLink = /_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_.+)$/;

function warnOfUnknown(reader: Variables, isStandalone: boolean): void {
  for (const [name, value] of Object.entries(reader.environment)) {
    if (!name.startsWith("DYN_EPP_") || value === undefined || value === "") continue;
    if (!knownNames.has(name)) {
      if (serviceLink.test(name) || value.startsWith("tcp://")) continue;
      reader.warnings.push(`${name} is unknown and has no effect${didYouMean(name, knownNames)}`);
    } else if (!isStandalone && standaloneNames.has(name)) {
      reader.warnings.push(`${name} has no effect without DYN_EPP_MODE=standalone`);
    }
  }
}

/** Reads variables; an empty one counts as unset. As Dynamo, a truth or number that cannot be read is ignored, here with a warning. */
class Variables {
  readonly environment: Environment;
  readonly warnings: string[] = [];
  readonly faults: string[] = [];

  constructor(environment: Environment) {
    this.environment = environment;
  }

  text(name: string): string | undefined {
    const text = this.environment[name]?.trim();
    return text === "" ? undefined : text;
  }

  truth(name: string): boolean | undefined {
    const text = this.text(name)?.toLowerCase();
    if (text === undefined) return undefined;
    if (["1", "true", "yes", "on"].includes(text)) return true;
    if (["0", "false", "no", "off"].includes(text)) return false;
    this.#ignored(name, text, "true or false");
    return undefined;
  }

  integer(name: string, most: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (value <= most) return value;
    this.#ignored(name, text, `a whole number up to ${most}`);
    return undefined;
  }

  #ignored(name: string, text: string, expected: string): void {
    this.warnings.push(`${name}=${text}: ${expected} expected; ignored`);
  }
}
