import { describe, expect, it } from "@jest/globals";
import { watchPoolGauges } from "../../../src/app/pool-gauges.ts";
import { type Endpoint, type EngineMetrics, noMetrics } from "../../../src/data/endpoint.ts";
import type { EndpointStoreView } from "../../../src/data/store-view.ts";
import { createMetrics } from "../../../src/telemetry/metrics.ts";
import { endpoint } from "../pipeline/fakes.ts";
import { parsePage } from "../telemetry/exposition-page.ts";

async function shown(
  pool: readonly Endpoint[],
  nowMs = 10_000,
  scrapeIntervalMs = 50,
): Promise<Readonly<Record<string, number>>> {
  const metrics = createMetrics({ streamMetrics: false, version: "1" });
  const store = { snapshot: () => pool } as unknown as EndpointStoreView;
  watchPoolGauges({
    metrics,
    store,
    poolName: "p",
    stalenessMs: 2_000,
    scrapeIntervalMs: () => scrapeIntervalMs,
    now: () => nowMs,
  });
  const gauges: Record<string, number> = {};
  for (const family of parsePage(await metrics.render()).values()) {
    for (const { name, labels, value } of family.samples) {
      if (labels["name"] === "p")
        gauges[`${name}${labels["model_server_endpoint"] ?? labels["model_server_pod"] ?? ""}`] = value;
    }
  }
  return gauges;
}

function engine(address: string, metrics: Partial<EngineMetrics>): Endpoint {
  return endpoint(address, 8000, { metrics: { ...noMetrics, updatedAtMs: 9_000, ...metrics } });
}

describe("the gauges of the pool", () => {
  const pool = [
    engine("a", { waitingRequests: 1, runningRequests: 2, kvCacheUsage: 0.1 }),
    engine("b", { waitingRequests: 2, runningRequests: 4, kvCacheUsage: 0.2 }),
    engine("c", { waitingRequests: 2, runningRequests: 6, kvCacheUsage: 0.4 }),
    engine("stale", { waitingRequests: 90, runningRequests: 90, kvCacheUsage: 1, updatedAtMs: 7_999 }),
    endpoint("never"),
  ];

  it("are means and deviations over fresh endpoints, rounded to two decimals", async () => {
    expect(await shown(pool)).toMatchObject({
      llm_d_epp_average_kv_cache_utilization: 0.23,
      llm_d_epp_average_queue_size: 1.67,
      llm_d_epp_average_running_requests: 4,
      llm_d_epp_std_dev_kv_cache_utilization: 0.12,
      llm_d_epp_std_dev_queue_size: 0.47,
      llm_d_epp_std_dev_running_requests: 1.63,
      inference_pool_average_kv_cache_utilization: 0.23,
      inference_pool_average_queue_size: 1.67,
      inference_pool_average_running_requests: 4,
    });
  });

  it("count metrics as fresh for two polls where a fleet is polled less often than the threshold", async () => {
    expect(await shown(pool, 10_000, 1_200)).toMatchObject({ llm_d_epp_ready_endpoints: 4 });
  });

  it("count endpoints with fresh metrics as ready", async () => {
    expect(await shown(pool)).toMatchObject({ llm_d_epp_ready_endpoints: 3, inference_pool_ready_pods: 3 });
    expect(await shown(pool, 9_999)).toMatchObject({ llm_d_epp_ready_endpoints: 4 });
  });

  it("keep the queue of each endpoint, a stale one's as it was last seen", async () => {
    expect(await shown(pool)).toMatchObject({
      "llm_d_epp_per_endpoint_queue_sizea-8000": 1,
      "llm_d_epp_per_endpoint_queue_sizestale-8000": 90,
      "inference_pool_per_pod_queue_sizestale-8000": 90,
    });
  });

  it("are 0 for an empty pool", async () => {
    expect(await shown([])).toMatchObject({ llm_d_epp_ready_endpoints: 0, llm_d_epp_average_queue_size: 0 });
  });
});
