/** What /debug shows of the running objects, as plain values. What could be a secret is blotted out. */

import type { EppSettings } from "../commands/epp-flags.ts";
import type { Instance, Loaded } from "../config/instantiate.ts";
import type { Endpoint } from "../data/endpoint.ts";
import { ApproxPrefixCacheProducer } from "../data/producers/approx-prefix-cache-producer.ts";
import type { Configuration } from "./configuration.ts";
import type { Pool } from "./pool.ts";
import type { ServedPool } from "./served-pool.ts";

type View = Readonly<Record<string, unknown>>;

export function describeEndpoint(endpoint: Endpoint, nowMs: number): View {
  const { metrics } = endpoint;
  return {
    name: endpoint.name,
    address: endpoint.hostPort,
    labels: Object.fromEntries(endpoint.labels),
    load: { requests: endpoint.load.requests, tokens: endpoint.load.tokens },
    metrics: {
      ...metrics,
      activeAdapters: [...metrics.activeAdapters],
      waitingAdapters: [...metrics.waitingAdapters],
      updatedAtMs: undefined,
      ageMs: Number.isFinite(metrics.updatedAtMs) ? Math.round(nowMs - metrics.updatedAtMs) : null,
    },
    attributes: Object.fromEntries(endpoint.attributes),
  };
}

export function describeConfiguration(configuration: Configuration, settings: EppSettings): View {
  const { config } = configuration.current;
  const text = settings["config-text"];
  return {
    ...configuration.state,
    flags: { ...settings, "config-text": text === "" ? "" : `${text.length} characters` },
    featureGates: Object.fromEntries(config.featureGates),
    plugins: config.plugins.map(({ name, type, parameters }) => ({
      name,
      type,
      parameters: withoutSecrets(parameters),
    })),
    schedulingProfiles: config.profiles,
    profileHandler: config.profileHandler,
    parsers: config.parsers,
    sources: config.sources,
    discovery: config.discovery ?? null,
    saturationDetector: config.saturationDetector,
  };
}

/** A pool as a whole: whether requests may come to it, and what its discovery knows. */
export function describePool(
  { name, pool, store, serving }: ServedPool,
  {
    settings,
    namespace,
    nowMs,
  }: { readonly settings: EppSettings; readonly namespace: string; readonly nowMs: number },
): View {
  const discovery = pool.kubernetes;
  return {
    name,
    namespace,
    grpcPort: serving.grpcPort,
    readiness: pool.readiness(),
    endpoints: store.snapshot().length,
    kubernetes:
      discovery === undefined
        ? null
        : {
            group: settings["pool-group"],
            ...discovery.state,
            pods: discovery.pods,
            faults: discovery.faults,
            ...discovery.age(nowMs),
          },
  };
}

export function describeObjects(pool: Pool): View {
  const { objectives, rewrites } = pool.objects();
  return {
    objectives: Object.fromEntries(objectives),
    rewrites,
    faults: pool.objectSource.faults(),
    ignored: pool.objectSource.ignored(),
  };
}

/** The configured instances with what their definition says of them and the profiles that use them. */
export function describePlugins({ instances, config }: Loaded): readonly View[] {
  return [...instances.values()].map(({ entry }) => ({
    name: entry.name,
    type: entry.type,
    kinds: entry.definition.kinds,
    summary: entry.definition.summary,
    profiles: config.profiles
      .filter((profile) => JSON.stringify(profile).includes(JSON.stringify(entry.name)))
      .map(({ name }) => name),
  }));
}

/** State of the plugins that have any to show, by name: their own `dumpState()`, or what is known of a built-in one. */
export function pluginStates({ instances }: Loaded): View {
  const states: Record<string, unknown> = {};
  for (const [name, instance] of instances) {
    const state = stateOf(instance);
    if (state !== undefined) states[name] = state;
  }
  return states;
}

function stateOf({ plugin }: Instance): unknown {
  if (plugin instanceof ApproxPrefixCacheProducer) {
    return { indexedBlocks: plugin.indexedBlocks, indexSizeBytes: plugin.indexSizeBytes };
  }
  if (typeof plugin !== "object" || plugin === null || !("dumpState" in plugin)) return undefined;
  if (typeof plugin.dumpState !== "function") return undefined;
  try {
    return plugin.dumpState() as unknown;
  } catch {
    return { error: "dumpState threw" };
  }
}

const secretName =
  /(password|passphrase|secret|credentials?|authorization|api[-_]?key|private[-_]?key|[a-z_-]*token)$/i;

/** Text under a name that sounds like a secret, at any depth. */
export function withoutSecrets(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutSecrets);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, member]) => [
      name,
      typeof member === "string" && secretName.test(name) ? "(hidden)" : withoutSecrets(member),
    ]),
  );
}
