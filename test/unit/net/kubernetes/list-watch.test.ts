import { afterEach, describe, expect, it } from "@jest/globals";
import { type ApiRequest, KubernetesApiError, type WatchRequest } from "../../../../src/net/kubernetes/api-client.ts";
import { ListWatch, type ListWatchEvent, type ListWatchOptions } from "../../../../src/net/kubernetes/list-watch.ts";
import { until } from "../../dynamo/until.ts";

/** A collection whose server does what the test says, request by request; after the last script a watch stays open. */
interface Script {
  readonly list?: (request: ApiRequest) => string;
  readonly watch?: (watch: WatchRequest) => Promise<void>;
}

const open: ListWatch<string>[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

function object(name: string, version: string, label = ""): object {
  return { metadata: { name, namespace: "ns", resourceVersion: version, labels: { label } } };
}

function list(version: string, names: readonly string[], next = ""): string {
  return JSON.stringify({
    metadata: { resourceVersion: version, continue: next },
    items: names.map((name) => object(name, version)),
  });
}

function event(type: string, of: object): string {
  return JSON.stringify({ type, object: of });
}

function follow(scripts: readonly Script[], options: Partial<ListWatchOptions<string>> = {}) {
  const requests: string[] = [];
  const told: string[] = [];
  const events: ListWatchEvent["kind"][] = [];
  const rest = [...scripts];
  const watch = new ListWatch<string>({
    path: "/things",
    read: ({ metadata }) => metadata.name + (metadata.labels?.["label"] ?? ""),
    report: ({ kind }) => events.push(kind),
    listener: {
      replaced: (items) => told.push(`= ${[...items.values()].join(" ")}`),
      put: (key, item) => told.push(`+ ${key} ${item}`),
      removed: (key) => told.push(`- ${key}`),
    },
    api: {
      async request(request) {
        requests.push(`list ${new URLSearchParams(request.path.split("?")[1]).get("continue") ?? ""}`);
        const script = rest.shift()?.list;
        if (script === undefined) throw new Error("no list is foreseen here");
        return await Promise.resolve(script(request));
      },
      async watch(request, signal) {
        requests.push(`watch ${new URLSearchParams(request.path.split("?")[1]).get("resourceVersion")}`);
        const script = rest.shift()?.watch;
        if (script !== undefined) return await script(request);
        request.opened();
        await new Promise<void>((_, reject) => {
          if (signal.aborted) reject(new Error("aborted"));
          signal.addEventListener("abort", () => reject(new Error("aborted")));
        });
      },
    },
    ...options,
  });
  open.push(watch);
  return { watch, requests, told, events };
}

const refuse = (status: number) => (): never => {
  throw new KubernetesApiError("no", status);
};

describe("following a collection", () => {
  it("lists all pages, then watches from the version of the first", async () => {
    const { watch, requests, told } = follow([
      { list: () => list("7", ["a", "b"], "next") },
      { list: () => list("9", ["c"]) },
    ]);
    await watch.start();
    await until(() => !watch.isStale);
    expect(told).toEqual(["= a b c"]);
    expect(requests).toEqual(["list ", "list next", "watch 7"]);
    expect(watch.size).toBe(3);
  });

  it("tells each change and resumes after the last version or bookmark it has seen when the server ends the watch", async () => {
    const { watch, requests, told } = follow([
      { list: () => list("1", ["a"]) },
      {
        async watch({ opened, line }) {
          opened();
          line(event("ADDED", object("b", "2")));
          line(event("MODIFIED", object("b", "3", "!")));
          line(event("DELETED", object("a", "4")));
          line(event("BOOKMARK", { metadata: { resourceVersion: "8" } }));
          return await Promise.resolve();
        },
      },
    ]);
    await watch.start();
    await until(() => requests.length === 3);
    expect(told).toEqual(["= a", "+ ns/b b", "+ ns/b b!", "- ns/a"]);
    expect(requests[2]).toBe("watch 8");
    expect(watch.isStale).toBe(false);
  });

  const expirations: readonly [string, Script["watch"]][] = [
    ["an answer", refuse(410)],
    [
      "an event",
      async ({ opened, line }) => {
        opened();
        line(event("ERROR", { code: 410, message: "too old resource version" }));
        return await Promise.resolve();
      },
    ],
  ];

  it.each(expirations)("lists anew at once when %s says that the version is gone", async (_how, expired) => {
    const { watch, requests, told, events } = follow([
      { list: () => list("1", ["a", "b"]) },
      { watch: async (request) => await expired?.(request) },
      { list: () => list("9", ["b"]) },
    ]);
    await watch.start();
    await until(() => requests.length === 4);
    expect(told).toEqual(["= a b", "= b"]);
    expect(requests).toEqual(["list ", "watch 1", "list ", "watch 9"]);
    expect(events).toContain("expired");
    expect(events).not.toContain("away");
  });

  it("begins the list again when a page's token has expired", async () => {
    const { watch, told } = follow([
      { list: () => list("1", ["a"], "next") },
      { list: refuse(410) },
      { list: () => list("5", ["a", "b"]) },
    ]);
    await watch.start();
    expect(told).toEqual(["= a b"]);
  });

  it("keeps what it has while the server is away, says so once, and lists anew when it is back", async () => {
    const { watch, requests, told, events } = follow([
      { list: () => list("1", ["a", "b"]) },
      {
        async watch({ opened, line }) {
          opened();
          line(event("ADDED", object("c", "2")));
          return await Promise.reject(new KubernetesApiError("lost", 0));
        },
      },
      { watch: refuse(0) },
      { list: refuse(503) },
      { list: () => list("9", ["c"]) },
    ]);
    await watch.start();
    await until(() => requests.length === 3);
    expect(watch.isStale).toBe(true);
    expect(told).toEqual(["= a b", "+ ns/c c"]);
    await until(() => requests.length === 6 && !watch.isStale);
    expect(told).toEqual(["= a b", "+ ns/c c", "= c"]);
    expect(requests).toEqual(["list ", "watch 1", "watch 2", "list ", "list ", "watch 9"]);
    expect(events.filter((kind) => kind === "away" || kind === "back")).toEqual(["away", "back"]);
  });

  it("resumes without a list when only the connection was lost", async () => {
    const { watch, requests } = follow([
      { list: () => list("1", ["a"]) },
      {
        async watch({ opened, line }) {
          opened();
          line(event("BOOKMARK", { metadata: { resourceVersion: "6" } }));
          return await Promise.reject(new KubernetesApiError("lost", 0));
        },
      },
    ]);
    await watch.start();
    await until(() => requests.length === 3 && !watch.isStale);
    expect(requests[2]).toBe("watch 6");
  });

  it("waits as long as the server asks, when it refuses for the moment", async () => {
    const started = performance.now();
    const { watch } = follow([
      {
        list: () => {
          throw new KubernetesApiError("busy", 429, { retryAfterMs: 400 });
        },
      },
      { list: () => list("1", ["a"]) },
    ]);
    await watch.start();
    expect(performance.now() - started).toBeGreaterThanOrEqual(299);
  });

  it("does not turn a watch that ends at once into a busy loop", async () => {
    const ends = {
      async watch({ opened }: WatchRequest) {
        opened();
        return await Promise.resolve();
      },
    };
    const started = performance.now();
    const { watch, requests } = follow([
      { list: () => list("1", ["a"]) },
      ends,
      ends,
      { list: () => list("1", ["a"]) },
      ends,
      { list: () => list("1", ["a"]) },
    ]);
    await watch.start();
    await until(() => requests.length === 7);
    // 100, 200 and 400 ms, less a quarter.
    expect(performance.now() - started).toBeGreaterThanOrEqual(524);
  });

  it("says it again when a server that was away refuses, and not for other failures", async () => {
    const refusals = [0, 503, 403, 403].map((status) => ({ list: refuse(status) }));
    const { watch, events } = follow([...refusals, { list: () => list("7", ["a"]) }]);
    await watch.start();
    await until(() => events.includes("back"));
    expect(events.filter((kind) => kind === "away" || kind === "back")).toEqual(["away", "away", "back"]);
  });

  it("passes over an object that cannot be read, and takes away what can be read no longer", async () => {
    const { watch, told, events } = follow(
      [
        { list: () => list("1", ["a", "bad", "b"]) },
        {
          async watch({ opened, line }) {
            opened();
            line(event("MODIFIED", object("b", "2", "none")));
            line(event("MODIFIED", object("bad", "3")));
            return await Promise.reject(new KubernetesApiError("lost", 0));
          },
        },
      ],
      {
        read: ({ metadata: { name, labels } }) => {
          if (name === "bad") throw new Error("unreadable");
          return labels?.["label"] === "none" ? undefined : name;
        },
      },
    );
    await watch.start();
    await until(() => told.length === 2);
    expect(told).toEqual(["= a b", "- ns/b"]);
    expect(events).toContain("unreadable");
  });

  it("holds no more than its bound, and says how much it left out", async () => {
    const reports: ListWatchEvent[] = [];
    const { watch, told } = follow(
      [
        { list: () => list("1", ["a", "b", "c"]) },
        {
          async watch({ opened, line }) {
            opened();
            line(event("ADDED", object("d", "2")));
            line(event("DELETED", object("a", "3")));
            line(event("ADDED", object("e", "4")));
            return await Promise.resolve();
          },
        },
      ],
      { maxItems: 2, report: (one) => reports.push(one) },
    );
    await watch.start();
    await until(() => told.length === 3);
    expect(told).toEqual(["= a b", "- ns/a", "+ ns/e e"]);
    expect(reports[0]).toMatchObject({ kind: "listed", items: 2, leftOut: 1 });
  });

  it("takes a collection that the server does not know for empty, and finds it when it comes to be", async () => {
    const { watch, told, events, requests } = follow(
      [{ list: refuse(404) }, { list: refuse(404) }, { list: refuse(503) }, { list: () => list("1", ["a"]) }],
      { absentRetryMs: 10 },
    );
    await watch.start();
    expect(watch).toMatchObject({ isAbsent: true, isSynced: true, isStale: false });
    await until(() => requests.length === 5 && !watch.isStale);
    expect(watch.isAbsent).toBe(false);
    expect(told).toEqual(["= ", "= a"]);
    expect(events).toEqual(["absent", "away", "listed", "back"]);
  });

  it("gives up what it knows of a collection only when the server denies it twice", async () => {
    const known = { list: () => list("1", ["a"]) };
    const { watch, told, requests } = follow(
      [known, { watch: refuse(404) }, known, { watch: refuse(404) }, { list: refuse(404) }],
      { absentRetryMs: 60_000 },
    );
    await watch.start();
    await until(() => requests.length === 5 && watch.isAbsent);
    expect(told).toEqual(["= a", "= a", "= "]);
  });

  it("fails like any other where a collection must exist", async () => {
    const { watch, told, events } = follow([{ list: refuse(404) }, { list: () => list("1", ["a"]) }]);
    await watch.start();
    expect(told).toEqual(["= a"]);
    expect(events[0]).toBe("away");
  });

  it("closes while it waits, lists or watches", async () => {
    for (const scripts of [[{ list: refuse(0) }], [{ list: () => list("1", []) }]]) {
      const { watch, requests } = follow(scripts);
      void watch.start();
      await until(() => requests.length === scripts.length);
      await watch.close();
    }
  });
});
