/** Pool gauges, computed when metrics are read: averages and deviations over endpoints with fresh metrics, rounded to two decimals as the reference does. */
import type { KubernetesDiscovery } from "../data/discovery/kubernetes/pool-discovery.ts";
import type { EngineMetrics } from "../data/endpoint.ts";
import type { EndpointStoreView } from "../data/store-view.ts";
import type { Family } from "../telemetry/families.ts";
import type { Metrics } from "../telemetry/metrics.ts";

export interface PoolGaugeOptions {
  readonly metrics: Metrics;
  readonly store: EndpointStoreView;
  readonly poolName: string;
  readonly stalenessMs: number;
  /** Time between two polls of an endpoint now: metrics younger than two of them are sound, whatever the threshold. */
  readonly scrapeIntervalMs?: () => number;
  /** Of what discovery knows; undefined where endpoints do not come from Kubernetes. */
  readonly discovery?: Pick<KubernetesDiscovery, "age"> | undefined;
  readonly now: () => number;
}

const round = (value: number): number => Math.round(value * 100) / 100;

export function watchPoolGauges(options: PoolGaugeOptions): void {
  const { metrics, store, poolName, stalenessMs, scrapeIntervalMs = () => 0, discovery, now } = options;
  const { families } = metrics;
  const columns: readonly [mean: Family, deviation: Family, read: (metrics: EngineMetrics) => number][] = [
    [families.averageKvCache, families.deviationKvCache, (engine) => engine.kvCacheUsage],
    [families.averageQueue, families.deviationQueue, (engine) => engine.waitingRequests],
    [families.averageRunning, families.deviationRunning, (engine) => engine.runningRequests],
  ];
  metrics.onCollect(() => {
    const endpoints = store.snapshot();
    const oldestMs = Math.max(stalenessMs, 2 * scrapeIntervalMs());
    const fresh = endpoints.filter((endpoint) => now() - endpoint.metrics.updatedAtMs <= oldestMs);
    families.readyEndpoints.series(poolName).set(fresh.length);
    for (const [mean, deviation, read] of columns) {
      const values = fresh.map((endpoint) => read(endpoint.metrics));
      const average = values.reduce((sum, value) => sum + value, 0) / Math.max(values.length, 1);
      const variance = values.reduce((sum, value) => sum + (value - average) ** 2, 0) / Math.max(values.length, 1);
      mean.series(poolName).set(round(average));
      deviation.series(poolName).set(round(Math.sqrt(variance)));
    }
    if (discovery !== undefined) {
      const { ageMs = Number.POSITIVE_INFINITY } = discovery.age(now());
      families.discoveryAge.series(poolName).set(ageMs / 1000);
    }
    families.endpointQueue.clear();
    for (const endpoint of endpoints) {
      families.endpointQueue
        .series(poolName, endpoint.name.slice(endpoint.namespace.length + 1))
        .set(endpoint.metrics.waitingRequests);
    }
  });
}
