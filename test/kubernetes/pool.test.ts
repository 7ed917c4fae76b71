/** Endpoints of an InferencePool over a real API server: pools and pods that are created, edited and deleted, as an account that may only look at them. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { endpointName } from "../../src/data/endpoint.ts";
import { createKubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { startFaultProxy } from "./fault-proxy.ts";
import {
  alphaGroup,
  createPoolNamespace,
  type PoolNamespace,
  type PoolWatching,
  poolSpec,
  watchPool,
} from "./pool-namespace.ts";

let plane: ControlPlane;
let count = 0;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  plane = await startControlPlane();
  await installDefinitions(plane.api, "inference-extension", "inference-pool-v1alpha2");
}, 120_000);
afterAll(async () => {
  await plane?.close();
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
});

const place = (): Promise<PoolNamespace> => createPoolNamespace(plane, `pool-${++count}`);

async function watching(...args: Parameters<typeof watchPool>): Promise<PoolWatching> {
  const made = await watchPool(...args);
  open.push(made);
  return made;
}

const app = { app: "vllm" };

describe("the endpoints of a pool", () => {
  it("are its ready pods, one endpoint for each target port, whoever came first", async () => {
    const its = await place();
    await its.createPod("before", { labels: app, ips: ["10.1.0.1"] });
    await its.createPod("waiting", { labels: app, ips: ["10.1.0.2"], ready: false });
    await its.createPod("stranger", { labels: { app: "other" }, ips: ["10.1.0.3"] });
    await its.createPod("homeless", { labels: app, ready: true });
    await its.putPool("p", poolSpec(app, 8000, 8001));
    const { sees, store } = await watching(plane, its, "p");
    const before = { "before-rank-0": "10.1.0.1:8000", "before-rank-1": "10.1.0.1:8001" };
    await sees(before);
    await its.setStatus("waiting", { ips: ["10.1.0.2"] });
    await sees({ ...before, "waiting-rank-0": "10.1.0.2:8000", "waiting-rank-1": "10.1.0.2:8001" });
    expect(store.get(endpointName(its.namespace, "before-rank-1"))?.labels).toEqual(new Map(Object.entries(app)));
    await its.setStatus("waiting", { ips: ["10.1.0.2"], ready: false });
    await sees(before);
    await its.deletePod("before");
    await sees({});
  });

  it("leave when a pod is on its way out, although it is still ready", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: app, ips: ["10.1.0.1"], finalizers: ["tests/stay"] });
    await its.putPool("p", poolSpec(app, 8000));
    const { sees } = await watching(plane, its, "p");
    await sees({ "p-0-rank-0": "10.1.0.1:8000" });
    await its.deletePod("p-0");
    await sees({});
    await its.patchPod("p-0", { finalizers: null });
  });

  it("follow the labels and the annotation of a pod", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: app, ips: ["10.1.0.1"] });
    await its.putPool("p", poolSpec(app, 8000, 8001, 8002));
    const { sees } = await watching(plane, its, "p");
    const all = { "p-0-rank-0": "10.1.0.1:8000", "p-0-rank-1": "10.1.0.1:8001", "p-0-rank-2": "10.1.0.1:8002" };
    await sees(all);
    await its.patchPod("p-0", { annotations: { "llm-d.ai/active-ports": "8002, 8000" } });
    await sees({ "p-0-rank-0": "10.1.0.1:8000", "p-0-rank-2": "10.1.0.1:8002" });
    await its.patchPod("p-0", { annotations: { "llm-d.ai/active-ports": null } });
    await sees(all);
    await its.patchPod("p-0", { labels: { app: "other" } });
    await sees({});
    await its.patchPod("p-0", { labels: app });
    await sees(all);
  });

  it("of a pod that was made anew under its name and address are new servers", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: app, ips: ["10.1.0.1"] });
    await its.putPool("p", poolSpec(app, 8000));
    const { sees, store } = await watching(plane, its, "p");
    await sees({ "p-0-rank-0": "10.1.0.1:8000" });
    const name = endpointName(its.namespace, "p-0-rank-0");
    const first = store.get(name)?.generation ?? 0;
    await its.deletePod("p-0");
    await its.createPod("p-0", { labels: app, ips: ["10.1.0.1"] });
    await eventually("it is another endpoint", () => Promise.resolve((store.get(name)?.generation ?? 0) > first));
  });

  it("are IPv6 in brackets, and of two families that of podIP", async () => {
    const its = await place();
    await its.createPod("six", { labels: app, ips: ["fd00::1"] });
    await its.createPod("both", { labels: app, ips: ["10.1.0.1", "fd00::2"] });
    await its.putPool("p", poolSpec(app, 8000));
    const { sees } = await watching(plane, its, "p");
    await sees({ "six-rank-0": "[fd00::1]:8000", "both-rank-0": "10.1.0.1:8000" });
  });
});

describe("a pool", () => {
  it("may change its ports and its selector: what stays a member stays the same endpoint", async () => {
    const its = await place();
    await its.createPod("a", { labels: { ...app, tier: "1" }, ips: ["10.1.0.1"] });
    await its.createPod("b", { labels: { ...app, tier: "2" }, ips: ["10.1.0.2"] });
    await its.putPool("p", poolSpec(app, 8000, 8001));
    const { sees, store } = await watching(plane, its, "p");
    await eventually("it has four endpoints", () => Promise.resolve(store.snapshot().length === 4));
    const name = endpointName(its.namespace, "a-rank-0");
    const { generation } = store.get(name) ?? {};
    await its.putPool("p", poolSpec(app, 8000));
    await sees({ "a-rank-0": "10.1.0.1:8000", "b-rank-0": "10.1.0.2:8000" });
    await its.putPool("p", poolSpec({ tier: "1" }, 8000));
    await sees({ "a-rank-0": "10.1.0.1:8000" });
    expect(store.get(name)?.generation).toBe(generation);
    await its.createPod("c", { labels: { tier: "1" }, ips: ["10.1.0.3"] });
    await sees({ "a-rank-0": "10.1.0.1:8000", "c-rank-0": "10.1.0.3:8000" });
    await its.putPool("p", poolSpec({ tier: "2" }, 9000, 9001));
    await sees({ "b-rank-0": "10.1.0.2:9000", "b-rank-1": "10.1.0.2:9001" });
  });

  it("that is deleted has no endpoints, and all of them again when it is back", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: app, ips: ["10.1.0.1"] });
    const { sees, store, discovery } = await watching(plane, its, "p");
    await eventually("it is missed", () => Promise.resolve(discovery.state.kind === "absent"));
    expect(store.isSynced).toBe(false);
    await its.putPool("p", poolSpec(app, 8000));
    await sees({ "p-0-rank-0": "10.1.0.1:8000" });
    await its.deletePool("p");
    await eventually("it is gone", () => Promise.resolve(discovery.state.kind === "absent"));
    expect(store.snapshot()).toEqual([]);
    await its.createPod("p-1", { labels: app, ips: ["10.1.0.2"] });
    await its.putPool("p", poolSpec(app, 8000));
    await sees({ "p-0-rank-0": "10.1.0.1:8000", "p-1-rank-0": "10.1.0.2:8000" });
  });

  it("may be of the alpha group", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: app, ips: ["10.1.0.1"] });
    await its.putAlphaPool("p", { selector: app, targetPortNumber: 8000, extensionRef: { name: "picker" } });
    // Its namesake of the other group is another pool.
    await its.putPool("p", poolSpec({ app: "other" }, 9000));
    const { sees } = await watching(plane, its, "p", { group: alphaGroup });
    await sees({ "p-0-rank-0": "10.1.0.1:8000" });
  });

  it("has what it last had while the API server is away, and what was missed when it is back", async () => {
    const its = await place();
    for (const [name, ip] of [
      ["p-0", "10.1.0.1"],
      ["p-1", "10.1.0.2"],
    ] as const) {
      await its.createPod(name, { labels: app, ips: [ip] });
    }
    await its.putPool("p", poolSpec(app, 8000));
    const proxy = await startFaultProxy(plane.port);
    open.push(proxy);
    const api = createKubernetesApi(plane.adminAt(proxy.port));
    const { sees, discovery } = await watching(plane, its, "p", { api });
    const both = { "p-0-rank-0": "10.1.0.1:8000", "p-1-rank-0": "10.1.0.2:8000" };
    await sees(both);
    expect(discovery.age(performance.now())).toEqual({ isStale: false, ageMs: 0 });
    proxy.manner = "refuse";
    proxy.cut();
    await eventually("it is stale", () => Promise.resolve(discovery.age(performance.now()).isStale));
    await its.deletePod("p-0");
    await its.createPod("p-2", { labels: app, ips: ["10.1.0.3"] });
    await sees(both);
    await eventually("its age grows", () => Promise.resolve((discovery.age(performance.now()).ageMs ?? 0) > 200));
    proxy.manner = "pass";
    await sees({ "p-1-rank-0": "10.1.0.2:8000", "p-2-rank-0": "10.1.0.3:8000" });
    await eventually("it is not stale", () => Promise.resolve(!discovery.age(performance.now()).isStale));
  });

  it("goes on over a restart of the API server", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: app, ips: ["10.1.0.1"] });
    await its.putPool("p", poolSpec(app, 8000));
    const { sees, store } = await watching(plane, its, "p");
    await sees({ "p-0-rank-0": "10.1.0.1:8000" });
    const { generation } = store.get(endpointName(its.namespace, "p-0-rank-0")) ?? {};
    await plane.stopApiServer();
    await plane.startApiServer();
    await its.createPod("p-1", { labels: app, ips: ["10.1.0.2"] });
    await sees({ "p-0-rank-0": "10.1.0.1:8000", "p-1-rank-0": "10.1.0.2:8000" });
    expect(store.get(endpointName(its.namespace, "p-0-rank-0"))?.generation).toBe(generation);
  }, 120_000);
});
