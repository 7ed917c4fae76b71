/** Metrics that live in plugins: the prefix indexes, and requests and tokens in flight. Read when a page is asked for. */

import type { Instance } from "../config/instantiate.ts";
import type { EndpointName } from "../data/endpoint.ts";
import { endpointName } from "../data/endpoint.ts";
import { ApproxPrefixCacheProducer } from "../data/producers/approx-prefix-cache-producer.ts";
import { InflightLoadProducer } from "../data/producers/inflight-load-producer.ts";
import {
  type PreciseMatchObserver,
  PrecisePrefixCacheProducer,
} from "../data/producers/precise-prefix-cache-producer.ts";
import { PrecisePrefixCacheScorer } from "../data/producers/precise-prefix-cache-scorer.ts";
import type { EndpointStoreView } from "../data/store-view.ts";
import { DynamoPrefillRouter } from "../prefill-router/plugin/dynamo-prefill-router.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Metrics } from "../telemetry/metrics.ts";

export interface PluginGaugeOptions {
  readonly metrics: Metrics;
  readonly store: Pick<EndpointStoreView, "get">;
  readonly pipeline: { visitOpen(visit: (request: InferenceRequest) => void): void };
  /** Instances of the running configuration. */
  readonly instances: () => ReadonlyMap<string, Instance>;
}

export interface PluginGauges {
  /** Call after the configuration was loaded, and after each swap. */
  watchInstances(): void;
}

export function createPluginGauges({ metrics, store, pipeline, instances }: PluginGaugeOptions): PluginGauges {
  const { families, requests } = metrics;
  const isPresent = (namespace: string, name: string): boolean =>
    store.get(endpointName(namespace, name)) !== undefined;
  metrics.onCollect(() => {
    requests.pruneAttempts(isPresent);
    families.prefixSize.clear();
    for (const [name, { plugin, entry }] of instances()) {
      if (plugin instanceof ApproxPrefixCacheProducer) {
        families.prefixSize.series(name, entry.type).set(plugin.indexedBlocks);
      }
      const precise = preciseOf(plugin);
      if (precise !== undefined) families.prefixSize.series(name, entry.type).set(precise.indexedBlocks);
      const events = plugin instanceof DynamoPrefillRouter ? plugin.engineEvents : precise?.eventCounters;
      for (const [what, count] of Object.entries(events ?? {})) {
        families.kvEvents.series(name, entry.type, what).set(count);
      }
    }
    collectInflight();
  });

  /** Flows that have been seen stay at 0 while their endpoint is there: a gauge that vanishes draws a gap, not a zero. */
  const collectInflight = (): void => {
    for (const family of [families.inflightRequests, families.inflightTokens]) {
      family.prune(([name = "", namespace = ""]) => isPresent(namespace, name));
      for (const series of family.all()) series.set(0);
    }
    for (const [producer, { plugin }] of instances()) {
      if (!(plugin instanceof InflightLoadProducer)) continue;
      pipeline.visitOpen((request) => {
        const fairnessId = requests.fairness.fold(request.fairnessId);
        plugin.visitBookings(request, ({ name, namespace }, tokens) => {
          const labels = [
            bareName(name, namespace),
            namespace,
            producer,
            fairnessId,
            String(request.priority),
          ] as const;
          families.inflightRequests.series(...labels).add(1);
          families.inflightTokens.series(...labels).add(tokens);
        });
      });
    }
  };

  return {
    watchInstances() {
      for (const [name, { plugin, entry }] of instances()) {
        const precise = preciseOf(plugin);
        if (precise !== undefined) precise.matchObserver = observerOf(families, name, entry.type);
        if (!(plugin instanceof ApproxPrefixCacheProducer)) continue;
        const ratio = families.prefixHitRatio.series(name, entry.type);
        const bytes = families.prefixHitBytes.series(name, entry.type);
        plugin.hitObserver = {
          hit(matchedBytes, totalBytes) {
            ratio.observe(totalBytes === 0 ? 0 : matchedBytes / totalBytes);
            bytes.observe(matchedBytes);
          },
        };
      }
    },
  };
}

/** The precise prefix cache, alone or inside the scorer that brings its own. */
function preciseOf(plugin: unknown): PrecisePrefixCacheProducer | undefined {
  if (plugin instanceof PrecisePrefixCacheScorer) return plugin.producer;
  return plugin instanceof PrecisePrefixCacheProducer ? plugin : undefined;
}

function observerOf(families: Metrics["families"], name: string, type: string): PreciseMatchObserver {
  const max = families.preciseMaxHitRatio.series(name, type);
  const avg = families.preciseAvgHitRatio.series(name, type);
  const deviation = families.preciseStdDevHitRatio.series(name, type);
  return {
    matched(best, mean, spread) {
      max.observe(best);
      avg.observe(mean);
      deviation.observe(spread);
    },
  };
}

function bareName(name: EndpointName, namespace: string): string {
  return name.slice(namespace.length + 1);
}
