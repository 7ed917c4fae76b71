/** Gauges of Dynamo's worker sets, routers and indices, and counters that they keep themselves: read when a metrics page is asked for. */
import type { SetState, WorkerSet } from "../dynamo/worker-sets/worker-set.ts";
import type { IngestCounters, IngestDropReason } from "../prefill-router/indexer/ingest-counters.ts";
import type { RoutedSet } from "../prefill-router/plugin/dynamo-prefill-router.ts";
import type { WatchedSet } from "../prefill-router/plugin/plan-watcher.ts";
import type { RemoteCounters } from "../prefill-router/remote-index/remote-counters.ts";
import type { ServingCounters } from "../prefill-router/remote-index/set-serving.ts";
import type { ReplicaCounters } from "../prefill-router/replica-sync/replica-counters.ts";
import type { SharedCacheState } from "../prefill-router/shared-cache/shared-caches.ts";
import type { DynamoFamilies } from "../telemetry/dynamo-catalogue.ts";
import type { Family, Series } from "../telemetry/families.ts";
import { componentOf } from "./dynamo-watcher.ts";

const setStates: readonly SetState[] = ["ready", "waiting-for-prefill", "incomplete", "conflict", "waiting-for-files"];

/** What of a reason Dynamo counts as an event that was not applied → its status. */
const statusOfDrop: Readonly<Partial<Record<IngestDropReason, string>>> = {
  "unknown-parent": "parent_block_not_found",
  "invalid-block": "invalid_block",
  "index-full": "capacity_exhausted",
  "foreign-domain": "unsupported_residency_domain",
};

const sharedCacheStates: readonly SharedCacheState[] = ["following", "disconnected", "degraded", "silent"];

/** Label of what became of a shared cache's events → their counter. */
const sharedEventKinds = {
  stored: "stored",
  removed: "removed",
  foreign: "foreign",
  keyless: "keyless",
  malformed: "malformed",
  gap: "gaps",
  overflow: "overflows",
} as const;

/** What is shown of a discovery. */
export interface DiscoveryState {
  readonly sets: { readonly sets: readonly WorkerSet[] };
  readonly isStale: boolean;
  readonly malformedRecords: number;
}

/** Adds to counters what totals have grown by since they were last read. */
class Growth {
  readonly #seen = new WeakMap<object, Map<Series, number>>();

  add(owner: object, series: Series, total: number): void {
    let seen = this.#seen.get(owner);
    if (seen === undefined) {
      seen = new Map();
      this.#seen.set(owner, seen);
    }
    const grown = total - (seen.get(series) ?? 0);
    if (grown <= 0) return;
    series.add(grown);
    seen.set(series, total);
  }
}

export class DynamoGauges {
  readonly #families: DynamoFamilies;
  readonly #growth = new Growth();

  constructor(families: DynamoFamilies) {
    this.#families = families;
  }

  /** Forgets what was shown; `discovered` and `routed` follow for each plugin. */
  begin(): void {
    const families = this.#families;
    const gauges: readonly Family[] = [
      families.workerSets,
      families.discoveryStale,
      families.malformedRecords,
      families.sourceMismatch,
      families.registered,
      families.indexBlocks,
      families.indexHeldBlocks,
      families.indexSize,
      families.sharedState,
      families.sharedPages,
      families.bookings,
      families.suspects,
      families.pendingRequests,
      families.pendingTokens,
      families.pendingCachedTokens,
      families.activeDecodeBlocks,
      families.activePrefillTokens,
    ];
    for (const gauge of gauges) gauge.clear();
  }

  discovered(pluginName: string, workers: DiscoveryState): void {
    const { workerSets, discoveryStale, malformedRecords } = this.#families;
    for (const state of setStates) workerSets.series(state);
    for (const { state } of workers.sets.sets) workerSets.series(state).add(1);
    discoveryStale.series(pluginName).set(workers.isStale ? 1 : 0);
    malformedRecords.series(pluginName).set(workers.malformedRecords);
  }

  routed(runtime: RoutedSet): void {
    const { set } = runtime;
    this.#books(runtime, set);
    this.#index(runtime, set);
    this.#sharedCaches(runtime.sharedCaches, set);
    if (runtime.replicas !== undefined) this.#replicas(runtime.replicas.counters, set);
    if (runtime.remoteIndex !== undefined) this.#remote(runtime.remoteIndex.counters, set);
    if (runtime.serving !== undefined) this.#served(runtime.serving.counters, set);
    if (runtime.ingest === undefined) return;
    this.#sources(set);
    this.#events(runtime.ingest.counters, set);
  }

  #books(runtime: RoutedSet, set: WatchedSet): void {
    const families = this.#families;
    const { model, namespace } = set;
    const { bookings, queue, loads, topology, workers } = runtime.router.snapshot();
    families.bookings.series(model, namespace).add(bookings);
    families.suspects.series(model, namespace).add(workers.filter(({ isSuspect }) => isSuspect).length);
    const type = topology === "disaggregated" ? "prefill" : "decode";
    for (const { policyClass, requests, rawTokens, cachedTokens } of queue) {
      families.pendingRequests.series(model, type, policyClass).add(requests);
      families.pendingTokens.series(model, type, policyClass).add(rawTokens);
      families.pendingCachedTokens.series(model, type, policyClass).add(cachedTokens);
    }
    const component = componentOf(set);
    for (const stage of ["prefill", "decode"] as const) {
      for (const { workerId, dpRank, activeDecodeBlocks, activePrefillTokens } of loads[stage]) {
        const rank = [workerId.toString(), String(dpRank), stage] as const;
        families.activeDecodeBlocks.series(...rank).set(activeDecodeBlocks);
        families.activePrefillTokens.series(...rank).set(activePrefillTokens);
        families.registered.series(namespace, component, ...rank).set(1);
      }
    }
  }

  #replicas(counters: ReplicaCounters, { model, namespace }: WatchedSet): void {
    for (const what of ["published", "dropped", "heard", "booked", "prefilled", "freed", "abandoned"] as const) {
      this.#growth.add(counters, this.#families.replicaEvents.series(model, namespace, what), counters[what]);
    }
  }

  #remote(counters: RemoteCounters, set: WatchedSet): void {
    const { remoteQueries, remoteRecords, remoteQueryFailures, remoteWriteFailures } = this.#families;
    const { model, namespace } = set;
    const { answered, cancelled, recorded, failedQueries, failedRecords } = counters;
    const grow = (family: Family, outcome: string, total: number): void => {
      if (total > 0) this.#growth.add(counters, family.series(model, namespace, outcome), total);
    };
    grow(remoteQueries, "answered", answered);
    grow(remoteQueries, "cancelled", cancelled);
    grow(remoteRecords, "recorded", recorded);
    for (const [reason, total] of failedQueries) grow(remoteQueries, reason, total);
    for (const [reason, total] of failedRecords) grow(remoteRecords, reason, total);
    const component = componentOf(set);
    this.#growth.add(counters, remoteQueryFailures.series(namespace, component), sumOf(failedQueries));
    this.#growth.add(counters, remoteWriteFailures.series(namespace, component), sumOf(failedRecords));
  }

  #served(counters: ServingCounters, { model, namespace }: WatchedSet): void {
    for (const what of ["answered", "recorded", "foreign"] as const) {
      this.#growth.add(counters, this.#families.servedRequests.series(model, namespace, what), counters[what]);
    }
  }

  #index({ indexSize }: RoutedSet, { model, namespace }: WatchedSet): void {
    if (indexSize === undefined) return;
    this.#families.indexBlocks.series(model, namespace).add(indexSize.blocks);
    this.#families.indexHeldBlocks.series(model, namespace).add(indexSize.heldBlocks);
    this.#families.indexSize.series(model, namespace).add(indexSize.sizeBytes);
  }

  #sharedCaches(caches: RoutedSet["sharedCaches"], { model, namespace }: WatchedSet): void {
    if (caches === undefined) return;
    const { sharedState, sharedPages, sharedEvents, sharedErrors } = this.#families;
    for (const stage of ["prefill", "decode"] as const) {
      const current = caches.stateOf(stage);
      for (const state of sharedCacheStates)
        sharedState.series(model, namespace, stage, state).add(state === current ? 1 : 0);
    }
    sharedPages.series(model, namespace).add(caches.pages);
    const { counters } = caches;
    for (const [what, counter] of Object.entries(sharedEventKinds) as [string, keyof typeof counters][]) {
      this.#growth.add(counters, sharedEvents.series(model, namespace, what), counters[counter]);
    }
    this.#growth.add(counters, sharedErrors.series(), counters.malformed + counters.disconnects);
  }

  #sources({ model, workers }: WatchedSet): void {
    for (const { role, instance, card, sources } of workers.values()) {
      const { namespace, component, endpoint } = instance;
      const type = role === "prefill" ? "prefill" : "decode";
      // After a remote prefill the decode worker's cache plays no part, so that it need not publish any.
      const isMissing = role !== "decode" && sources.size < card.runtime.dataParallelSize;
      this.#families.sourceMismatch.series(model, type, namespace, component, endpoint).add(isMissing ? 1 : 0);
    }
  }

  #events(counters: IngestCounters, set: WatchedSet): void {
    const { eventsApplied, eventsDropped, recoveries, skippedEvents } = this.#families;
    const { model, namespace } = set;
    const component = componentOf(set);
    const grow = (series: Series, total: number): void => this.#growth.add(counters, series, total);
    for (const kind of ["stored", "removed", "cleared"] as const) {
      grow(eventsApplied.series(namespace, component, kind, "ok"), counters[kind]);
    }
    for (const [reason, count] of Object.entries(counters.dropped) as [IngestDropReason, number][]) {
      if (count === 0) continue;
      grow(eventsDropped.series(model, namespace, reason), count);
      const status = statusOfDrop[reason];
      if (status !== undefined) grow(eventsApplied.series(namespace, component, "stored", status), count);
    }
    grow(recoveries.series(model, namespace, "done"), counters.recoveriesDone);
    grow(recoveries.series(model, namespace, "failed"), counters.recoveriesFailed);
    grow(skippedEvents.series(model, namespace), counters.skippedIds);
  }
}

function sumOf(counts: ReadonlyMap<unknown, number>): number {
  let sum = 0;
  for (const count of counts.values()) sum += count;
  return sum;
}
