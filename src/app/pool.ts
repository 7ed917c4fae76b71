/** The pool of one picker: its endpoints by whichever discovery, their scraped metrics, and the objects (objectives, rewrites) that routing reads. */

import type { EppSettings } from "../commands/epp-flags.ts";
import { ConfigError } from "../config/complete-config.ts";
import type { Loaded } from "../config/instantiate.ts";
import type { Discovery } from "../data/discovery/discovery.ts";
import type { KubernetesDiscovery } from "../data/discovery/kubernetes/pool-discovery.ts";
import { poolWriters } from "../data/discovery/kubernetes/prefill-endpoints.ts";
import { createStaticDiscovery, parseEndpointList } from "../data/discovery/static.ts";
import type { EndpointStore } from "../data/endpoint-store.ts";
import type { PoolObjects } from "../data/manifests/pool-objects.ts";
import type { PollStatus, ScrapeCounters } from "../data/scrape/poller.ts";
import { createScraper, type ScrapeBinding, type Scraper, scrapeOptions } from "../data/scrape/scraper.ts";
import type { DataSource, Extractor } from "../data/scrape/source.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Configuration } from "./configuration.ts";
import type { Kubernetes } from "./kubernetes.ts";
import { type ObjectSource, startObjectSource } from "./object-source.ts";
import { type PoolReadiness, readinessOf } from "./pool-readiness.ts";

export interface Pool {
  readonly store: EndpointStore;
  readonly objects: () => PoolObjects;
  readonly objectSource: Pick<ObjectSource, "faults" | "ignored">;
  /** Traffic flows: scrape at the fast interval. */
  readonly noteTraffic: () => void;
  /** Scrapes by endpoint, for /debug/endpoints. */
  scrapeStatus(): readonly PollStatus[];
  /** Time between two polls of an endpoint now. */
  scrapeIntervalMs(): number;
  /** Whether requests may come, and if not, why. */
  readiness(): PoolReadiness;
  /** Undefined where endpoints do not come from Kubernetes. */
  readonly kubernetes: KubernetesDiscovery | undefined;
  close(): Promise<void>;
}

export interface PoolOptions {
  readonly settings: EppSettings;
  /** "" where it has none. */
  readonly name: string;
  readonly namespace: string;
  readonly store: EndpointStore;
  readonly configuration: Configuration;
  /** Asked only where endpoints come from there. */
  readonly kubernetes: () => Kubernetes;
  readonly metrics: Metrics;
  readonly log: Logger;
  readonly now: () => number;
}

/** Resolves once the first endpoint list and the manifests are in; Kubernetes is not waited for. */
export async function startPool(options: PoolOptions): Promise<Pool> {
  const { settings, name, namespace, store, configuration, now } = options;
  const cluster = isInKubernetes(settings, configuration) ? options.kubernetes() : undefined;
  const kubernetes = cluster?.discoveryOf(name);
  const prefillPool = settings["prefill-pool-name"];
  const prefill = prefillPool === "" ? undefined : cluster?.discoveryOf(prefillPool);
  const discovery = kubernetes ?? discoveryOf(settings, namespace, configuration);
  const source = await startObjectSource({ ...options, kubernetes: cluster });
  try {
    if (prefill === undefined) await discovery.start(store);
    else {
      const writers = poolWriters(store);
      await prefill.start(writers.prefill);
      await discovery.start(writers.main);
    }
  } catch (error) {
    await source.close();
    throw error;
  }
  let scraper = startScraper(options, configuration.current);
  configuration.onSwap(async (loaded, previous) => {
    if (sameSources(loaded, previous)) return;
    const replaced = scraper;
    scraper = startScraper(options, loaded);
    await replaced.close();
  });
  return {
    store,
    objects: () => source.objects(),
    objectSource: source,
    noteTraffic: () => scraper.noteTraffic(now()),
    scrapeStatus: () => scraper.status(),
    scrapeIntervalMs: () => scraper.intervalMs,
    readiness: () => readinessOf({ store, configuration, objects: source, discovery: kubernetes, prefill }),
    kubernetes,
    async close() {
      await scraper.close();
      await discovery.close();
      await prefill?.close();
      await source.close();
    },
  };
}

/** Neither a list of endpoints nor a discovery of the configuration is there, and flags name a pool or a selector. */
function isInKubernetes(settings: EppSettings, configuration: Configuration): boolean {
  if (settings.endpoints.length > 0 || configuration.current.config.discovery !== undefined) return false;
  return settings["pool-name"].length > 0 || settings["endpoint-selector"] !== "";
}

/** Throws ConfigError unless flags and configuration name exactly one source of endpoints. */
function discoveryOf(settings: EppSettings, namespace: string, configuration: Configuration): Discovery {
  const name = configuration.current.config.discovery;
  if ((name === undefined) === (settings.endpoints.length === 0)) {
    throw new ConfigError(configuration.state.source, [
      name === undefined
        ? "dataLayer.discovery: missing, and --endpoints is not given: there would be no endpoints"
        : "dataLayer.discovery: cannot stand beside --endpoints: endpoints come from one of them",
    ]);
  }
  if (name !== undefined) return configuration.lookup(name) as Discovery;
  const { endpoints } = parseEndpointList(settings.endpoints.join(","), namespace);
  return createStaticDiscovery(endpoints);
}

function bindingsOf(loaded: Loaded): readonly ScrapeBinding[] {
  const plugin = (name: string): unknown => loaded.instances.get(name)?.plugin;
  return loaded.config.sources.map(({ pluginRef, extractors }) => ({
    source: plugin(pluginRef) as DataSource,
    extractors: extractors.map((name) => plugin(name) as Extractor),
  }));
}

function sameSources(a: Loaded, b: Loaded): boolean {
  const flat = (loaded: Loaded): readonly unknown[] =>
    bindingsOf(loaded).flatMap(({ source, extractors }) => [source, ...extractors]);
  const [left, right] = [flat(a), flat(b)];
  return left.length === right.length && left.every((value, index) => value === right[index]);
}

function startScraper({ settings, store, metrics, log, now }: PoolOptions, loaded: Loaded): Scraper {
  const { pollErrors, extractErrors } = metrics.families;
  const counters: ScrapeCounters = {
    pollFailed: (sourceType) => pollErrors.series(sourceType).add(1),
    extractFailed: (sourceType, extractorType) => extractErrors.series(sourceType, extractorType).add(1),
  };
  const options = scrapeOptions(settings["refresh-metrics-interval"]);
  const scraper = createScraper({ store, bindings: bindingsOf(loaded), options, counters, log, now });
  scraper.start();
  return scraper;
}
