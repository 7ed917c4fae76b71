/** The picker under the rules of deploy/kubernetes/rbac.yaml and no others: everything works, and by the API server's own record nothing else was asked for. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import { type AuditEvent, type ControlPlane, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { grantPickerRights, pickerAccount, sampleOf, startPickerPod } from "./picker-pod.ts";
import { createPoolNamespace, poolSpec } from "./pool-namespace.ts";

let plane: ControlPlane;
const open: { close(): Promise<void> }[] = [];
/** Each takes less than a minute where nothing else runs. */
const limitMs = 300_000;

beforeAll(async () => {
  plane = await startControlPlane({ audit: true });
  await installDefinitions(plane.api, "inference-extension", "llm-d-objectives");
}, 120_000);
afterAll(async () => {
  await plane?.close();
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
}, 60_000);

const app = { app: "vllm" };

interface EventObject {
  readonly type: string;
  readonly reason: string;
  readonly message: string;
  readonly count: number;
  readonly involvedObject: { readonly kind: string; readonly name: string; readonly uid?: string };
}

const eventsOf = async (namespace: string): Promise<readonly EventObject[]> =>
  (
    JSON.parse(await plane.api.request({ path: `/api/v1/namespaces/${namespace}/events` })) as {
      readonly items: readonly EventObject[];
    }
  ).items;

/** "verb group/resource" of everything that was asked. */
const askedIn = (events: readonly AuditEvent[]): readonly string[] =>
  [
    ...new Set(
      events.map(({ verb, objectRef, requestURI }) =>
        objectRef === undefined ? `${verb} ${requestURI}` : `${verb} ${objectRef.apiGroup ?? ""}/${objectRef.resource}`,
      ),
    ),
  ].sort();

describe("a picker with the rights of its role alone", () => {
  it(
    "follows its pool, leads, writes Events and checks who reads metrics, asks for nothing else and is denied nothing",
    async () => {
      const its = await createPoolNamespace(plane, "rights");
      const { namespace } = its;
      await grantPickerRights(plane, namespace, "signalbox-epp-leader-election");
      const account = await plane.accountFolder(namespace, pickerAccount);
      await its.putPool("pool", poolSpec(app, 8000));
      const picker = await startPickerPod({
        plane,
        namespace,
        podName: "picker-6d8f-x2v9p",
        account,
        args: ["--pool-name=pool", "--ha-enable-leader-election", "--secure-serving=false"],
      });
      open.push(picker);
      const metrics = `http://127.0.0.1:${picker.ready.metricsPort}/metrics`;
      const headers = { authorization: `Bearer ${await plane.tokenIn(account)}` };
      // The picker's own account may ask who others are, and may not read metrics itself.
      await eventually(
        "the picker answers who may read",
        async () => (await fetch(metrics, { headers })).status === 403,
      );
      const ofPool = async (reason: string): Promise<EventObject | undefined> =>
        (await eventsOf(namespace)).find((event) => event.reason === reason && event.involvedObject.kind !== "Lease");
      const warned = await eventually("it says that the pool has no endpoints", () => ofPool("NoEndpoints"), 60_000);
      const { metadata } = JSON.parse(
        await plane.api.request({
          path: `/apis/inference.networking.k8s.io/v1/namespaces/${namespace}/inferencepools/pool`,
        }),
      ) as { readonly metadata: { readonly uid: string } };
      expect(warned).toMatchObject({
        type: "Warning",
        count: 1,
        involvedObject: { kind: "InferencePool", name: "pool", uid: metadata.uid },
      });
      expect(await eventsOf(namespace)).toContainEqual(
        expect.objectContaining({
          reason: "LeaderElection",
          message: expect.stringMatching(/^picker-6d8f-x2v9p_\S+ became leader$/),
        }),
      );
      await its.createPod("engine", { labels: app, ips: ["127.0.0.1"] });
      await eventually("it says that there are endpoints", () => ofPool("EndpointsAvailable"), 60_000);
      await its.deletePod("engine");
      await eventually("it counts the second time", async () => (await ofPool("NoEndpoints"))?.count === 2, 60_000);
      await picker.close(20_000);

      const audited = await plane.audited(`system:serviceaccount:${namespace}:${pickerAccount}`);
      expect(askedIn(audited)).toEqual(
        [
          "list /pods",
          "watch /pods",
          "get inference.networking.k8s.io/inferencepools",
          "list inference.networking.k8s.io/inferencepools",
          "watch inference.networking.k8s.io/inferencepools",
          ...["inferenceobjectives", "inferencemodelrewrites"].flatMap((kind) => [
            `list llm-d.ai/${kind}`,
            `watch llm-d.ai/${kind}`,
            // This cluster has not the older group: it is asked for and is not there.
            `list inference.networking.x-k8s.io/${kind}`,
          ]),
          "create coordination.k8s.io/leases",
          "get coordination.k8s.io/leases",
          "list coordination.k8s.io/leases",
          "update coordination.k8s.io/leases",
          "watch coordination.k8s.io/leases",
          "create /events",
          "patch /events",
          "create authentication.k8s.io/tokenreviews",
          "create authorization.k8s.io/subjectaccessreviews",
        ].sort(),
      );
      const outside = audited.filter(({ objectRef }) => ![namespace, undefined].includes(objectRef?.namespace));
      expect(outside).toEqual([]);
      const denied = audited.filter(
        ({ annotations, responseStatus }) =>
          annotations?.["authorization.k8s.io/decision"] !== "allow" || responseStatus?.code === 403,
      );
      expect(denied).toEqual([]);
      expect(await leaseHolder(namespace)).toBe("");
    },
    limitMs,
  );

  it(
    "without those for Events and leases serves all the same, is not ready, and says so",
    async () => {
      const its = await createPoolNamespace(plane, "fewer-rights");
      const { namespace } = its;
      await grantPickerRights(plane, namespace);
      const bindings = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}/rolebindings`;
      await plane.api.request({ method: "DELETE", path: `${bindings}/signalbox-epp-events` });
      const account = await plane.accountFolder(namespace, pickerAccount);
      await its.putPool("pool", poolSpec(app, 8000));
      const args = ["--pool-name=pool", "--metrics-endpoint-auth=false", "--secure-serving=false"];
      const start = async (podName: string, ...more: readonly string[]) => {
        const picker = await startPickerPod({ plane, namespace, podName, account, args: [...args, ...more] });
        open.push(picker);
        return picker;
      };
      const alone = await start("alone");
      await eventually(
        "it says that Events are refused",
        () => Promise.resolve(alone.lines.some((line) => line.includes("refuses Events"))),
        60_000,
      );
      expect(alone.lines.filter((line) => line.includes("refuses Events"))).toHaveLength(1);
      expect((await fetch(`http://127.0.0.1:${alone.ready.metricsPort}/readyz`)).ok).toBe(true);
      const candidate = await start("candidate", "--ha-enable-leader-election", "--pool-events=false");
      await eventually(
        "it says that the lease is refused",
        () => Promise.resolve(candidate.lines.some((line) => line.includes("the lease cannot be read or written"))),
        60_000,
      );
      expect((await fetch(`http://127.0.0.1:${candidate.ready.metricsPort}/readyz`)).ok).toBe(false);
      const lease = `epp-${namespace}-pool.llm-d.ai`;
      expect(await sampleOf(candidate, `leader_election_master_status{name="${lease}"}`)).toBe(0);
      const leader = (await (
        await fetch(`http://127.0.0.1:${candidate.ready.metricsPort}/debug/leader`)
      ).json()) as object;
      expect(leader).toMatchObject({ lease: `${namespace}/${lease}`, isLeading: false, holder: "" });
    },
    limitMs,
  );

  it(
    "elects a leader where its endpoints are listed and it follows nothing in Kubernetes",
    async () => {
      const { namespace } = await createPoolNamespace(plane, "listed");
      await grantPickerRights(plane, namespace, "signalbox-epp-leader-election");
      const picker = await startPickerPod({
        plane,
        namespace,
        podName: "picker-0",
        account: await plane.accountFolder(namespace, pickerAccount),
        args: [
          "--endpoints=127.0.0.1:1",
          "--pool-name=pool",
          "--ha-enable-leader-election",
          "--metrics-endpoint-auth=false",
        ],
      });
      open.push(picker);
      await eventually(
        "it is ready",
        async () => (await fetch(`http://127.0.0.1:${picker.ready.metricsPort}/readyz`)).ok,
        30_000,
      );
      expect(await leaseHolder(namespace)).toMatch(/^picker-0_/);
      await picker.close(20_000);
      expect(await leaseHolder(namespace)).toBe("");
      const audited = await plane.audited(`system:serviceaccount:${namespace}:${pickerAccount}`);
      expect(new Set(audited.map(({ objectRef }) => objectRef?.resource))).toEqual(new Set(["leases"]));
    },
    limitMs,
  );
});

async function leaseHolder(namespace: string): Promise<string> {
  const path = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/epp-${namespace}-pool.llm-d.ai`;
  const { spec } = JSON.parse(await plane.api.request({ path })) as {
    readonly spec: { readonly holderIdentity: string };
  };
  return spec.holderIdentity;
}
