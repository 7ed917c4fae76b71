/**
 * Complete configuration → plugin instances → the plan that scheduling runs. On a reload an instance whose type, module and parameters are
 * unchanged is kept with its state (a prefix index survives an edit of a weight).
 */
import { isDeepStrictEqual } from "node:util";
import type {
  Activatable,
  Closable,
  Named,
  PluginContext,
  PluginKind,
  Profile,
  RequestObserver,
  SchedulingPlan,
  SchedulingPlugin,
  WeightedScorer,
} from "../scheduling/contracts.ts";
import { type CompleteConfig, ConfigError, type PluginEntry, type ProfileEntry } from "./complete-config.ts";

export interface Instance {
  readonly entry: PluginEntry;
  readonly plugin: unknown;
}

export interface Loaded {
  readonly config: CompleteConfig;
  readonly instances: ReadonlyMap<string, Instance>;
  readonly plan: SchedulingPlan;
}

export interface InstantiateOptions {
  readonly source: string;
  contextFor(name: string, type: string): PluginContext;
  /** The configuration that runs now: its instances are kept where nothing changed. */
  readonly previous?: Loaded | undefined;
  /** Told of an instance that fails to close. */
  readonly onCloseFault: (name: string, error: unknown) => void;
}

/** Throws ConfigError when a create function refuses; what it made before that is closed. */
export async function instantiate(config: CompleteConfig, options: InstantiateOptions): Promise<Loaded> {
  const instances = new Map<string, Instance>();
  const faults: string[] = [];
  for (const entry of config.plugins) {
    const kept = options.previous?.instances.get(entry.name);
    if (kept !== undefined && isSame(kept.entry, entry)) {
      instances.set(entry.name, kept);
      continue;
    }
    try {
      const plugin = entry.definition.create(entry.parameters, options.contextFor(entry.name, entry.type));
      const fault = faultOfInstance(plugin, entry.definition.kinds);
      if (fault === undefined) instances.set(entry.name, { entry, plugin });
      else faults.push(`plugin ${entry.name}: ${fault}`);
    } catch (error) {
      faults.push(`plugin ${entry.name}: cannot be created: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  const plan = faults.length === 0 ? planOf(config, instances, faults) : undefined;
  if (plan === undefined || faults.length > 0) {
    await closeInstances(instances, options.previous?.instances, options.onCloseFault);
    throw new ConfigError(options.source, faults);
  }
  return { config, instances, plan };
}

/** True when an instance of `a` can go on as one of `b`. */
export function isSame(a: PluginEntry | undefined, b: PluginEntry | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return a.definition === b.definition && isDeepStrictEqual(a.parameters, b.parameters);
}

/** Kind → the methods that make a plugin one. The kinds that are absent here need none in particular. */
const methodsOfKind: Readonly<Partial<Record<PluginKind, readonly string[]>>> = {
  screener: ["screen"],
  filter: ["filter"],
  scorer: ["score"],
  picker: ["pick"],
  "profile-handler": ["nextProfiles", "primaryProfile"],
  "data-producer": ["produce"],
  admitter: ["admit"],
  "request-header-processor": ["processHeaders"],
  "saturation-detector": ["saturation"],
  "data-source": ["target"],
  extractor: ["open"],
  discovery: ["start", "close"],
};

function faultOfInstance(plugin: unknown, kinds: readonly PluginKind[]): string | undefined {
  if (typeof plugin !== "object" || plugin === null) return `create returned ${String(plugin)}, not an object`;
  if ("then" in plugin && typeof plugin.then === "function") {
    (plugin as Promise<unknown>).then(undefined, () => {});
    return "create returned a promise; it must return the plugin at once (a producer may wait in produce)";
  }
  for (const kind of kinds) {
    const lacking = methodsOfKind[kind]?.find((method) => !(method in plugin));
    if (lacking !== undefined) return `is said to be a ${kind}, but what create returned has no method ${lacking}`;
  }
  return undefined;
}

/** Tells the instances that `before` did not hold that their configuration is in force. */
export function activateInstances(
  instances: ReadonlyMap<string, Instance>,
  before: ReadonlyMap<string, Instance> | undefined,
  onFault: (name: string, error: unknown) => void,
): void {
  for (const [name, { plugin }] of instances) {
    if (before?.get(name)?.plugin === plugin) continue;
    if (typeof plugin !== "object" || plugin === null || !("activate" in plugin)) continue;
    if (typeof plugin.activate !== "function") continue;
    try {
      (plugin as Activatable).activate();
    } catch (error) {
      onFault(name, error);
    }
  }
}

/** Longest wait for one instance to close; a plugin that never does must not hold up the others. */
const closeTimeoutMs = 5_000;

/** Closes the instances that `keep` does not hold, each whatever the others do. */
export async function closeInstances(
  instances: ReadonlyMap<string, Instance>,
  keep: ReadonlyMap<string, Instance> | undefined,
  onFault: (name: string, error: unknown) => void,
): Promise<void> {
  for (const [name, { plugin }] of instances) {
    if (keep?.get(name)?.plugin === plugin) continue;
    if (typeof plugin !== "object" || plugin === null || !("close" in plugin) || typeof plugin.close !== "function") {
      continue;
    }
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`not closed within ${closeTimeoutMs} ms`)), closeTimeoutMs);
    });
    try {
      await Promise.race([(plugin as Closable).close(), timeout]);
    } catch (error) {
      onFault(name, error);
    } finally {
      clearTimeout(timer);
    }
  }
}

const observerMethods = ["assigned", "responseHeaders", "firstByte", "ended"] as const;

function planOf(
  config: CompleteConfig,
  instances: ReadonlyMap<string, Instance>,
  faults: string[],
): SchedulingPlan | undefined {
  const all = [...instances.values()].map(({ entry, plugin }) => ({
    name: entry.name,
    type: entry.type,
    plugin: (plugin ?? {}) as SchedulingPlugin,
  }));
  const withMethod = <Key extends keyof SchedulingPlugin>(method: Key) =>
    all.filter(({ plugin }) => typeof plugin[method] === "function") as unknown as Named<
      Required<Pick<SchedulingPlugin, Key>>
    >[];
  const handler = withMethod("nextProfiles").find(({ name }) => name === config.profileHandler);
  if (handler === undefined) faults.push(`plugin ${config.profileHandler}: is no profile handler`);
  const profiles = new Map(config.profiles.map((profile) => [profile.name, profileOf(profile, instances, faults)]));
  if (handler === undefined) return undefined;
  return {
    handler: handler as unknown as SchedulingPlan["handler"],
    planner: withMethod("plan").find(({ name }) => name === config.profileHandler),
    profiles,
    screeners: withMethod("screen"),
    admitters: withMethod("admit"),
    headerProcessors: withMethod("processHeaders"),
    producers: inOrder(withMethod("produce"), faults),
    observers: all.filter(({ plugin }) =>
      observerMethods.some((method) => typeof plugin[method] === "function"),
    ) as Named<RequestObserver>[],
  };
}

/** Stable order in which every producer comes after the types it reads from. */
function inOrder(producers: SchedulingPlan["producers"], faults: string[]): SchedulingPlan["producers"] {
  const left = [...producers];
  const ordered: (typeof left)[number][] = [];
  while (left.length > 0) {
    const ready = left.findIndex(
      ({ plugin, type }) => !left.some((other) => other.type !== type && plugin.after?.includes(other.type)),
    );
    if (ready < 0) {
      faults.push(
        `plugins: these producers each come after another of them: ${left.map(({ name }) => name).join(", ")}`,
      );
      return producers;
    }
    ordered.push(...left.splice(ready, 1));
  }
  return ordered;
}

function profileOf(profile: ProfileEntry, instances: ReadonlyMap<string, Instance>, faults: string[]): Profile {
  const filters: Profile["filters"][number][] = [];
  const scorers: WeightedScorer[] = [];
  let picker: Profile["picker"] | undefined;
  for (const { pluginRef, weight } of profile.plugins) {
    const instance = instances.get(pluginRef);
    if (instance === undefined) continue;
    const { name, type } = instance.entry;
    const plugin = (instance.plugin ?? {}) as SchedulingPlugin;
    let roles = 0;
    if (typeof plugin.filter === "function")
      roles += filters.push({ name, type, plugin: plugin as Required<Pick<SchedulingPlugin, "filter">> });
    if (typeof plugin.score === "function")
      roles += scorers.push({ name, type, weight, plugin: plugin as Required<Pick<SchedulingPlugin, "score">> });
    if (typeof plugin.pick === "function") {
      roles++;
      picker = { name, type, plugin: plugin as Required<Pick<SchedulingPlugin, "pick">> };
    }
    if (roles === 0) faults.push(`profile ${profile.name}: ${pluginRef} is no filter, scorer or picker`);
  }
  if (picker === undefined) {
    faults.push(`profile ${profile.name}: has no picker`);
    picker = { name: "", type: "", plugin: { pick: (_cycle, endpoints) => endpoints.slice(0, 1) } };
  }
  return { name: profile.name, filters, scorers, picker };
}
