/**
 * How every plugin is defined, built-in or a user's own: a type, a JSON Schema for its parameters, and a function that creates it.
 * What the created object can do is decided by the methods it has (scheduling/contracts.ts, data/producer.ts).
 */
import type { Logger } from "../telemetry/log.ts";
import type { EndpointStoreView } from "./store-view.ts";

export type PluginKind =
  | "screener"
  | "filter"
  | "scorer"
  | "picker"
  | "profile-handler"
  | "data-producer"
  | "admitter"
  | "request-header-processor"
  | "pre-request"
  | "response"
  | "route-rule"
  | "fairness-policy"
  | "ordering-policy"
  | "usage-limit-policy"
  | "saturation-detector"
  | "data-source"
  | "extractor"
  | "discovery"
  | "parser";

/** The subset of JSON Schema (draft 7) that parameters use. Properties carry `description` and `default`; objects are closed. */
export type JsonSchema = Readonly<Record<string, unknown>>;

export interface PluginContext {
  /** Name in the configuration; the type when none was given. */
  readonly name: string;
  readonly log: Logger;
  readonly endpoints: EndpointStoreView;
  /** Environment variables of the process; undefined where there are none to read. For settings that a peer takes from there. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Another configured plugin instance by name; undefined when there is none. Valid from `activate` and the first request on, not in create. */
  plugin(name: string): unknown;
  /** Monotonic milliseconds. */
  now(): number;
  /** Uniform in [0, 1). */
  random(): number;
}

export interface PluginDefinition<Parameters = unknown, Instance = unknown> {
  readonly type: string;
  readonly kinds: readonly PluginKind[];
  /** One sentence for docs/configuration.md. */
  readonly summary: string;
  /** Schema of `parameters`; its defaults are filled in before create is called. */
  readonly parameters: JsonSchema;
  /** Producer types this plugin reads from; created with their defaults when the configuration names none. */
  readonly needs?: readonly string[];
  /** False where these parameters make it read from none of them. */
  readsFromNeeds?(parameters: Parameters): boolean;
  /** Faults a schema cannot express: each is reported with the plugin's path. */
  validate?(parameters: Parameters): readonly string[];
  create(parameters: Parameters, context: PluginContext): Instance;
}

/** A plugin that begins its work once its configuration is in force: from then on `context.plugin` finds the others. Called once. */
export interface Activatable {
  activate(): void;
}

/** A plugin that is not at once fit to decide: the process is not ready before all of them are. Asked often. */
export interface Readiness {
  readonly isReady: boolean;
}

/** A plugin that holds timers, sockets or files. Closed when its configuration is replaced or the process ends. */
export interface Closable {
  close(): Promise<void>;
}
