/** Dynamo's discovery over a real API server: workers that come, go and come again, and every way in which the server or the network may fail. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { Etcd3 } from "etcd3";
import { createKubernetesRegistration } from "../../src/dynamo/discovery/kubernetes/kubernetes-registration.ts";
import { instanceIdOfPod } from "../../src/dynamo/instance-id.ts";
import { createKubernetesApi, type KubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { eventually } from "../stack.ts";
import { accountApi, type ControlPlane, startControlPlane } from "./control-plane.ts";
import { startFaultProxy } from "./fault-proxy.ts";
import { createObjects, defineWorkerMetadata, type Objects } from "./objects.ts";
import { dataOf, recordsOf, startWorker, type Watching, watchWorkers } from "./workers.ts";

let plane: ControlPlane;
let count = 0;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  plane = await startControlPlane();
  await defineWorkerMetadata(plane.api);
}, 120_000);
afterAll(async () => {
  await plane?.close();
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
});

const namespaceOfItsOwn = (): Promise<Objects> => createObjects(plane.api, `test-${++count}`);

async function watching(...args: Parameters<typeof watchWorkers>): Promise<Watching> {
  const made = await watchWorkers(...args);
  open.push(made);
  return made;
}

describe("workers", () => {
  it("are there with all their records, ids exact, from the first list on", async () => {
    const objects = await namespaceOfItsOwn();
    const uid = await startWorker(objects, "w-0");
    // No double holds it.
    const publisherId = (1n << 60n) + 1n;
    const address = "10.77.0.1:9000";
    await objects.putMetadata("w-0", uid, dataOf("w-0", address, publisherId));
    const { records, discovery } = await watching(plane.api, objects.namespace);
    const keys = recordsOf("w-0", address, publisherId).map(({ key }) => key);
    expect([...records.keys()].sort()).toEqual(keys.sort());
    expect(keys.join()).toContain(publisherId.toString(16));
    expect(discovery.malformedRecords).toBe(0);
    await eventually("it is not stale", async () => await Promise.resolve(!discovery.isStale));
  });

  it("come with pod, slice and metadata, whichever is last, and go with each of them", async () => {
    const objects = await namespaceOfItsOwn();
    const { sees } = await watching(plane.api, objects.namespace);
    const uid = await startWorker(objects, "w-0");
    await sees(["w-0"]);
    await objects.putSlice("w-0", [{ pod: "w-0", uid, ready: false }]);
    await sees([], "w-0");
    await objects.putSlice("w-0", [{ pod: "w-0", uid, ready: true }]);
    await sees(["w-0"]);
    await objects.deleteMetadata("w-0");
    await sees([], "w-0");
    await objects.putMetadata("w-0", uid, dataOf("w-0"));
    await sees(["w-0"]);
    await objects.deleteSlice("w-0");
    await sees([], "w-0");
  });

  it("of a recreated pod of the same name are there only with metadata of its own", async () => {
    const objects = await namespaceOfItsOwn();
    const first = await startWorker(objects, "w-0", "10.77.0.1:9000");
    const { sees, records, told } = await watching(plane.api, objects.namespace);
    await sees(["w-0"]);
    await objects.deletePod("w-0");
    const second = await objects.createPod("w-0");
    expect(second).not.toBe(first);
    await objects.putSlice("w-0", [{ pod: "w-0", uid: second, ready: true }]);
    await sees([], "w-0");
    await objects.putMetadata("w-0", second, dataOf("w-0", "10.77.0.2:9000"));
    await sees(["w-0"]);
    const key = `v1/instances/ns/backend/generate/${instanceIdOfPod("w-0").toString(16)}`;
    expect(records.get(key)).toMatchObject({ transport: { address: "10.77.0.2:9000" } });
    expect(told.filter((change) => change.endsWith(key)).map((change) => change[0])).toEqual(["+", "-", "+"]);
  });

  it("of another namespace or without the discovery label do not count", async () => {
    const [own, other] = [await namespaceOfItsOwn(), await namespaceOfItsOwn()];
    const { sees } = await watching(plane.api, own.namespace);
    await startWorker(other, "w-1");
    await startWorker(own, "w-0");
    await sees(["w-0"], "w-1");
  });

  it("are containers in container mode", async () => {
    const objects = await namespaceOfItsOwn();
    const uid = await objects.createPod("w-0", {
      containers: ["main", "engine-1"].map((name) => ({ name, image: "worker" })),
    });
    const { sees } = await watching(plane.api, objects.namespace, { mode: "container" });
    for (const name of ["w-0", "w-0-engine-1"]) await objects.putMetadata(name, uid, dataOf(name));
    await objects.setPod("w-0", { ready: false, containers: { main: true, "engine-1": false } });
    await sees(["w-0"], "w-0-engine-1");
    await objects.setPod("w-0", { ready: true, containers: { main: true, "engine-1": true } });
    await sees(["w-0", "w-0-engine-1"]);
  });

  it("of ours register as Dynamo's do, and are gone when they close", async () => {
    const objects = await namespaceOfItsOwn();
    const podUid = await objects.createPod("ours");
    await objects.putSlice("ours", [{ pod: "ours", uid: podUid, ready: true }]);
    const { sees, records } = await watching(plane.api, objects.namespace);
    const { namespace } = objects;
    const registration = createKubernetesRegistration({ api: plane.api, namespace, pod: "ours", podUid });
    await Promise.all(recordsOf("ours").map((record) => registration.put(record)));
    await sees(["ours"]);
    expect(records.size).toBe(4);
    const [first] = recordsOf("ours");
    await registration.remove(first?.key ?? "");
    await eventually("one record is gone", async () => await Promise.resolve(records.size === 3));
    await registration.close();
    await sees([], "ours");
  });

  it("of ours keep what a later registration of the same process has put when the one before it closes", async () => {
    const objects = await namespaceOfItsOwn();
    const podUid = await objects.createPod("ours");
    await objects.putSlice("ours", [{ pod: "ours", uid: podUid, ready: true }]);
    const { sees, records } = await watching(plane.api, objects.namespace);
    const { namespace } = objects;
    const open = () => createKubernetesRegistration({ api: plane.api, namespace, pod: "ours", podUid });
    const [before, after] = [open(), open()];
    const [shared, own, ...rest] = recordsOf("ours");
    if (shared === undefined || own === undefined) throw new Error("no records");
    for (const record of [shared, own]) await before.put(record);
    for (const record of [shared, ...rest]) await after.put(record);
    await eventually("all are seen", async () => await Promise.resolve(records.size === 4));
    await before.close();
    await eventually("its own is gone", async () => await Promise.resolve(records.size === 3));
    await sees(["ours"]);
    const third = open();
    const closed = after.close();
    await third.put(own);
    await closed;
    await eventually("the last one's is there", async () => await Promise.resolve(records.size === 1));
    await third.close();
    await eventually("nothing is left", async () => await Promise.resolve(records.size === 0));
  });
});

describe("a fleet of 1,000 workers", () => {
  const names = Array.from({ length: 1000 }, (_, index) => `fleet-${index}`);

  it("is listed within two seconds of processor time", async () => {
    const objects = await namespaceOfItsOwn();
    for (let from = 0; from < names.length; from += 20) {
      const part = names.slice(from, from + 20);
      await objects.putSlice(
        `slice-${from}`,
        part.map((pod) => ({ pod, uid: `uid-${pod}`, ready: true })),
      );
      await Promise.all(part.map((name) => objects.createMetadata(name, `uid-${name}`, dataOf(name))));
    }
    const before = process.cpuUsage();
    const { records } = await watching(plane.api, objects.namespace);
    const { user, system } = process.cpuUsage(before);
    expect(records.size).toBe(4000);
    expect((user + system) / 1000).toBeLessThan(2000);
  }, 180_000);
});

describe("a network that fails", () => {
  async function proxied() {
    const proxy = await startFaultProxy(plane.port);
    const api = createKubernetesApi(plane.adminAt(proxy.port));
    open.push(proxy, api);
    const objects = await namespaceOfItsOwn();
    return { proxy, api, objects };
  }

  it("loses no change when connections are cut again and again", async () => {
    const { proxy, api, objects } = await proxied();
    const uid = await startWorker(objects, "w-0");
    const { sees } = await watching(api, objects.namespace);
    for (let round = 0; round < 5; round++) {
      proxy.cut();
      await objects.putSlice("w-0", [{ pod: "w-0", uid, ready: false }]);
      await sees([], "w-0");
      proxy.cut();
      await objects.putSlice("w-0", [{ pod: "w-0", uid, ready: true }]);
      await sees(["w-0"]);
    }
  });

  it("keeps what it knows while nothing can be reached, and tells once what was missed", async () => {
    const { proxy, api, objects } = await proxied();
    await startWorker(objects, "stays");
    const goes = await startWorker(objects, "goes");
    const { sees, told, discovery, workers } = await watching(api, objects.namespace);
    await sees(["stays", "goes"]);
    proxy.manner = "refuse";
    proxy.cut();
    await eventually("it is stale", async () => await Promise.resolve(discovery.isStale));
    await objects.putSlice("goes", [{ pod: "goes", uid: goes, ready: false }]);
    await startWorker(objects, "comes");
    expect(workers("stays", "goes", "comes")).toEqual(["stays", "goes"]);
    const before = told.length;
    proxy.manner = "pass";
    await sees(["stays", "comes"], "goes");
    await eventually("it is not stale", async () => await Promise.resolve(!discovery.isStale));
    expect(told.slice(before)).toHaveLength(8);
  });

  it("notices a stream that has gone silent soon after the server should have ended it", async () => {
    const { proxy, api, objects } = await proxied();
    const uid = await startWorker(objects, "w-0");
    const { sees, discovery } = await watching(api, objects.namespace, { watchSeconds: 2 });
    for (const ready of [false, true]) {
      await objects.putSlice("w-0", [{ pod: "w-0", uid, ready }]);
      await (ready ? sees(["w-0"]) : sees([], "w-0"));
    }
    proxy.manner = "silent";
    await objects.putSlice("w-0", [{ pod: "w-0", uid, ready: false }]);
    await eventually("it is stale", async () => await Promise.resolve(discovery.isStale), 15_000);
    proxy.manner = "pass";
    proxy.cut();
    await sees([], "w-0");
  });

  it("lists anew when the version it would go on from has been compacted away", async () => {
    const objects = await namespaceOfItsOwn();
    const uid = await startWorker(objects, "w-0");
    const refusals: unknown[] = [];
    let isHeld = true;
    let release: () => void = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    // Its watches begin at a version that is long gone.
    const behind: Pick<KubernetesApi, "request" | "watch"> = {
      request: (request, signal) => plane.api.request(request, signal),
      async watch(watch, signal) {
        if (isHeld) await held;
        const path = refusals.length < 2 ? watch.path.replace(/resourceVersion=\d+/, "resourceVersion=2") : watch.path;
        await plane.api.watch({ ...watch, path }, signal).catch((error: unknown) => {
          refusals.push(error);
          throw error;
        });
      },
    };
    const { sees } = await watching(behind, objects.namespace);
    await objects.putSlice("w-0", [{ pod: "w-0", uid, ready: false }]);
    const etcd = new Etcd3({ hosts: plane.etcd.url });
    const { header } = await etcd.kv.range({ key: Buffer.from("/") });
    await etcd.kv.compact({ revision: header.revision, physical: true });
    etcd.close();
    isHeld = false;
    release();
    await sees([], "w-0");
    await eventually("both were refused", async () => await Promise.resolve(refusals.length > 1));
    expect(refusals.slice(0, 2)).toMatchObject([{ status: 410 }, { status: 410 }]);
  });
});

describe("an API server that is away", () => {
  it("for 20 seconds costs no live worker, is known to be away, and what was missed is told after", async () => {
    const objects = await namespaceOfItsOwn();
    await startWorker(objects, "w-0");
    const uid = await startWorker(objects, "w-1");
    const { sees, discovery, told, workers } = await watching(plane.api, objects.namespace);
    await sees(["w-0", "w-1"]);
    const before = told.length;
    await plane.stopApiServer();
    const stoppedAt = performance.now();
    await eventually("it is stale", async () => await Promise.resolve(discovery.isStale));
    await eventually(
      "20 s are over",
      async () => await Promise.resolve(performance.now() - stoppedAt > 20_000),
      25_000,
    );
    expect(workers("w-0", "w-1")).toEqual(["w-0", "w-1"]);
    expect(told).toHaveLength(before);
    await plane.startApiServer();
    await eventually("it is not stale", async () => await Promise.resolve(!discovery.isStale), 15_000);
    expect(told).toHaveLength(before);
    await objects.putSlice("w-1", [{ pod: "w-1", uid, ready: false }]);
    await sees(["w-0"], "w-1");
  }, 90_000);

  it("in the beginning is waited for, and no list in time is an error that says so", async () => {
    const objects = await namespaceOfItsOwn();
    await startWorker(objects, "w-0");
    const proxy = await startFaultProxy(plane.port);
    const api = createKubernetesApi(plane.adminAt(proxy.port));
    open.push(proxy, api);
    proxy.manner = "refuse";
    const { sees, discovery } = await watching(api, objects.namespace, { awaitStart: false });
    await eventually("it was tried", async () => await Promise.resolve(proxy.connections > 4));
    expect(discovery.isStale).toBe(true);
    proxy.manner = "pass";
    await sees(["w-0"]);
  });
});

describe("a service account", () => {
  const rules = [
    { apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: ["list", "watch"] },
    { apiGroups: ["nvidia.com"], resources: ["dynamoworkermetadatas"], verbs: ["list", "watch"] },
  ];

  async function account(objects: Objects): Promise<string> {
    const { namespace } = objects;
    const create = (path: string, body: object) =>
      plane.api.request({ method: "POST", path, body: JSON.stringify(body) });
    const rbac = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`;
    const apiGroup = "rbac.authorization.k8s.io";
    await create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name: "picker" } });
    await create(`${rbac}/roles`, { metadata: { name: "picker" }, rules });
    await create(`${rbac}/rolebindings`, {
      metadata: { name: "picker" },
      roleRef: { apiGroup, kind: "Role", name: "picker" },
      subjects: [{ kind: "ServiceAccount", name: "picker", namespace }],
    });
    return await plane.accountFolder(namespace, "picker");
  }

  it("needs to list and watch slices and metadata, and nothing else", async () => {
    const objects = await namespaceOfItsOwn();
    const api = accountApi(plane, await account(objects));
    open.push(api);
    const uid = await startWorker(objects, "w-0");
    const { sees } = await watching(api, objects.namespace);
    await sees(["w-0"]);
    await objects.putSlice("w-0", [{ pod: "w-0", uid, ready: false }]);
    await sees([], "w-0");
    const secrets = api.request({ path: `/api/v1/namespaces/${objects.namespace}/secrets` });
    await expect(secrets).rejects.toMatchObject({ status: 403 });
  });

  it("whose token is refused goes on with the one that takes its place", async () => {
    const objects = await namespaceOfItsOwn();
    await startWorker(objects, "w-0");
    const folder = await account(objects);
    await writeFile(join(folder, "token"), "expired");
    const api = accountApi(plane, folder);
    open.push(api);
    const { sees, discovery } = await watching(api, objects.namespace, { awaitStart: false });
    await expect(api.request({ path: "/api/v1/pods" })).rejects.toMatchObject({ status: 401 });
    expect(discovery.isStale).toBe(true);
    await plane.accountFolder(objects.namespace, "picker");
    await sees(["w-0"]);
  });
});
