/** The running picker in a cluster of Dynamo peers: its picks name the pods' workers and lead to the pods' frontends, with no more rights than its role gives. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { instanceIdOfPod } from "../../src/dynamo/instance-id.ts";
import { type PeerOptions, startPeer } from "../dynamo-peer/peer.ts";
import type { PeerSite } from "../dynamo-peer/site.ts";
import { type Picking, startPicking } from "../integration/dynamo/picking.ts";
import { eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { createObjects, defineWorkerMetadata, type Objects } from "./objects.ts";
import { createPodSite, frontendPort, pickerEnvironment } from "./pod-site.ts";

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
}, 30_000);

const idOf = (pod: string): string => instanceIdOfPod(pod).toString();

async function cluster(pods: Readonly<Record<string, PeerOptions & { readonly ip: string }>>) {
  const objects = await createObjects(plane.api, `picking-${++count}`);
  let site: PeerSite | undefined;
  for (const [pod, { ip, ...peer }] of Object.entries(pods)) {
    site = await createPodSite(plane, objects, pod, ip);
    open.push(site, await startPeer(site, peer));
  }
  if (site === undefined) throw new RangeError("a cluster without a pod");
  return { objects, site };
}

async function picking(site: PeerSite, environment: Readonly<Record<string, string>> = {}): Promise<Picking> {
  const picker = await startPicking(site, { environment });
  open.push(picker);
  return picker;
}

/** Where ten plans went: decode worker → destination. */
async function destinations(picker: Picking): Promise<ReadonlyMap<string, string>> {
  const seen = new Map<string, string>();
  for (let request = 0; request < 10; request++) {
    const sent = await picker.plan({ tokens: [request, request + 1, request + 2] });
    seen.set(sent.decode ?? "", sent.headers["x-gateway-destination-endpoint"] ?? "");
    sent.cancel();
  }
  return seen;
}

/** Of a service account that may do what the picker needs and nothing else. */
async function leastKubeconfig({ namespace }: Objects): Promise<string> {
  const create = (path: string, body: object) =>
    plane.api.request({ method: "POST", path, body: JSON.stringify(body) });
  const rbac = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`;
  const apiGroup = "rbac.authorization.k8s.io";
  const verbs = ["list", "watch"];
  await create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name: "picker" } });
  await create(`${rbac}/roles`, {
    metadata: { name: "picker" },
    rules: [
      { apiGroups: [""], resources: ["pods"], verbs },
      { apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs },
      { apiGroups: ["nvidia.com"], resources: ["dynamoworkermetadatas"], verbs },
    ],
  });
  await create(`${rbac}/rolebindings`, {
    metadata: { name: "picker" },
    roleRef: { apiGroup, kind: "Role", name: "picker" },
    subjects: [{ kind: "ServiceAccount", name: "picker", namespace }],
  });
  const folder = await plane.accountFolder(namespace, "picker");
  const file = join(folder, "kubeconfig");
  const config = {
    "current-context": "picker",
    clusters: [{ name: "test", cluster: { server: plane.url, "certificate-authority": join(folder, "ca.crt") } }],
    users: [{ name: "picker", user: { token: await plane.tokenIn(folder) } }],
    contexts: [{ name: "picker", context: { cluster: "test", user: "picker" } }],
  };
  await writeFile(file, JSON.stringify(config));
  return file;
}

describe("a picker in Kubernetes", () => {
  it("names the pods' workers and leads to the decode pod's port named http, with the least rights", async () => {
    const { objects, site } = await cluster({
      "decode-0": { role: "decode", ip: "127.77.0.1" },
      "decode-1": { role: "decode", ip: "127.77.0.2" },
      "prefill-0": { role: "prefill", ip: "127.77.0.3" },
    });
    const picker = await picking(site, pickerEnvironment(objects, await leastKubeconfig(objects)));
    const sent = await picker.plan();
    expect(sent.headers).toMatchObject({
      "x-dynamo-routing-mode": "disaggregated",
      "x-dynamo-prefill-instance-id": idOf("prefill-0"),
    });
    sent.cancel();
    await eventually("both decode pods are picked", async () => {
      const seen = await destinations(picker);
      return seen.size === 2 ? seen : undefined;
    }).then((seen) =>
      expect(seen).toEqual(
        new Map([
          [idOf("decode-0"), `127.77.0.1:${frontendPort}`],
          [idOf("decode-1"), `127.77.0.2:${frontendPort}`],
        ]),
      ),
    );
    const endpoints = await picker.debug<readonly { readonly name: string }[]>("endpoints");
    expect(endpoints.map(({ name }) => name).sort()).toEqual(
      ["decode-0", "decode-1"].map((pod) => `${objects.namespace}/${pod}`),
    );
    await picker.idle();
  }, 120_000);

  it("leaves a pod that is no longer ready, takes it back, and goes on while the API server is away", async () => {
    const { objects, site } = await cluster({
      "w-0": { role: "aggregated", ip: "127.77.1.1" },
      "w-1": { role: "aggregated", ip: "127.77.1.2" },
    });
    const picker = await picking(site);
    const goesTo = (...pods: readonly string[]) =>
      eventually(`requests go to ${pods.join(" and ")}`, async () => {
        const ids = pods.map(idOf).sort().join();
        return [...(await destinations(picker)).keys()].sort().join() === ids;
      });
    await goesTo("w-0", "w-1");
    await objects.setPod("w-1", { ip: "127.77.1.2", ready: false });
    await goesTo("w-0");
    await objects.setPod("w-1", { ip: "127.77.1.2", ready: true });
    await goesTo("w-0", "w-1");
    await plane.stopApiServer();
    await eventually("its discovery is stale", async () => (await picker.discovery()).isStale);
    await goesTo("w-0", "w-1");
    await plane.startApiServer();
    await eventually("its discovery is not stale", async () => !(await picker.discovery()).isStale, 15_000);
    await objects.deletePod("w-0");
    await goesTo("w-1");
    await picker.idle();
  }, 120_000);
});
