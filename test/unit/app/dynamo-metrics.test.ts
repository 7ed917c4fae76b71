/** What a watcher of plans and the gauges of Dynamo's sets put on the page, over real routers, stages and an exact index. */
import { describe, expect, it } from "@jest/globals";
import { DynamoGauges } from "../../../src/app/dynamo-gauges.ts";
import { DynamoWatcher } from "../../../src/app/dynamo-watcher.ts";
import { createKvIndex } from "../../../src/data/prefix-index/exact-kv-index.ts";
import type { WorkerSet } from "../../../src/dynamo/worker-sets/worker-set.ts";
import type { PlanRequest, PrefillRouter } from "../../../src/prefill-router/contracts.ts";
import type { SetRuntime } from "../../../src/prefill-router/fleet/set-runtime.ts";
import { createIngestCounters } from "../../../src/prefill-router/indexer/ingest-counters.ts";
import type { PlannedEvent } from "../../../src/prefill-router/plan/contracts.ts";
import { createRemoteCounters } from "../../../src/prefill-router/remote-index/remote-counters.ts";
import { createReplicaCounters } from "../../../src/prefill-router/replica-sync/replica-counters.ts";
import { createSharedCacheCounters } from "../../../src/prefill-router/shared-cache/shared-cache-counters.ts";
import { createMetrics } from "../../../src/telemetry/metrics.ts";

function workerSet(namespace = "ns", sources = 0): WorkerSet {
  const worker = {
    id: 7n,
    role: "aggregated",
    card: { runtime: { dataParallelSize: 1 } },
    instance: { namespace, component: "backend", endpoint: "generate" },
    sources: new Map(Array.from({ length: sources }, (_, rank) => [rank, {}])),
  };
  return {
    key: `${namespace}/tiny`,
    namespace,
    model: "tiny",
    state: "ready",
    card: { kvCacheBlockSize: 16 },
    workers: new Map([[7n, worker]]),
  } as unknown as WorkerSet;
}

const request = { isl: 100 } as PlanRequest;

function planned(mode: "aggregated" | "disaggregated", hitTokens: number, lostTokens = 0): PlannedEvent {
  return {
    request,
    plan: { mode } as PlannedEvent["plan"],
    policyClass: "default",
    waitedMs: 0,
    isBypass: false,
    hitTokens,
    lostTokens,
    sharedHits: undefined,
  };
}

function start() {
  const metrics = createMetrics({ streamMetrics: false, version: "1" });
  const watcher = new DynamoWatcher(metrics.dynamo);
  const page = async (): Promise<string> =>
    (await metrics.render())
      .split("\n")
      .filter((line) => /^(dynamo|llm_d_epp_dynamo)_/.test(line) && !line.includes("_bucket{"))
      .join("\n");
  return { metrics, watcher, page };
}

const route = { key: "ns/tiny", namespace: "ns", model: "tiny" };
const at = 'dynamo_namespace="ns",dynamo_component="backend"';

describe("the watcher of plans", () => {
  it("follows a disaggregated request from its plan to its end", async () => {
    const { watcher, page } = start();
    watcher.observerOf(workerSet()).planned?.(planned("disaggregated", 32, 48));
    watcher.firstByte(route, 250);
    watcher.ended(
      route,
      "disaggregated",
      { promptTokens: 100, completionTokens: 5, totalTokens: 105, cachedTokens: 0 },
      400,
    );
    const text = await page();
    for (const line of [
      `dynamo_component_router_requests_started_total{${at}} 1`,
      `dynamo_component_router_requests_total{${at}} 1`,
      `dynamo_component_router_kv_hit_rate_sum{${at}} 0.32`,
      `dynamo_component_router_kv_selected_cached_prefix_tokens_total{${at},phase="prefill",model="tiny"} 32`,
      `dynamo_component_router_kv_best_eligible_cached_prefix_tokens_total{${at},phase="prefill",model="tiny"} 80`,
      `dynamo_component_router_non_max_overlap_selections_total{${at},worker_type="prefill"} 1`,
      `dynamo_component_router_overlap_blocks_lost_sum{${at},worker_type="prefill"} 3`,
      `dynamo_component_router_time_to_first_token_seconds_sum{${at}} 0.25`,
      `dynamo_component_router_inter_token_latency_seconds_sum{${at}} 0.1`,
      `dynamo_component_router_output_sequence_tokens_sum{${at}} 5`,
      // A miss is an observation, too.
      'dynamo_epp_cached_tokens_count{model="tiny"} 1',
    ]) {
      expect(text).toContain(line);
    }
  });

  it("counts no overlap as lost where nothing is prefilled apart, as Dynamo", async () => {
    const { watcher, page } = start();
    watcher.observerOf(workerSet()).planned?.(planned("aggregated", 0, 64));
    const text = await page();
    expect(text).not.toContain("non_max_overlap");
    expect(text).toContain(`kv_best_eligible_cached_prefix_tokens_total{${at},phase="aggregated",model="tiny"} 64`);
  });

  it("fabricates nothing for an answer without usage", async () => {
    const { watcher, page } = start();
    watcher.observerOf(workerSet()).planned?.(planned("aggregated", 0));
    watcher.ended(route, "aggregated", undefined, undefined);
    expect(await page()).toContain('dynamo_epp_cached_tokens_count{model="tiny"} 0');
  });

  it("tells how much of a prompt a shared cache has, and how much of that beyond the chosen rank", async () => {
    const { watcher, page } = start();
    const observer = watcher.observerOf(workerSet());
    observer.planned?.(planned("aggregated", 32));
    expect(await page()).not.toContain("shared_cache");
    observer.sharedCacheAsked?.(0.25);
    // Four of six blocks, of which the rank has the first two itself.
    observer.planned?.({ ...planned("aggregated", 32), sharedHits: Uint32Array.of(1, 4, 5, 6) });
    observer.planned?.({ ...planned("aggregated", 0), sharedHits: new Uint32Array(0) });
    const text = await page();
    for (const line of [
      "dynamo_router_overhead_shared_cache_query_ms_sum 0.25",
      `dynamo_component_router_shared_cache_hit_rate_sum{${at}} ${4 / 6}`,
      `dynamo_component_router_shared_cache_hit_rate_count{${at}} 2`,
      `dynamo_component_router_shared_cache_beyond_blocks_sum{${at}} 3`,
    ]) {
      expect(text).toContain(line);
    }
  });

  it("counts refusals by reason, those for overload under Dynamo's name and a queue's limit under the queue's", async () => {
    const { watcher, page } = start();
    const message = "";
    const full = {
      kind: "queue-full",
      stage: "prefill",
      message,
      policyClass: "batch",
      limit: { kind: "raw_isl_tokens", current: 9, limit: 8 },
    } as const;
    watcher.observerOf(workerSet()).refused?.(full, request);
    watcher.refused(route, "openai-chat", full);
    watcher.refused(route, "openai-completions", { kind: "overloaded", stage: "decode", message });
    watcher.refused(route, "openai-chat", { kind: "not-ready", message });
    watcher.misplaced(route);
    const text = await page();
    for (const line of [
      'dynamo_frontend_router_queue_backpressure_total{model="tiny",worker_type="prefill",policy_class="batch",reason="raw_isl_token_limit"} 1',
      'dynamo_frontend_router_admission_received_total{model="tiny",worker_type="prefill",policy_class="batch"} 1',
      'dynamo_epp_rejections_total{model="tiny",reason="queue-full"} 1',
      'dynamo_epp_rejections_total{model="tiny",reason="not-ready"} 1',
      'dynamo_frontend_model_rejection_total{model="tiny",endpoint="chat_completions"} 1',
      'dynamo_frontend_model_rejection_total{model="tiny",endpoint="completions"} 1',
      'dynamo_epp_endpoint_mismatch_total{model="tiny"} 1',
    ]) {
      expect(text).toContain(line);
    }
  });

  it("times hashes and plans, and counts prompts without tokens", async () => {
    const { watcher, page } = start();
    watcher.timed(0.004, 0.1);
    watcher.untokenized(route);
    const text = await page();
    expect(text).toContain("dynamo_router_overhead_block_hashing_ms_sum 0.004");
    expect(text).toContain("dynamo_router_overhead_total_ms_sum 0.1");
    expect(text).toContain('llm_d_epp_dynamo_untokenized_total{model="tiny"} 1');
  });

  it("tells bookings of this picker that nobody ended from those of replicas, and how long requests waited", async () => {
    const { watcher, page } = start();
    const observer = watcher.observerOf(workerSet());
    observer.reaped?.(2, false);
    observer.reaped?.(3, true);
    observer.left?.("default", 1500, "planned");
    const text = await page();
    expect(text).toContain('bookings_reaped_total{model="tiny",dynamo_namespace="ns",origin="own"} 2');
    expect(text).toContain('bookings_reaped_total{model="tiny",dynamo_namespace="ns",origin="replica"} 3');
    expect(text).toContain('queue_wait_seconds_sum{model="tiny",policy_class="default"} 1.5');
  });

  it("forgets sets that have left once there are many, and keeps those that live", async () => {
    const { watcher, page, metrics } = start();
    for (let generation = 0; generation < 200; generation++) {
      watcher.observerOf(workerSet(`ns-${generation}`)).planned?.(planned("aggregated", 0));
    }
    watcher.keepOnly(new Set(["ns-199/tiny"]), new Set(["ns-199"]));
    expect(metrics.dynamo.requestsStarted.size).toBe(1);
    expect(await page()).toContain('requests_started_total{dynamo_namespace="ns-199",dynamo_component="backend"} 1');
  });

  it("keeps the series of a set that only flaps", () => {
    const { watcher, metrics } = start();
    watcher.observerOf(workerSet()).planned?.(planned("aggregated", 0));
    watcher.keepOnly(new Set(), new Set());
    expect(metrics.dynamo.requestsStarted.size).toBe(1);
  });
});

describe("the gauges of worker sets", () => {
  function runtime(sources: number) {
    const index = createKvIndex({ random: () => 0 });
    const counters = createIngestCounters();
    const replicas = createReplicaCounters();
    const loads = [{ workerId: 7n, dpRank: 0, activePrefillTokens: 30, activeDecodeBlocks: 4, activeRequests: 1 }];
    const router: Pick<PrefillRouter, "snapshot"> = {
      snapshot: () =>
        ({
          topology: "aggregated",
          workers: [{ isSuspect: true }],
          loads: { prefill: [], decode: loads },
          queue: [{ policyClass: "default", requests: 2, rawTokens: 200, cachedTokens: 64 }],
          bookings: 1,
        }) as unknown as ReturnType<PrefillRouter["snapshot"]>,
    };
    return {
      counters,
      replicas,
      runtime: {
        set: workerSet("ns", sources),
        router,
        indexSize: index,
        ingest: { counters },
        replicas: { counters: replicas },
      } as unknown as SetRuntime,
    };
  }

  it("show books, queues, the index and workers that publish no events", async () => {
    const { metrics, page } = start();
    const gauges = new DynamoGauges(metrics.dynamo);
    gauges.begin();
    gauges.discovered("dynamo-discovery", { sets: { sets: [workerSet()] }, isStale: true, malformedRecords: 3 });
    gauges.routed(runtime(0).runtime);
    const text = await page();
    for (const line of [
      'llm_d_epp_dynamo_worker_sets{state="ready"} 1',
      'llm_d_epp_dynamo_worker_sets{state="conflict"} 0',
      'llm_d_epp_dynamo_discovery_stale{plugin_name="dynamo-discovery"} 1',
      'llm_d_epp_dynamo_discovery_malformed_records{plugin_name="dynamo-discovery"} 3',
      'llm_d_epp_dynamo_bookings{model="tiny",dynamo_namespace="ns"} 1',
      'llm_d_epp_dynamo_suspect_workers{model="tiny",dynamo_namespace="ns"} 1',
      'llm_d_epp_dynamo_index_blocks{model="tiny",dynamo_namespace="ns"} 0',
      'dynamo_frontend_router_queue_pending_isl_tokens{model="tiny",worker_type="decode",policy_class="default"} 200',
      'dynamo_frontend_worker_active_decode_blocks{worker_id="7",dp_rank="0",worker_type="decode"} 4',
      `dynamo_component_router_worker_registered{${at},router_worker_id="7",dp_rank="0",worker_type="decode"} 1`,
      'kv_event_source_mismatch_workers{model="tiny",worker_type="decode",target_namespace="ns",target_component="backend",target_endpoint="generate"} 1',
    ]) {
      expect(text).toContain(line);
    }
  });

  it("show shared caches by stage, and count their events once", async () => {
    const { metrics, page } = start();
    const gauges = new DynamoGauges(metrics.dynamo);
    const counters = { ...createSharedCacheCounters(), stored: 6, gaps: 1, malformed: 2, disconnects: 1 };
    const sharedCaches = {
      counters,
      pages: 3,
      stateOf: (stage: string) => (stage === "prefill" ? "following" : "silent"),
    };
    const { runtime: each } = runtime(1);
    for (let read = 0; read < 2; read++) {
      gauges.begin();
      gauges.routed({ set: each.set, router: each.router, sharedCaches } as unknown as SetRuntime);
    }
    const text = await page();
    const labels = 'model="tiny",dynamo_namespace="ns"';
    for (const line of [
      `llm_d_epp_dynamo_shared_cache_state{${labels},stage="prefill",state="following"} 1`,
      `llm_d_epp_dynamo_shared_cache_state{${labels},stage="prefill",state="degraded"} 0`,
      `llm_d_epp_dynamo_shared_cache_state{${labels},stage="decode",state="silent"} 1`,
      `llm_d_epp_dynamo_shared_cache_pages{${labels}} 3`,
      `llm_d_epp_dynamo_shared_cache_events_total{${labels},what="stored"} 6`,
      `llm_d_epp_dynamo_shared_cache_events_total{${labels},what="gap"} 1`,
      "dynamo_router_shared_cache_errors_total 3",
    ]) {
      expect(text).toContain(line);
    }
  });

  it("are those of the sets that are there now", async () => {
    const { metrics, page } = start();
    const gauges = new DynamoGauges(metrics.dynamo);
    gauges.begin();
    gauges.routed(runtime(1).runtime);
    expect(await page()).toMatch(/kv_event_source_mismatch_workers\{.*\} 0/);
    gauges.begin();
    expect(await page()).not.toContain("llm_d_epp_dynamo_bookings{");
  });

  it("count events and recoveries once, however often the page is read, and go on with a set's successor", async () => {
    const { metrics, page } = start();
    const gauges = new DynamoGauges(metrics.dynamo);
    const first = runtime(1);
    const read = (each: SetRuntime): void => {
      gauges.begin();
      gauges.routed(each);
    };
    first.counters.stored = 10;
    first.counters.recoveriesDone = 1;
    first.counters.dropped["unknown-parent"] = 2;
    read(first.runtime);
    read(first.runtime);
    first.counters.stored = 15;
    read(first.runtime);
    first.replicas.published = 3;
    read(first.runtime);
    read(first.runtime);
    const second = runtime(1);
    second.counters.stored = 1;
    read(second.runtime);
    const text = await page();
    expect(text).toContain(`kv_cache_events_applied{${at},event_type="stored",status="ok"} 16`);
    expect(text).toContain(`kv_cache_events_applied{${at},event_type="stored",status="parent_block_not_found"} 2`);
    expect(text).toContain('replica_events_total{model="tiny",dynamo_namespace="ns",what="published"} 3');
    expect(text).toContain('recoveries_total{model="tiny",dynamo_namespace="ns",outcome="done"} 1');
    expect(text).toContain('events_dropped_total{model="tiny",dynamo_namespace="ns",reason="unknown-parent"} 2');
  });

  it("count what other indices were asked and what became of it, ours among them", async () => {
    const { metrics, page } = start();
    const gauges = new DynamoGauges(metrics.dynamo);
    const remote = createRemoteCounters();
    const served = { answered: 4, recorded: 0, foreign: 1 };
    const { runtime: routed } = runtime(1);
    Object.assign(routed, { remoteIndex: { counters: remote }, serving: { counters: served } });
    remote.answered = 5;
    remote.recorded = 1;
    remote.failedQueries.set("too-slow", 2).set("topology", 1);
    remote.failedRecords.set("error", 1);
    for (let reading = 0; reading < 2; reading++) {
      gauges.begin();
      gauges.routed(routed);
    }
    const text = await page();
    const of = 'model="tiny",dynamo_namespace="ns"';
    for (const line of [
      `remote_index_queries_total{${of},outcome="answered"} 5`,
      `remote_index_queries_total{${of},outcome="too-slow"} 2`,
      `remote_index_records_total{${of},outcome="recorded"} 1`,
      `remote_index_records_total{${of},outcome="error"} 1`,
      `served_index_requests_total{${of},what="answered"} 4`,
      `dynamo_component_router_remote_indexer_query_failures_total{${at}} 3`,
      `dynamo_component_router_remote_indexer_write_failures_total{${at}} 1`,
    ]) {
      expect(text).toContain(line);
    }
  });
});
