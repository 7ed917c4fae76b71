/** Two pickers before Dynamo workers in Kubernetes with replica sync: each registers in its pod's metadata object, and books what the other does. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { startPeer } from "../dynamo-peer/peer.ts";
import { type Picking, startPicking } from "../integration/dynamo/picking.ts";
import { eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { createObjects, defineWorkerMetadata, type Objects } from "./objects.ts";
import { createPodSite } from "./pod-site.ts";

let plane: ControlPlane;
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
}, 30_000);

async function bookings(picker: Picking): Promise<number> {
  const { router } = await picker.set();
  return router.loads.decode.reduce((sum, { activeRequests }) => sum + activeRequests, 0);
}

describe("pickers with replica sync in Kubernetes", () => {
  let objects: Objects;
  let count = 0;

  async function twoPickers(): Promise<readonly [Picking, Picking]> {
    objects = await createObjects(plane.api, `replica-sync-${++count}`);
    const site = await createPodSite(plane, objects, "worker-0", "127.77.9.1");
    open.push(site, await startPeer(site, { role: "aggregated" }));
    const start = async (pod: string, ip: string): Promise<Picking> => {
      const uid = await objects.createPod(pod);
      await objects.setPod(pod, { ip, ready: true });
      await objects.putSlice(pod, [{ pod, uid, ready: true }]);
      const environment = { DYN_ROUTER_REPLICA_SYNC: "true", POD_NAME: pod, POD_UID: uid };
      const picker = await startPicking(site, { environment });
      open.push(picker);
      return picker;
    };
    return [await start("picker-0", "127.77.9.2"), await start("picker-1", "127.77.9.3")];
  }

  it("book what the other one sends, and end it when it ends or its picker is gone", async () => {
    const [a, b] = await twoPickers();
    // ZeroMQ does not say when a peer is connected: the first words may find nobody.
    await eventually(
      "b hears of a",
      async () => {
        const sent = await a.plan();
        const heard = await eventually("one booking", async () => (await bookings(b)) > 0, 500).catch(() => false);
        sent.cancel();
        return heard;
      },
      30_000,
    );
    await eventually("b has none left", async () => (await bookings(b)) === 0, 20_000);
    const sent = await a.plan();
    await eventually("b has the booking", async () => (await bookings(b)) === 1, 20_000);
    await a.close();
    await eventually("the booking went with its picker", async () => (await bookings(b)) === 0, 20_000);
    sent.cancel();
    const path = `/apis/nvidia.com/v1alpha1/namespaces/${objects.namespace}/dynamoworkermetadatas`;
    const { items } = JSON.parse(await plane.api.request({ path })) as {
      readonly items: readonly { readonly metadata: { readonly name: string } }[];
    };
    expect(items.map(({ metadata }) => metadata.name).sort()).toEqual(["picker-1", "worker-0"]);
  }, 120_000);
});
