import { afterEach, describe, expect, it } from "@jest/globals";
import {
  type PoolObjectsOptions,
  watchPoolObjects,
} from "../../../../../src/data/discovery/kubernetes/pool-objects-watch.ts";
import type { PoolObjects } from "../../../../../src/data/manifests/pool-objects.ts";
import { KubernetesApiError, type WatchRequest } from "../../../../../src/net/kubernetes/api-client.ts";
import { type Logger, silentLogger } from "../../../../../src/telemetry/log.ts";
import { until } from "../../../dynamo/until.ts";

const current = "llm-d.ai";
const legacy = "inference.networking.x-k8s.io";
const pool = { name: "pool", group: "inference.networking.k8s.io" };

/** What the server has of each kind, by "<plural>.<group>"; a number is the status that it answers with. */
type Collections = Record<string, readonly object[] | number>;

function server(collections: Collections) {
  const watches = new Map<string, WatchRequest>();
  const asked: string[] = [];
  const nameOf = (path: string): string => {
    const [, group = "", plural = ""] = /^\/apis\/([^/]+)\/v1alpha2\/namespaces\/ns\/(\w+)\?/.exec(path) ?? [];
    return `${plural}.${group}`;
  };
  const contentOf = (path: string): readonly object[] => {
    const name = nameOf(path);
    const content = collections[name] ?? 404;
    if (typeof content === "number") throw new KubernetesApiError(`status ${content}`, content);
    return content;
  };
  const api: PoolObjectsOptions["api"] = {
    async request({ path }) {
      asked.push(nameOf(path));
      return await Promise.resolve(JSON.stringify({ metadata: { resourceVersion: "1" }, items: contentOf(path) }));
    },
    async watch(watch, signal) {
      contentOf(watch.path);
      watches.set(nameOf(watch.path), watch);
      watch.opened();
      await new Promise<void>((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
    },
  };
  const tell = (name: string, type: string, object: object): void =>
    watches.get(name)?.line(JSON.stringify({ type, object }));
  return { api, tell, watches, asked };
}

function metadata(name: string, createdAt = "2026-01-01T00:00:00Z"): object {
  return { name, namespace: "ns", uid: `uid-${name}`, resourceVersion: "1", creationTimestamp: createdAt };
}

function objective(name: string, priority: number, poolRef: object = { ...pool, kind: "InferencePool" }): object {
  return { metadata: metadata(name), spec: { priority, poolRef } };
}

function rewrite(name: string, to: string, createdAt: string): object {
  const rules = [{ matches: [{ model: { type: "Exact", value: "a" } }], targets: [{ modelRewrite: to, weight: 1 }] }];
  return { metadata: metadata(name, createdAt), spec: { poolRef: pool, rules } };
}

const open: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

function follow(collections: Collections, options: Partial<PoolObjectsOptions> = {}) {
  const made = server(collections);
  const watch = watchPoolObjects({ api: made.api, namespace: "ns", log: silentLogger, ...options });
  open.push(watch);
  return { ...made, watch };
}

const prioritiesOf = ({ objectives }: PoolObjects): Record<string, number> =>
  Object.fromEntries([...objectives].map(([name, { priority }]) => [name, priority]));

describe("the objects of a pool", () => {
  it("are those of both groups, the new one before the legacy one, and rewrites the oldest first", async () => {
    const { watch } = follow({
      [`inferenceobjectives.${legacy}`]: [objective("both", 1), objective("old", 3)],
      [`inferenceobjectives.${current}`]: [objective("new", 4), objective("both", 2)],
      [`inferencemodelrewrites.${legacy}`]: [rewrite("second", "y", "2026-02-01T00:00:00Z")],
      [`inferencemodelrewrites.${current}`]: [
        rewrite("a-third", "z", "2026-03-01T00:00:00Z"),
        rewrite("first", "x", "2026-01-01T00:00:00Z"),
      ],
    });
    const view = watch.of(pool);
    await watch.start();
    expect(watch.isSynced).toBe(true);
    expect(prioritiesOf(view.objects())).toEqual({ both: 2, new: 4, old: 3 });
    expect(view.objects().rewrites.map(({ name }) => name)).toEqual(["first", "second", "a-third"]);
    expect(view.ignored()).toEqual([
      `InferenceObjective ${legacy}/both is hidden by the one of ${current} with its name`,
    ]);
    expect(view.objects()).toBe(view.objects());
  });

  it("refer to it by name and group, whichever other pools the namespace has", async () => {
    const { watch } = follow({
      [`inferenceobjectives.${current}`]: [
        objective("ours", 1),
        objective("theirs", 2, { ...pool, name: "other" }),
        objective("older", 3, { name: "pool", group: legacy }),
      ],
    });
    const [view, other, older] = [
      watch.of(pool),
      watch.of({ ...pool, name: "other" }),
      watch.of({ name: "pool", group: legacy }),
    ];
    await watch.start();
    expect([view, other, older].map((one) => prioritiesOf(one.objects()))).toEqual([
      { ours: 1 },
      { theirs: 2 },
      { older: 3 },
    ]);
  });

  it("follow every change, which is told once for all that come together", async () => {
    const name = `inferenceobjectives.${current}`;
    const { watch, tell, watches } = follow({ [name]: [objective("a", 1)] });
    const told: Record<string, number>[] = [];
    const view = watch.of(pool, (objects) => told.push(prioritiesOf(objects)));
    await watch.start();
    await until(() => watches.has(name) && told.length > 0);
    told.length = 0;
    tell(name, "ADDED", objective("b", 2));
    tell(name, "MODIFIED", objective("a", 5));
    expect(prioritiesOf(view.objects())).toEqual({ a: 5, b: 2 });
    expect(told).toEqual([]);
    await until(() => told.length === 1);
    expect(told).toEqual([{ a: 5, b: 2 }]);
    tell(name, "DELETED", objective("a", 5));
    expect(prioritiesOf(view.objects())).toEqual({ b: 2 });
    await until(() => told.length === 2);
  });

  it("are there with what a newer definition adds, and without a bad one until it is mended", async () => {
    const name = `inferenceobjectives.${current}`;
    const bad = { metadata: metadata("bad"), spec: { priority: 1.5, poolRef: pool } };
    const newer = { metadata: metadata("newer"), spec: { priority: 1, poolRef: { ...pool, port: 1 }, deadline: "1s" } };
    const errors: unknown[] = [];
    const log: Logger = { ...silentLogger, error: (fields) => errors.push(fields["reason"]) };
    const { watch, tell, watches } = follow({ [name]: [bad, newer] }, { log });
    const view = watch.of(pool);
    await watch.start();
    await until(() => watches.has(name));
    expect(prioritiesOf(view.objects())).toEqual({ newer: 1 });
    const reason = "spec.priority: expected an integer from -2147483648 to 2147483647, found 1.5";
    expect(watch.faults()).toEqual([`${name} ns/bad: ${reason}`]);
    tell(name, "MODIFIED", bad);
    expect(errors).toEqual([reason]);
    tell(name, "MODIFIED", objective("bad", 7));
    expect(prioritiesOf(view.objects())).toEqual({ bad: 7, newer: 1 });
    expect(watch.faults()).toEqual([]);
  });
});

describe("a kind that the cluster", () => {
  it("does not define has no objects, and is found when it is defined", async () => {
    const collections: Collections = {};
    const { watch, asked } = follow(collections, { absentRetryMs: 20 });
    const view = watch.of(pool);
    await watch.start();
    expect(watch.isSynced).toBe(true);
    expect(watch.state().map(({ state }) => state)).toEqual(Array(4).fill("not defined"));
    collections[`inferenceobjectives.${legacy}`] = [objective("late", 1)];
    await until(() => view.objects().objectives.size === 1);
    expect(watch.state().filter(({ state }) => state === "listed")).toEqual([
      { collection: `inferenceobjectives.${legacy}`, state: "listed", isStale: false, objects: 1 },
    ]);
    expect(new Set(asked).size).toBe(4);
  });

  it("does not let us see keeps nobody waiting, and counts once it does", async () => {
    const name = `inferenceobjectives.${current}`;
    const collections: Collections = { [name]: 403 };
    const { watch } = follow(collections);
    const view = watch.of(pool);
    await watch.start();
    expect(watch.isSynced).toBe(true);
    expect(watch.state()[0]).toMatchObject({ collection: name, state: "not allowed" });
    collections[name] = [objective("a", 1)];
    await until(() => view.objects().objectives.size === 1);
    expect(watch.state()[0]).toMatchObject({ state: "listed" });
  });

  it("cannot tell of yet is waited for", async () => {
    const name = `inferencemodelrewrites.${current}`;
    const collections: Collections = { [name]: 503 };
    const { watch, asked } = follow(collections);
    let isStarted = false;
    const started = watch.start().then(() => {
      isStarted = true;
    });
    await until(() => asked.filter((one) => one === name).length > 2);
    expect([isStarted, watch.isSynced]).toEqual([false, false]);
    collections[name] = [];
    await started;
    expect(watch.isSynced).toBe(true);
  });
});
