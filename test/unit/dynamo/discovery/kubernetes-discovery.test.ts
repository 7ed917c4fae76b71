/** Which records are told, by what slices, pods and metadata objects say, in whatever order they say it. The real API server's part is in test/kubernetes. */
import { describe, expect, it } from "@jest/globals";
import { kubernetesSettings } from "../../../../src/dynamo/discovery/kubernetes/kubernetes-settings.ts";
import {
  ReadinessIndex,
  readyInPod,
  readyInSlice,
} from "../../../../src/dynamo/discovery/kubernetes/readiness-index.ts";
import { WorkerJoin } from "../../../../src/dynamo/discovery/kubernetes/worker-join.ts";
import { workerMetadataOf } from "../../../../src/dynamo/discovery/kubernetes/worker-metadata.ts";
import { RecordTable } from "../../../../src/dynamo/discovery/record-table.ts";
import { encodeRecord } from "../../../../src/dynamo/encode-record.ts";
import { instanceIdOfPod } from "../../../../src/dynamo/instance-id.ts";
import { type JsonObject, parseExactJson } from "../../../../src/dynamo/record-json.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import fc from "../../../properties.ts";

const namespace = "ns";

function endpoint(worker: string, port = 1, instanceId = instanceIdOfPod(worker)) {
  return encodeRecord({
    type: "Endpoint",
    namespace,
    component: "backend",
    endpoint: "generate",
    instanceId,
    codec: "json",
    transport: { kind: "tcp", address: `10.0.0.1:${port}`, path: "p" },
  });
}

function channel(publisherId: bigint) {
  return encodeRecord({
    type: "EventChannel",
    scope: { namespace, component: undefined, endpoint: undefined },
    topic: "kv-events",
    publisherId,
    transport: { kind: "zmq", endpoint: "tcp://10.0.0.1:2" },
  });
}

function metadata(worker: string, podUid: string | undefined, data: unknown) {
  const ownerReferences = [
    { kind: "ReplicaSet", name: "r", uid: "other" },
    ...(podUid === undefined ? [] : [{ kind: "Pod", name: worker, uid: podUid }]),
  ];
  return workerMetadataOf({ metadata: { name: worker, ownerReferences }, spec: { data } } as never);
}

function dataOf(worker: string, port = 1, channels: readonly bigint[] = []): JsonObject {
  return {
    endpoints: { [`ns/backend/generate/${worker}`]: parseExactJson(endpoint(worker, port).text) },
    model_cards: null,
    event_channels: Object.fromEntries(channels.map((id) => [String(id), parseExactJson(channel(id).text)])),
  };
}

function joined() {
  const told: string[] = [];
  const held = new Map<string, unknown>();
  const table = new RecordTable(
    {
      put: (key, record) => {
        told.push(`+${key}`);
        held.set(key, record);
      },
      removed: (key) => {
        told.push(`-${key}`);
        held.delete(key);
      },
    },
    silentLogger,
  );
  const ready = new ReadinessIndex();
  const join = new WorkerJoin(ready, table, silentLogger);
  const setReady = (slice: string, ...members: readonly (readonly [string, string])[]): void =>
    join.readinessChanged(
      ready.put(
        slice,
        members.map(([name, podUid]) => ({ name, podUid })),
      ),
    );
  return { table, told, held, join, setReady };
}

describe("workers in Kubernetes", () => {
  const keyA = endpoint("a").key;

  it.each(["ready first", "metadata first"])("are there once both are, %s", (order) => {
    const { join, setReady, told } = joined();
    const steps = [() => setReady("s", ["a", "uid"]), () => join.put("a", metadata("a", "uid", dataOf("a")))];
    if (order === "metadata first") steps.reverse();
    steps[0]?.();
    expect(told).toEqual([]);
    steps[1]?.();
    expect(told).toEqual([`+${keyA}`]);
    join.remove("a");
    expect(told).toEqual([`+${keyA}`, `-${keyA}`]);
  });

  it("go when their pod is not ready, and come back with it", () => {
    const { join, setReady, told } = joined();
    join.put("a", metadata("a", "uid", dataOf("a")));
    setReady("s", ["a", "uid"]);
    setReady("s");
    setReady("s", ["a", "uid"]);
    expect(told).toEqual([`+${keyA}`, `-${keyA}`, `+${keyA}`]);
  });

  it("stay while their pod is in two slices, until both have let go", () => {
    const { join, setReady, held } = joined();
    join.put("a", metadata("a", "uid", dataOf("a")));
    setReady("one", ["a", "uid"], ["a", "uid"]);
    setReady("two", ["a", "uid"]);
    setReady("one");
    expect(held.size).toBe(1);
    setReady("two");
    expect(held.size).toBe(0);
  });

  it("never inherit what a pod of the same name registered", () => {
    const { join, setReady, told, held } = joined();
    join.put("a", metadata("a", "old", dataOf("a", 1)));
    setReady("s", ["a", "old"]);
    setReady("s", ["a", "new"]);
    expect(held.size).toBe(0);
    join.put("a", metadata("a", "new", dataOf("a", 2)));
    expect(told).toEqual([`+${keyA}`, `-${keyA}`, `+${keyA}`]);
    expect(held.get(keyA)).toMatchObject({ transport: { address: "10.0.0.1:2" } });
  });

  it("are left out while two pods claim one name, or metadata name no pod", () => {
    const { join, setReady, held } = joined();
    join.put("a", metadata("a", "one", dataOf("a")));
    setReady("s", ["a", "one"]);
    setReady("t", ["a", "two"]);
    expect(held.size).toBe(0);
    setReady("t");
    expect(held.size).toBe(1);
    join.put("a", metadata("a", undefined, dataOf("a")));
    expect(held.size).toBe(0);
  });

  it("change what they registered, and take back a part of it", () => {
    const { join, setReady, told } = joined();
    setReady("s", ["a", "uid"]);
    join.put("a", metadata("a", "uid", dataOf("a", 1, [5n, 6n])));
    told.length = 0;
    join.put("a", metadata("a", "uid", dataOf("a", 2, [6n])));
    expect(told).toEqual([`-${channel(5n).key}`, `+${keyA}`]);
  });

  it("keep what they registered while their metadata say nothing, but not another pod's", () => {
    const { join, setReady, held } = joined();
    setReady("s", ["a", "uid"]);
    join.put("a", metadata("a", "uid", dataOf("a")));
    join.put("a", metadata("a", "uid", null));
    expect(held.size).toBe(1);
    setReady("s", ["a", "next"]);
    join.put("a", metadata("a", "next", null));
    expect(held.size).toBe(0);
  });

  it("speak for themselves only: another's endpoint is malformed and does not touch the other", () => {
    const { join, setReady, held, table } = joined();
    setReady("s", ["a", "uid-a"], ["b", "uid-b"]);
    join.put("a", metadata("a", "uid-a", dataOf("a", 1)));
    join.put(
      "b",
      metadata("b", "uid-b", {
        endpoints: { [keyA.slice("v1/instances/".length)]: parseExactJson(endpoint("a", 9).text) },
      }),
    );
    expect(table.malformed).toBe(1);
    join.remove("b");
    expect([...held.values()]).toMatchObject([{ transport: { address: "10.0.0.1:1" } }]);
  });

  it("that register one channel leave it to the first, and the other has it when that one goes", () => {
    const { join, setReady, held } = joined();
    setReady("s", ["a", "uid-a"], ["b", "uid-b"]);
    join.put("a", metadata("a", "uid-a", dataOf("a", 1, [7n])));
    join.put("b", metadata("b", "uid-b", dataOf("b", 1, [7n])));
    join.remove("a");
    expect(held.has(channel(7n).key)).toBe(true);
    join.remove("b");
    expect(held.size).toBe(0);
  });

  it("are after any history what a fresh look at the end of it would find", () => {
    const names = ["a", "b", "a-engine"];
    const step = fc.oneof(
      fc.record({
        kind: fc.constant("slice" as const),
        slice: fc.constantFrom("s", "t"),
        members: fc.array(fc.tuple(fc.constantFrom(...names), fc.constantFrom("u1", "u2")), { maxLength: 3 }),
      }),
      fc.record({
        kind: fc.constant("metadata" as const),
        worker: fc.constantFrom(...names),
        uid: fc.constantFrom("u1", "u2", undefined),
        port: fc.integer({ min: 1, max: 3 }),
        channels: fc.uniqueArray(fc.bigInt({ min: 1n, max: 3n }), { maxLength: 2 }),
      }),
      fc.record({ kind: fc.constant("gone" as const), worker: fc.constantFrom(...names) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        const live = joined();
        const slices = new Map<string, readonly (readonly [string, string])[]>();
        const metadatas = new Map<string, ReturnType<typeof metadata>>();
        for (const one of steps) {
          if (one.kind === "slice") {
            slices.set(one.slice, one.members);
            live.setReady(one.slice, ...one.members);
          } else if (one.kind === "metadata") {
            const said = metadata(one.worker, one.uid, dataOf(one.worker, one.port, one.channels));
            metadatas.set(one.worker, said);
            live.join.put(one.worker, said);
          } else {
            metadatas.delete(one.worker);
            live.join.remove(one.worker);
          }
        }
        const fresh = joined();
        for (const [slice, members] of slices) fresh.setReady(slice, ...members);
        for (const [worker, said] of metadatas) fresh.join.put(worker, said);
        expect(live.held).toEqual(fresh.held);
      }),
      { numRuns: 200 },
    );
  });
});

describe("metadata of a worker", () => {
  it("may have channels of before there were scopes, and empty maps as null", () => {
    const old = (component: string, id: number) => ({
      type: "EventChannel",
      namespace,
      component,
      topic: "t",
      instance_id: id,
      transport: { kind: "Zmq", config: { endpoint: "tcp://h:1" } },
    });
    const { records } = metadata("a", "uid", {
      endpoints: null,
      event_channels: { "ns/backend/t/2a": old("backend", 42), "ns//t/2b": old("", 43) },
    });
    expect([...(records?.keys() ?? [])]).toEqual([
      "v1/event_channels/namespace/ns/component/backend/topic/t/2a",
      "v1/event_channels/namespace/ns/topic/t/2b",
    ]);
  });

  it.each([undefined, null, 3, "x", []])("is nothing that can be read when it is %j", (data) => {
    expect(metadata("a", "uid", data)).toEqual({ podUid: "uid", records: undefined });
  });

  it("keeps an id that no double holds", () => {
    const { records } = metadata("a", "uid", dataOf("a", 1, [18_446_744_073_709_551_615n]));
    expect([...(records?.values() ?? [])].map(({ text }) => text).join("")).toContain("18446744073709551615");
  });
});

describe("readiness", () => {
  const member = (conditions: unknown, targetRef: unknown) => ({ addresses: ["10.0.0.1"], conditions, targetRef });

  it("of a slice is that of its endpoints whose pod is known by name and uid", () => {
    const slice = {
      metadata: { name: "s" },
      endpoints: [
        member({ ready: true }, { kind: "Pod", name: "a", uid: "u" }),
        member({ ready: false }, { kind: "Pod", name: "b", uid: "u" }),
        member({}, { kind: "Pod", name: "c", uid: "u" }),
        member({ ready: true }, { kind: "Pod", name: "d" }),
        member({ ready: true }, { kind: "Pod", name: "", uid: "u" }),
        member({ ready: true }, undefined),
        null,
      ],
    };
    expect(readyInSlice(slice)).toEqual([{ name: "a", podUid: "u" }]);
    expect(readyInSlice({ metadata: { name: "s" }, endpoints: null } as never)).toEqual([]);
  });

  it("of a pod in container mode is that of each container, main under the pod's own name", () => {
    const containerStatuses = [
      { name: "main", ready: true },
      { name: "engine-0", ready: true },
      { name: "engine-1", ready: false },
    ];
    const pod = { metadata: { name: "p", uid: "u" }, status: { containerStatuses } };
    expect(readyInPod(pod)).toEqual([
      { name: "p", podUid: "u" },
      { name: "p-engine-0", podUid: "u" },
    ]);
    expect(readyInPod({ metadata: { name: "p" }, status: { containerStatuses } } as never)).toEqual([]);
    expect(readyInPod({ metadata: { name: "p", uid: "u" } })).toEqual([]);
  });
});

describe("the settings", () => {
  it.each([
    [{}, { namespace: "default", mode: "pod" }],
    [
      { POD_NAMESPACE: "k", DYN_KUBE_DISCOVERY_MODE: "container" },
      { namespace: "k", mode: "container" },
    ],
  ])("are read from the environment %j", (environment, expected) => {
    expect(kubernetesSettings(environment, "/nowhere")).toEqual(expected);
  });

  it("refuse a mode that is none", () => {
    expect(() => kubernetesSettings({ DYN_KUBE_DISCOVERY_MODE: "node" })).toThrow('"node" is not "pod" or "container"');
  });
});
