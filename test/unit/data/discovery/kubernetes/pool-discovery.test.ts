/** A pool's endpoints over an API that does what the test says: which list is asked for when, and what the store shows meanwhile. */
import { describe, expect, it } from "@jest/globals";
import type { ReadPool } from "../../../../../src/data/discovery/kubernetes/inference-pool.ts";
import type { ServingPod } from "../../../../../src/data/discovery/kubernetes/pod.ts";
import type { PodListener } from "../../../../../src/data/discovery/kubernetes/pod-source.ts";
import { createPodSource, type PodSource } from "../../../../../src/data/discovery/kubernetes/pod-source.ts";
import { createPoolDiscovery } from "../../../../../src/data/discovery/kubernetes/pool-discovery.ts";
import {
  createPoolSource,
  type PoolListener,
  type PoolSource,
} from "../../../../../src/data/discovery/kubernetes/pool-source.ts";
import { endpointName } from "../../../../../src/data/endpoint.ts";
import { createEndpointStore } from "../../../../../src/data/endpoint-store.ts";
import type { ApiRequest, KubernetesApi, WatchRequest } from "../../../../../src/net/kubernetes/api-client.ts";
import { silentLogger } from "../../../../../src/telemetry/log.ts";
import { until } from "../../../dynamo/until.ts";

function pod(name: string, address: string, activePorts?: ReadonlySet<number>): ServingPod {
  return { namespace: "ns", name, uid: `uid-${name}`, address, labels: new Map(), activePorts };
}

const listOf = (...pods: readonly ServingPod[]) => new Map(pods.map((one) => [`ns/${one.name}`, one]));

function poolOf(selector: string, ...targetPorts: readonly number[]): ReadPool {
  return { kind: "pool", pool: { selector, targetPorts, appProtocol: undefined } };
}

/** A discovery whose sources are the test. */
async function discover() {
  const followed = new Map<string, PodListener>();
  const closed: string[] = [];
  const pods: PodSource = {
    follow(selector, listener) {
      followed.set(selector, listener);
      return {
        pods: undefined,
        isStale: false,
        lastHeardMs: 0,
        close: () => {
          closed.push(selector);
          if (followed.get(selector) === listener) followed.delete(selector);
          return Promise.resolve();
        },
      };
    },
  };
  let tell: PoolListener["told"] = () => {};
  const pools: PoolSource = {
    isStale: false,
    lastHeardMs: 0,
    lastError: undefined,
    follow: (_name, listener) => {
      tell = (read) => listener.told(read);
    },
    start: () => {},
    close: () => Promise.resolve(),
  };
  const said: string[] = [];
  const say = (_fields: unknown, message: string): void => void said.push(message);
  const log = { ...silentLogger, debug: say, info: say, warn: say, error: say };
  const discovery = createPoolDiscovery({ pods, log, from: { kind: "object", name: "p", pools } });
  const store = createEndpointStore();
  await discovery.start(store);
  const listenerOf = (selector: string): PodListener => {
    const listener = followed.get(selector);
    if (listener === undefined) throw new Error(`nobody follows ${selector}`);
    return listener;
  };
  return {
    discovery,
    store,
    said,
    closed,
    followed,
    listenerOf,
    told: (read: ReadPool | undefined) => tell(read),
    shows: () => store.snapshot().map(({ name, hostPort }) => `${name.slice(3)}=${hostPort}`),
  };
}

describe("a pool", () => {
  it("shows its pods once their list is complete, and follows each of them", async () => {
    const { told, listenerOf, shows, store, discovery } = await discover();
    expect(discovery.state.kind).toBe("unheard");
    told(poolOf("a=1", 1, 2));
    expect([discovery.state.kind, store.isSynced]).toEqual(["listing", false]);
    listenerOf("a=1").replaced(listOf(pod("x", "10.0.0.1")));
    expect([discovery.state.kind, store.isSynced]).toEqual(["listed", true]);
    expect(shows()).toEqual(["x-rank-0=10.0.0.1:1", "x-rank-1=10.0.0.1:2"]);
    listenerOf("a=1").put(pod("y", "fd00::1", new Set([2])));
    expect(shows()).toContain("y-rank-1=[fd00::1]:2");
    listenerOf("a=1").put(pod("x", "10.0.0.1", new Set([1])));
    expect(shows()).toEqual(["x-rank-0=10.0.0.1:1", "y-rank-1=[fd00::1]:2"]);
    listenerOf("a=1").removed(pod("y", "fd00::1", new Set([2])));
    expect(shows()).toEqual(["x-rank-0=10.0.0.1:1"]);
  });

  it("keeps its endpoints, and keeps them current, until the list of another selector is complete", async () => {
    const { told, listenerOf, shows, closed, discovery, store } = await discover();
    told(poolOf("a=1", 1));
    listenerOf("a=1").replaced(listOf(pod("x", "10.0.0.1"), pod("y", "10.0.0.2")));
    const { generation } = store.get(endpointName("ns", "y-rank-0")) ?? {};
    told(poolOf("a=2", 7));
    expect(discovery.state.kind).toBe("listed");
    listenerOf("a=1").removed(pod("x", "10.0.0.1"));
    listenerOf("a=1").put(pod("z", "10.0.0.3"));
    expect(shows()).toEqual(["y-rank-0=10.0.0.2:1", "z-rank-0=10.0.0.3:1"]);
    expect(closed).toEqual([]);
    told(poolOf("a=2", 1));
    listenerOf("a=2").replaced(listOf(pod("y", "10.0.0.2")));
    expect(shows()).toEqual(["y-rank-0=10.0.0.2:1"]);
    expect(store.get(endpointName("ns", "y-rank-0"))?.generation).toBe(generation);
    expect(closed).toEqual(["a=1"]);
  });

  it("that goes back to its selector before the other's list is complete has lost nothing", async () => {
    const { told, listenerOf, shows, closed, followed } = await discover();
    told(poolOf("a=1", 1));
    listenerOf("a=1").replaced(listOf(pod("x", "10.0.0.1")));
    told(poolOf("a=2", 1));
    const late = listenerOf("a=2");
    told(poolOf("a=1", 2));
    expect(closed).toEqual(["a=2"]);
    // A list that was on its way.
    late.replaced(listOf(pod("stranger", "10.0.0.9")));
    expect(shows()).toEqual(["x-rank-0=10.0.0.1:2"]);
    expect([...followed.keys()]).toEqual(["a=1"]);
  });

  it("that is deleted shows nothing and follows nothing; created again it is a new list", async () => {
    const { told, listenerOf, shows, closed, discovery, said } = await discover();
    told(undefined);
    told(undefined);
    expect(said).toEqual(["there is no such InferencePool: no endpoints until there is one"]);
    told(poolOf("a=1", 1));
    listenerOf("a=1").replaced(listOf(pod("x", "10.0.0.1")));
    const late = listenerOf("a=1");
    told(undefined);
    expect([shows(), closed, discovery.state.kind]).toEqual([[], ["a=1"], "absent"]);
    late.put(pod("late", "10.0.0.9"));
    late.replaced(listOf(pod("late", "10.0.0.9")));
    expect(shows()).toEqual([]);
    told(poolOf("a=1", 1));
    expect(discovery.state.kind).toBe("listing");
    listenerOf("a=1").replaced(listOf(pod("x", "10.0.0.1")));
    expect(shows()).toEqual(["x-rank-0=10.0.0.1:1"]);
  });

  it("that cannot be read stays what it last was, and says so once", async () => {
    const { told, listenerOf, shows, said, discovery } = await discover();
    const faulty: ReadPool = { kind: "faulty", faults: ["spec.selector: missing"] };
    told(faulty);
    expect(discovery.state.kind).toBe("faulty");
    told(poolOf("a=1", 1));
    listenerOf("a=1").replaced(listOf(pod("x", "10.0.0.1")));
    said.splice(0);
    told(faulty);
    told(faulty);
    expect(said).toEqual(["the InferencePool cannot be read: its last good state stays"]);
    expect([shows(), discovery.state.kind, discovery.faults]).toEqual([
      ["x-rank-0=10.0.0.1:1"],
      "listed",
      ["spec.selector: missing"],
    ]);
    told(poolOf("a=1", 1));
    expect(discovery.faults).toEqual([]);
  });

  it("that is closed leaves in the store what is there", async () => {
    const { told, listenerOf, shows, closed, discovery } = await discover();
    told(poolOf("a=1", 1));
    listenerOf("a=1").replaced(listOf(pod("x", "10.0.0.1")));
    await discovery.close();
    told(undefined);
    expect([shows(), closed]).toEqual([["x-rank-0=10.0.0.1:1"], ["a=1"]]);
  });
});

/** An API server that has these answers and whose watches stay open. */
function serverOf(lists: Readonly<Record<string, readonly object[]>>) {
  const asked: string[] = [];
  const watches = new Map<string, WatchRequest>();
  const api: KubernetesApi = {
    request({ path }: ApiRequest) {
      const url = new URL(path, "http://server");
      const parameters = [url.searchParams.get("labelSelector"), url.searchParams.get("fieldSelector")];
      const resource = `${url.pathname.split("/").at(-1)} ${parameters.find((text) => text !== null) ?? ""}`.trim();
      asked.push(resource);
      return Promise.resolve(JSON.stringify({ metadata: { resourceVersion: "1" }, items: lists[resource] ?? [] }));
    },
    async watch(watch, signal) {
      const url = new URL(watch.path, "http://server");
      watches.set(url.searchParams.get("labelSelector") ?? "", watch);
      watch.opened();
      await new Promise<void>((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
    },
    close: () => Promise.resolve(),
  };
  return { asked, watches, context: { api, namespace: "ns", log: silentLogger } };
}

const status = (ip: string) => ({ podIP: ip, conditions: [{ type: "Ready", status: "True" }] });
const podObject = (name: string, uid: string, ip: string) => ({
  metadata: { name, namespace: "ns", uid, resourceVersion: "2" },
  status: status(ip),
});

describe("pods of one selector", () => {
  it("are listed and watched once for all that follow them, and no longer than anybody does", async () => {
    const { asked, context } = serverOf({ "pods a=1": [podObject("x", "u", "10.0.0.1")] });
    const source = createPodSource(context);
    const seen: string[][] = [[], []];
    const listener = (index: number): PodListener => ({
      replaced: (pods) => seen[index]?.push(...pods.keys()),
      put: () => {},
      removed: () => {},
    });
    const first = source.follow("a=1", listener(0));
    await until(() => seen[0]?.length === 1);
    const second = source.follow("a=1", listener(1));
    expect(seen).toEqual([["ns/x"], ["ns/x"]]);
    expect(asked).toEqual(["pods a=1"]);
    await first.close();
    expect(second.pods?.size).toBe(1);
    await second.close();
    const third = source.follow("a=1", listener(0));
    await until(() => asked.length === 2);
    await third.close();
  });

  it("that were made anew under their name are first gone", async () => {
    const { watches, context } = serverOf({ "pods a=1": [podObject("x", "first", "10.0.0.1")] });
    const source = createPodSource(context);
    const told: string[] = [];
    const following = source.follow("a=1", {
      replaced: (pods) => told.push(`= ${[...pods.values()].map(({ uid }) => uid).join()}`),
      put: ({ uid }) => told.push(`+ ${uid}`),
      removed: ({ uid }) => told.push(`- ${uid}`),
    });
    await until(() => watches.has("a=1") && told.length === 1);
    watches.get("a=1")?.line(JSON.stringify({ type: "MODIFIED", object: podObject("x", "second", "10.0.0.1") }));
    expect(told).toEqual(["= first", "- first", "+ second"]);
    await following.close();
  });
});

describe("pool objects", () => {
  const objects = [
    { metadata: { name: "p", namespace: "ns" }, spec: { selector: { a: "1" }, targetPortNumber: 1 } },
    { metadata: { name: "q", namespace: "ns" }, spec: { selector: { a: "2" }, targetPortNumber: 2 } },
  ];

  it.each([
    [["p"], "inferencepools metadata.name=p", ["p a=1"]],
    [["p", "q", "r"], "inferencepools", ["p a=1", "q a=2", "r none"]],
  ])("of %j are one watch of %s", async (names, resource, expected) => {
    const { asked, context } = serverOf({ [resource]: objects });
    const source = createPoolSource(context, "inference.networking.x-k8s.io");
    const told: string[] = [];
    for (const name of names) {
      source.follow(name, {
        told: (read) => told.push(`${name} ${read?.kind === "pool" ? read.pool.selector : "none"}`),
      });
    }
    source.start();
    await until(() => told.length === names.length);
    expect(told).toEqual(expected);
    expect(asked).toEqual([resource]);
    await source.close();
  });
});
