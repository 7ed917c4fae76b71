/** Metrics of Dynamo's workers, routers and plans, for whichever plugins of the running configuration have them. */
import type { Instance } from "../config/instantiate.ts";
import { DynamoWorkers } from "../data/discovery/dynamo/dynamo-discovery.ts";
import { DynamoPrefillRouter } from "../prefill-router/plugin/dynamo-prefill-router.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { DynamoGauges } from "./dynamo-gauges.ts";
import { DynamoWatcher } from "./dynamo-watcher.ts";

export interface DynamoMetricsOptions {
  readonly metrics: Pick<Metrics, "dynamo" | "onCollect">;
  /** Instances of the running configuration. */
  readonly instances: () => ReadonlyMap<string, Pick<Instance, "plugin">>;
}

export interface DynamoMetrics {
  /** Call after the configuration was loaded, and after each swap. */
  watchInstances(): void;
}

export function createDynamoMetrics({ metrics, instances }: DynamoMetricsOptions): DynamoMetrics {
  const watcher = new DynamoWatcher(metrics.dynamo);
  const gauges = new DynamoGauges(metrics.dynamo);
  metrics.onCollect(() => {
    gauges.begin();
    const living = new Set<string>();
    const namespaces = new Set<string>();
    for (const [name, { plugin }] of instances()) {
      if (plugin instanceof DynamoWorkers) gauges.discovered(name, plugin);
      if (!(plugin instanceof DynamoPrefillRouter)) continue;
      for (const [key, runtime] of plugin.runtimes) {
        living.add(key);
        namespaces.add(runtime.set.namespace);
        gauges.routed(runtime);
      }
    }
    watcher.keepOnly(living, namespaces);
  });
  return {
    watchInstances() {
      for (const { plugin } of instances().values()) {
        if (plugin instanceof DynamoPrefillRouter) plugin.watcher = watcher;
      }
    },
  };
}
