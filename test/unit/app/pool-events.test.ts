import { afterEach, describe, expect, it } from "@jest/globals";
import { createPoolEvents, type PoolEvents, type PoolView, subjectOf } from "../../../src/app/pool-events.ts";
import { type ApiRequest, KubernetesApiError } from "../../../src/net/kubernetes/api-client.ts";
import { until } from "../dynamo/until.ts";

const open: PoolEvents[] = [];
afterEach(() => {
  for (const one of open.splice(0)) one.close();
});

const ready = { kind: "ready" } as const;

/** A pool that the test changes under the eyes of its events. */
function watch(first: Partial<PoolView> = {}) {
  const state = { endpoints: 1, readiness: ready as PoolView["readiness"], faults: [] as readonly string[], ...first };
  const noted: string[] = [];
  const pool = { ...state, isSpeaking: true, nowMs: 0, looks: 0 };
  const events = createPoolEvents({
    recorder: {
      note: (object, _about, { type, reason, message }) => noted.push(`${object} ${type} ${reason}: ${message}`),
    },
    about: { key: "pool", read: () => Promise.resolve(undefined) },
    isSpeaking: () => pool.isSpeaking,
    view: () => {
      pool.looks++;
      return pool;
    },
    now: () => pool.nowMs,
    lookMs: 1,
  });
  open.push(events);
  /** Two whole looks from now on. */
  const looked = async (): Promise<void> => {
    const wanted = pool.looks + 2;
    await until(() => pool.looks >= wanted);
  };
  return { events, noted, pool, looked };
}

describe("the Events of a pool", () => {
  it("tell that it has no endpoints once that has lasted, and that it has some again", async () => {
    const { noted, pool, looked } = watch();
    pool.endpoints = 0;
    await looked();
    pool.nowMs = 4_999;
    await looked();
    expect(noted).toEqual([]);
    pool.nowMs = 5_000;
    await looked();
    expect(noted).toEqual(["pool Warning NoEndpoints: no pod of the pool is ready: its requests are refused (503)"]);
    await looked();
    pool.endpoints = 3;
    await looked();
    expect(noted.slice(1)).toEqual(["pool Normal EndpointsAvailable: the pool has 3 endpoints again"]);
  });

  it("say nothing of a pool that is only coming, and why one is not served once for each reason", async () => {
    const { noted, pool, looked } = watch({ endpoints: 0, readiness: { kind: "coming", reason: "listing" } });
    pool.nowMs = 60_000;
    await looked();
    expect(noted).toEqual([]);
    pool.readiness = { kind: "unserved", reason: "it cannot be read" };
    await looked();
    await looked();
    expect(noted).toEqual(["pool Warning PoolNotServed: it cannot be read"]);
    pool.readiness = { kind: "unserved", reason: "its protocol is another" };
    await looked();
    expect(noted).toHaveLength(2);
  });

  it("tell of objects that have no effect whenever these are others", async () => {
    const { noted, pool, looked } = watch();
    pool.faults = ["a is bad", "b is bad"];
    await looked();
    await looked();
    pool.faults = [];
    await looked();
    pool.faults = ["b is bad"];
    await looked();
    expect(noted).toEqual(["pool Warning ObjectRejected: a is bad; b is bad", "pool Warning ObjectRejected: b is bad"]);
  });

  it("tell of configurations and of the last few unknown objectives, whatever clients call them", () => {
    const { events, noted } = watch();
    events.configurationReloaded("rejected", ["plugins[0]: unknown", "plugins[1]: unknown"]);
    events.configurationReloaded("applied", []);
    for (let i = 0; i < 7; i++) events.unknownObjective(`o${i}`);
    events.unknownObjective('o6"\n');
    expect(noted.slice(0, 2)).toEqual([
      "pool Warning ConfigurationRejected: the last good configuration stays: plugins[0]: unknown; plugins[1]: unknown",
      "pool Normal ConfigurationApplied: the edited configuration is in use",
    ]);
    expect(noted.at(-1)).toContain("UnknownObjective: requests name objectives that the pool has not");
    expect(noted.at(-1)?.endsWith('"o3", "o4", "o5", "o6", "o6\\"\\n"')).toBe(true);
  });

  it("are the leader's to write", async () => {
    const { events, noted, pool } = watch({ endpoints: 0 });
    pool.isSpeaking = false;
    pool.nowMs = 60_000;
    events.unknownObjective("o");
    events.configurationReloaded("rejected", ["x"]);
    const looks = pool.looks;
    const end = performance.now() + 10;
    await until(() => performance.now() > end);
    expect([noted, pool.looks]).toEqual([[], looks]);
    pool.isSpeaking = true;
    events.unknownObjective("o");
    expect(noted).toHaveLength(1);
  });
});

describe("what the Events are about", () => {
  const answering = (answer: (request: ApiRequest) => string) => ({
    request: (request: ApiRequest) => Promise.resolve().then(() => answer(request)),
    watch: () => Promise.resolve(),
    close: () => Promise.resolve(),
  });
  const object = (kind: string) =>
    JSON.stringify({ apiVersion: "v1", kind, metadata: { namespace: "ns", name: "it", uid: "u", labels: {} } });

  it("is the pool as it is now", async () => {
    const paths: string[] = [];
    const api = answering(({ path }) => {
      paths.push(path);
      return object("InferencePool");
    });
    const subject = subjectOf({
      poolName: "it",
      poolGroup: "inference.networking.k8s.io",
      environment: {},
      context: { api, namespace: "ns" },
    });
    expect(await subject?.read()).toEqual({
      apiVersion: "v1",
      kind: "InferencePool",
      namespace: "ns",
      name: "it",
      uid: "u",
    });
    expect(paths).toEqual(["/apis/inference.networking.k8s.io/v1/namespaces/ns/inferencepools/it"]);
  });

  it("is the picker's own pod where there is no pool, and nothing where that is not known either", async () => {
    const options = { poolName: "", poolGroup: "g", context: { api: answering(() => object("Pod")), namespace: "ns" } };
    expect(await subjectOf({ ...options, environment: { POD_NAME: "it" } })?.read()).toMatchObject({ kind: "Pod" });
    expect(subjectOf({ ...options, environment: {} })).toBeUndefined();
  });

  it("is undefined while the pool is away; any other failure is one", async () => {
    const failing = (status: number) =>
      subjectOf({
        poolName: "it",
        poolGroup: "inference.networking.k8s.io",
        environment: {},
        context: {
          api: answering(() => {
            throw new KubernetesApiError("no", status);
          }),
          namespace: "ns",
        },
      });
    expect(await failing(404)?.read()).toBeUndefined();
    await expect(failing(503)?.read()).rejects.toMatchObject({ status: 503 });
  });
});
