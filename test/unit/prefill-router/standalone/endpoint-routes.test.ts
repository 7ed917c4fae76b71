/** The workers that endpoints become, in a router whose index no events feed: who comes and goes, what metrics say, and when it is ready. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { endpointName, noMetrics } from "../../../../src/data/endpoint.ts";
import { createEndpointStore, type EndpointStore } from "../../../../src/data/endpoint-store.ts";
import { instanceIdOfPod } from "../../../../src/dynamo/instance-id.ts";
import type { RouterSnapshot } from "../../../../src/prefill-router/contracts.ts";
import { readFleetSettings } from "../../../../src/prefill-router/fleet/fleet-settings.ts";
import { createKeyedHash } from "../../../../src/prefill-router/stage/tracking-hash.ts";
import { EndpointRoutes } from "../../../../src/prefill-router/standalone/endpoint-routes.ts";
import type { EngineParameters } from "../../../../src/prefill-router/standalone/engine-parameters.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { createTokenHasher } from "../../../../src/tokens/block-hash.ts";

const open: EndpointRoutes[] = [];
afterEach(async () => {
  for (const routes of open.splice(0)) await routes.close();
});

interface Options {
  readonly engines?: Partial<EngineParameters>;
  readonly environment?: Readonly<Record<string, string>>;
}

function routesOver(store: EndpointStore, { engines, environment }: Options = {}): EndpointRoutes {
  const { settings, faults } = readFleetSettings({ DYN_ROUTER_USE_KV_EVENTS: "false", ...environment }, {});
  expect(faults).toEqual([]);
  const routes = new EndpointRoutes({
    endpoints: store,
    engines: { modelName: "m", blockSizeTokens: 16, kvEventPort: 5557, ...engines },
    settings,
    tokenizer: undefined,
    log: silentLogger,
    now: () => performance.now(),
    random: () => 0.5,
    observersOf: () => [],
  });
  open.push(routes);
  return routes;
}

function add(store: EndpointStore, name: string, port = 8000, address = "10.0.0.1", role?: string): void {
  const labels = new Map(role === undefined ? [] : [["role", role]]);
  store.upsert("test", { namespace: "ns", name, address, port, labels });
}

function workersOf(routes: EndpointRoutes): RouterSnapshot["workers"][number]["worker"][] {
  const [set] = routes.state()["sets"] as readonly [{ readonly router: RouterSnapshot }];
  return set.router.workers.map(({ worker }) => worker);
}

describe("endpoints as workers", () => {
  it("are known by their pods, the ranks of a pod each by itself", () => {
    const store = createEndpointStore();
    const routes = routesOver(store, { engines: { totalKvBlocks: 100, maxNumBatchedTokens: 2048 } });
    add(store, "a-rank-0");
    routes.begin();
    add(store, "a-rank-1", 8001);
    add(store, "b");
    const facts = workersOf(routes).map((worker) => [worker.id, worker.stableRoutingId, worker.dataParallelStartRank]);
    expect(facts).toEqual([
      [instanceIdOfPod("a"), "a", 0],
      [instanceIdOfPod("a-rank-1"), "a-rank-1", 1],
      [instanceIdOfPod("b"), "b", 0],
    ]);
    for (const worker of workersOf(routes)) {
      expect(worker).toMatchObject({
        role: "aggregated",
        dataParallelSize: 1,
        totalKvBlocks: 100,
        maxNumBatchedTokens: 2048,
      });
    }
    store.remove("test", endpointName("ns", "a-rank-1"));
    expect(workersOf(routes).map(({ stableRoutingId }) => stableRoutingId)).toEqual(["a", "b"]);
  });

  it("do one stage each where a selector tells them apart, and another when their labels change", () => {
    const store = createEndpointStore();
    const routes = routesOver(store, { engines: { prefillSelector: "role=prefill", totalKvBlocks: 100 } });
    add(store, "a", 8000, "10.0.0.1", "prefill");
    add(store, "b", 8000, "10.0.0.2", "decode");
    add(store, "c", 8000, "fd00::3");
    routes.begin();
    const roles = () => Object.fromEntries(workersOf(routes).map((one) => [one.stableRoutingId, one.role]));
    expect(roles()).toEqual({ a: "prefill", b: "decode", c: "decode" });
    const found = routes.find("m");
    if (found.kind !== "found") throw new Error(found.kind);
    expect(["a", "b"].map((pod) => found.route.isPrefillWorker(instanceIdOfPod(pod)))).toEqual([true, false]);
    expect(found.route.prefillServerOf?.(instanceIdOfPod("a"))).toBe("10.0.0.1:8000");
    expect(found.route.prefillServerOf?.(instanceIdOfPod("c"))).toBe("[fd00::3]:8000");
    add(store, "c", 8000, "fd00::3", "prefill");
    add(store, "a", 8000, "10.0.0.1", "decode");
    routes.find("m");
    expect(roles()).toEqual({ a: "decode", b: "decode", c: "prefill" });
  });

  it("run blocks that are counted by keyed hashes, where a key is given", () => {
    const folder = mkdtempSync(join(tmpdir(), "signalbox-key-"));
    const file = join(folder, "key");
    writeFileSync(file, Buffer.alloc(32, 7));
    const environment = {
      DYN_ROUTER_TRACKING_HASH: "keyed-xxh3-v1",
      DYN_ROUTER_TRACKING_KEY_FILE: file,
      DYN_ROUTER_TRACKING_KEY_ID: "epoch-1",
    };
    const [open, keyed] = [{}, environment].map((settings) => {
      const routes = routesOver(createEndpointStore(), { environment: settings });
      routes.begin();
      const found = routes.find("m");
      if (found.kind !== "found") throw new Error(found.kind);
      return found.route;
    });
    rmSync(folder, { recursive: true });
    const tokens = Uint32Array.from({ length: 40 }, (_, index) => index);
    expect(open?.hash(tokens, "salt", undefined).trackingHashes).toBeUndefined();
    const made = keyed?.hash(tokens, "salt", undefined);
    expect(made).toMatchObject({ ...open?.hash(tokens, "salt", undefined), trackingHashes: expect.any(Uint32Array) });
    const track = createKeyedHash(Buffer.alloc(32, 7), "epoch-1", createTokenHasher()).of({
      modelName: "m",
      routingGroup: "default",
      blockSize: 16,
    });
    expect(made?.trackingHashes).toEqual(
      track(tokens, { cacheSalt: "salt", loraName: undefined, mmHashes: undefined }, false),
    );
    expect(made?.trackingHashes).not.toEqual(made?.sequenceHashes);
  });

  it("stay the same worker on another address", () => {
    const store = createEndpointStore();
    const routes = routesOver(store);
    routes.begin();
    add(store, "a");
    add(store, "a", 8000, "10.0.0.2");
    expect(workersOf(routes).map(({ id }) => id)).toEqual([instanceIdOfPod("a")]);
  });

  it("have the blocks that their metrics tell, unless they are given", () => {
    const store = createEndpointStore();
    const scraped = routesOver(store);
    const given = routesOver(store, { engines: { totalKvBlocks: 100 } });
    add(store, "a");
    for (const routes of [scraped, given]) routes.begin();
    expect(workersOf(scraped)[0]?.totalKvBlocks).toBeUndefined();
    store.setMetrics(endpointName("ns", "a"), { ...noMetrics, totalBlocks: 50 });
    for (const routes of [scraped, given]) expect(routes.find("m").kind).toBe("found");
    expect(workersOf(scraped)[0]?.totalKvBlocks).toBe(50);
    expect(workersOf(given)[0]?.totalKvBlocks).toBe(100);
    // A page that does not say it takes nothing back.
    store.setMetrics(endpointName("ns", "a"), noMetrics);
    scraped.find("m");
    expect(workersOf(scraped)[0]?.totalKvBlocks).toBe(50);
  });

  it("make the router ready once enough of them are there, and for good", () => {
    const store = createEndpointStore();
    const routes = routesOver(store, { environment: { DYN_ROUTER_MIN_INITIAL_WORKERS: "2" } });
    expect(routes.find("m").kind).toBe("not-ready");
    routes.begin();
    add(store, "a");
    store.markSynced();
    expect(routes.isReady).toBe(false);
    add(store, "b");
    expect(routes.isReady).toBe(true);
    store.remove("test", endpointName("ns", "a"));
    expect(routes.isReady).toBe(true);
  });

  it("need their batch size where requests wait for a share of it", () => {
    const environment = { DYN_ROUTER_QUEUE_THRESHOLD: "1" };
    const store = createEndpointStore();
    expect(() => routesOver(store, { environment })).toThrow("engines.maxNumBatchedTokens");
    expect(() => routesOver(store, { environment, engines: { maxNumBatchedTokens: 64 } })).not.toThrow();
  });
});
