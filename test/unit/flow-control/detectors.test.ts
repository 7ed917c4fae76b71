import { describe, expect, it } from "@jest/globals";
import { type Endpoint, type EngineMetrics, endpointName, noMetrics } from "../../../src/data/endpoint.ts";
import type { PluginContext } from "../../../src/data/plugin.ts";
import { concurrencyDetector } from "../../../src/flow-control/concurrency-detector.ts";
import { utilizationDetector } from "../../../src/flow-control/utilization-detector.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";

const context: PluginContext = {
  name: "detector",
  log: silentLogger,
  endpoints: {
    snapshot: () => [],
    get: () => undefined,
    subscribe: () => () => {},
    isSynced: true,
    book: () => ({ releaseTokens: () => {}, release: () => {} }),
  },
  plugin: () => undefined,
  now: () => 0,
  random: () => 0,
};

function endpoint(metrics: Partial<EngineMetrics>, load = { requests: 0, tokens: 0 }): Endpoint {
  return {
    name: endpointName("default", "pod"),
    namespace: "default",
    slot: 0,
    generation: 1,
    address: "10.0.0.1",
    port: 8000,
    hostPort: "10.0.0.1:8000",
    labels: new Map(),
    metrics: { ...noMetrics, updatedAtMs: 0, ...metrics },
    load,
    attributes: new Map(),
  };
}

const queued = (waitingRequests: number) => endpoint({ waitingRequests });
const filled = (kvCacheUsage: number) => endpoint({ kvCacheUsage });
const inFlight = (requests: number, tokens = 0) => endpoint({}, { requests, tokens });

describe("the utilization detector", () => {
  const detector = utilizationDetector.create(
    { queueDepthThreshold: 5, kvCacheUtilThreshold: 0.8, metricsStalenessThreshold: "200ms", headroom: 0 },
    context,
  );

  it.each<[string, readonly Endpoint[], number, number]>([
    ["1 for no endpoint", [], 0, 1],
    ["0 for an idle endpoint", [queued(0)], 0, 0],
    ["queue over its threshold", [queued(2)], 0, 0.4],
    ["KV usage over its threshold", [filled(0.4)], 0, 0.5],
    ["the worse of both", [endpoint({ waitingRequests: 4, kvCacheUsage: 0.4 })], 0, 0.8],
    ["not clamped", [queued(15)], 0, 3],
    ["the mean of the endpoints", [queued(0), queued(10)], 0, 1],
    ["1 for an endpoint that was never scraped", [endpoint({ updatedAtMs: Number.NEGATIVE_INFINITY })], 0, 1],
    ["the last reading up to the staleness threshold", [queued(0)], 200, 0],
    ["half way to 1 in the middle of fading", [queued(0)], 1100, 0.5],
    ["half way down to 1 where the reading was above", [queued(15)], 1100, 2],
    ["1 once the metrics have faded", [queued(0)], 2000, 1],
  ])("is %s", (_name, endpoints, nowMs, saturation) => {
    expect(detector.saturation(endpoints, nowMs)).toBeCloseTo(saturation, 9);
  });

  it("rises without a cliff when a scrape is late", () => {
    const readings = [190, 200, 210, 250, 300].map((nowMs) => detector.saturation([queued(0)], nowMs));
    expect(Math.max(...readings)).toBeLessThan(0.06);
    expect(readings).toEqual(readings.toSorted((a, b) => a - b));
  });

  it("keeps, as a filter, the endpoints within the thresholds", () => {
    const [idle, busy, full] = [queued(5), queued(6), filled(0.81)];
    expect(detector.filter({ nowMs: 0 }, [idle, busy, full])).toEqual([idle]);
  });

  it("keeps, as a filter, none whose metrics have faded", () => {
    const [fresh, old] = [endpoint({ updatedAtMs: 5000 }), queued(0)];
    expect(detector.filter({ nowMs: 5000 }, [fresh, old])).toEqual([fresh]);
  });

  it("keeps all, as a filter, when none is within the thresholds", () => {
    const endpoints = [queued(9), filled(1)];
    expect(detector.filter({ nowMs: 0 }, endpoints)).toBe(endpoints);
  });

  it("raises the thresholds of the filter by the headroom, not those of the saturation", () => {
    const roomy = utilizationDetector.create(
      { queueDepthThreshold: 5, kvCacheUtilThreshold: 0.8, metricsStalenessThreshold: "200ms", headroom: 0.2 },
      context,
    );
    const [within, beyond] = [queued(6), queued(7)];
    expect(roomy.filter({ nowMs: 0 }, [within, beyond])).toEqual([within]);
    expect(roomy.saturation([queued(5)], 0)).toBe(1);
  });

  it.each(["soon", "0ms", "200", "-1s"])("refuses the staleness threshold %s", (metricsStalenessThreshold) => {
    expect(
      utilizationDetector.validate?.({
        queueDepthThreshold: 5,
        kvCacheUtilThreshold: 0.8,
        metricsStalenessThreshold,
        headroom: 0,
      }),
    ).toHaveLength(1);
  });
});

describe("the concurrency detector", () => {
  const limits = { maxConcurrency: 10, maxTokenConcurrency: 1000, headroom: 0 };
  const create = (concurrencyMode: "requests" | "tokens" | "hybrid", headroom = 0) =>
    concurrencyDetector.create({ ...limits, concurrencyMode, headroom }, context);

  it.each<["requests" | "tokens" | "hybrid", readonly Endpoint[], number]>([
    ["requests", [], 1],
    ["requests", [inFlight(5, 9999), inFlight(15)], 1],
    ["tokens", [inFlight(99, 250), inFlight(0, 250)], 0.25],
    ["hybrid", [inFlight(2, 500)], 0.5],
    ["hybrid", [inFlight(20, 500)], 2],
  ])("counting %s of %j measures %d", (mode, endpoints, saturation) => {
    expect(create(mode).saturation(endpoints, 0)).toBe(saturation);
  });

  it("keeps, as a filter, the endpoints with room, and may leave none", () => {
    const [free, full] = [inFlight(9), inFlight(10)];
    expect(create("requests").filter(undefined, [free, full])).toEqual([free]);
    expect(create("requests").filter(undefined, [full])).toEqual([]);
    expect(create("requests", 0.1).filter(undefined, [full])).toEqual([full]);
  });
});
