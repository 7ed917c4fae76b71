/** A picker that serves its index in Kubernetes: it announces the index in its pod's metadata object, and another picker asks it there. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { startPeer } from "../dynamo-peer/peer.ts";
import { type Picking, startPicking } from "../integration/dynamo/picking.ts";
import { eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { createObjects, defineWorkerMetadata } from "./objects.ts";
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

/** Eight whole blocks. */
const prompt = Array.from({ length: 8 * 16 + 3 }, (_, index) => index);

describe("an index served in Kubernetes", () => {
  it("is asked by another picker while its own picker is there", async () => {
    const objects = await createObjects(plane.api, "served-index");
    const site = await createPodSite(plane, objects, "worker-0", "127.77.10.1");
    const peer = await startPeer(site, { role: "aggregated" });
    open.push(site, peer);
    const pod = "picker-0";
    const uid = await objects.createPod(pod);
    await objects.setPod(pod, { ip: "127.77.10.2", ready: true });
    await objects.putSlice(pod, [{ pod, uid, ready: true }]);
    const start = async (environment: Readonly<Record<string, string>>): Promise<Picking> => {
      const picker = await startPicking(site, { environment });
      open.push(picker);
      return picker;
    };
    peer.cache.store(prompt);
    const serving = await start({
      DYN_SERVE_INDEXER: "true",
      DYN_TCP_RPC_HOST: "127.0.0.1",
      POD_NAME: pod,
      POD_UID: uid,
    });
    const asking = await start({ DYN_USE_REMOTE_INDEXER: "true" });
    const finds = (blocks: number) => async (): Promise<boolean> =>
      (await asking.matchOf(prompt)).deviceBlocks === blocks;
    await eventually("the answer", finds(8), 30_000);
    expect((await asking.set()).events).toBeNull();
    await serving.close();
    const path = `/apis/nvidia.com/v1alpha1/namespaces/${objects.namespace}/dynamoworkermetadatas`;
    const { items } = JSON.parse(await plane.api.request({ path })) as {
      readonly items: readonly { readonly metadata: { readonly name: string } }[];
    };
    expect(items.map(({ metadata }) => metadata.name)).toEqual(["worker-0"]);
    await eventually("nobody is asked any more", finds(0), 30_000);
    await asking.idle();
  }, 120_000);
});
