/** The pool of one picker: its endpoints by whichever discovery, their scraped metrics, and the objects (objectives, rewrites) that routing reads. */
import type { Discovery } from "../data/discovery/discovery.ts";
import { createStaticDiscovery, parseEndpointList } from "../data/discovery/static.ts";
import type { EndpointStore } from "../data/endpoint-store.ts";
import { noPoolObjects, type PoolObjects } from "../data/manifests/pool-objects.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Configuration } from "./configuration.ts";
import type { EppSettings } from "./epp.ts";

export interface Pool {
  readonly store: EndpointStore;
  readonly objects: () => PoolObjects;
  /** Traffic flows: scrape at the fast interval. */
  readonly noteTraffic: () => void;
  close(): Promise<void>;
}

export interface PoolOptions {
  readonly settings: EppSettings;
  readonly namespace: string;
  readonly store: EndpointStore;
  readonly configuration: Configuration;
  readonly metrics: Metrics;
  readonly log: Logger;
}

export async function startPool({ settings, namespace, store, configuration }: PoolOptions): Promise<Pool> {
  const discovery = discoveryOf(settings, namespace, configuration);
  await discovery.start(store);
  return {
    store,
    objects: () => noPoolObjects,
    noteTraffic: () => {},
    close: () => discovery.close(),
  };
}

function discoveryOf(settings: EppSettings, namespace: string, configuration: Configuration): Discovery {
  const name = configuration.current.config.discovery;
  if (name !== undefined) return configuration.lookup(name) as Discovery;
  const { endpoints } = parseEndpointList(settings.endpoints.join(","), namespace);
  return createStaticDiscovery(endpoints);
}
