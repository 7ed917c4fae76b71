/** Replicas of the picker as pods: they find each other by the slices of a Service, with the rights of the overlay and no more, and stay one through a scaling. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { parseAllDocuments } from "yaml";
import { packageRoot } from "../../../src/app/envoy.ts";
import { connectExtProc, requestBody, requestHeaders } from "../../conformance/ext-proc-client.ts";
import { eventually } from "../../stack.ts";
import { type Cluster, type ClusterObject, type ReadyPod, startCluster } from "../cluster.ts";
import { signalboxImage } from "./images.ts";

const namespace = "replicas";
const label = "app.kubernetes.io/name=signalbox-epp";
const deployment = { apiVersion: "apps/v1", kind: "Deployment", name: "signalbox-epp", namespace } as const;

let cluster: Cluster;

interface PeersState {
  readonly id: string;
  readonly peers: readonly { readonly peer: string | null; readonly state: string; readonly error: string | null }[];
}

/** As deploy/ has them, in the namespace of the test. */
function manifests(path: string, ...kinds: readonly string[]): readonly ClusterObject[] {
  return parseAllDocuments(readFileSync(join(packageRoot, path), "utf8"))
    .map((document) => document.toJS() as ClusterObject & { readonly subjects?: readonly object[] })
    .filter(({ kind }) => kinds.includes(kind))
    .map((object) => ({
      ...object,
      metadata: { ...object.metadata, namespace },
      ...(object.subjects === undefined ? {} : { subjects: object.subjects.map((one) => ({ ...one, namespace })) }),
    }));
}

/** Over engines that do not answer: what is asked here is only where requests go. */
const picker = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: deployment.name, namespace },
  spec: {
    replicas: 3,
    selector: { matchLabels: { "app.kubernetes.io/name": "signalbox-epp" } },
    template: {
      metadata: { labels: { "app.kubernetes.io/name": "signalbox-epp" } },
      spec: {
        serviceAccountName: "signalbox-epp",
        terminationGracePeriodSeconds: 10,
        containers: [
          {
            name: "epp",
            image: "example/signalbox:test",
            args: [
              "--endpoints=10.99.0.1:8000,10.99.0.2:8000",
              "--secure-serving=false",
              "--metrics-endpoint-auth=false",
              "--drain-timeout=0s",
              "--drain-grace=1s",
              "--peer-service=signalbox-epp-peers",
            ],
            env: [
              { name: "POD_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
              { name: "NAMESPACE", valueFrom: { fieldRef: { fieldPath: "metadata.namespace" } } },
            ],
            ports: [
              { name: "grpc", containerPort: 9002 },
              { name: "peers", containerPort: 9004 },
            ],
            readinessProbe: { httpGet: { path: "/readyz", port: 9090 }, periodSeconds: 1 },
          },
        ],
      },
    },
  },
} as const;

beforeAll(async () => {
  cluster = await startCluster({ images: { "example/signalbox": signalboxImage("epp") }, definitions: [] });
  await cluster.apply(
    { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } },
    ...manifests("deploy/kubernetes/rbac.yaml", "ServiceAccount", "Role"),
    ...manifests("deploy/overlays/active-active/peers.yaml", "Service", "RoleBinding"),
    picker,
  );
}, 600_000);
afterAll(async () => {
  await cluster?.close();
}, 60_000);

async function debug<Answer>({ address }: ReadyPod, path: string): Promise<Answer> {
  return (await (await fetch(`http://${address}:9090${path}`)).json()) as Answer;
}

async function load(pod: ReadyPod): Promise<number> {
  const endpoints = await debug<{ readonly load: { readonly requests: number } }[]>(pod, "/debug/endpoints");
  return endpoints.reduce((sum, endpoint) => sum + endpoint.load.requests, 0);
}

async function meet(count: number): Promise<readonly ReadyPod[]> {
  const pods = await cluster.podsReady(namespace, label, count);
  await eventually(
    `${count} replicas that hear each other`,
    async () => {
      const states = await Promise.all(pods.map((pod) => debug<PeersState>(pod, "/debug/peers")));
      return states.every(({ id, peers }) =>
        states.every(
          (other) => other.id === id || peers.some(({ peer, state }) => peer === other.id && state === "heard"),
        ),
      );
    },
    60_000,
  );
  return pods;
}

/** Leaves a request in flight at the pod. */
async function send(pod: ReadyPod): Promise<() => void> {
  const extProc = connectExtProc(9002, false, pod.address);
  const conversation = extProc.open();
  const headers = { ":path": "/v1/completions", ":method": "POST", "content-type": "application/json" };
  conversation.send(requestHeaders(headers), requestBody(JSON.stringify({ model: "m", prompt: "hello" })));
  await conversation.replied(1);
  return () => {
    conversation.cancel();
    extProc.close();
  };
}

describe("replicas in a cluster", () => {
  it("find each other by the slices of their Service, and count each other's requests", async () => {
    const pods = await meet(3);
    const ends = await Promise.all(pods.map(send));
    await eventually(
      "the sum in each",
      async () => (await Promise.all(pods.map(load))).every((sum) => sum === 3),
      30_000,
    );
    for (const end of ends) end();
    await eventually(
      "nothing in each",
      async () => (await Promise.all(pods.map(load))).every((sum) => sum === 0),
      30_000,
    );
  });

  it("stay one when a pod goes and others come", async () => {
    const before = await meet(3);
    const [first, second] = before;
    if (first === undefined || second === undefined) throw new Error("no pods");
    const ends = [await send(first), await send(second)];
    await cluster.remove({ apiVersion: "v1", kind: "Pod", name: second.name, namespace });
    await cluster.patch(deployment, { spec: { replicas: 4 } });
    const pods = await meet(4);
    expect(pods.map(({ name }) => name)).not.toContain(second.name);
    await eventually(
      "one request in each",
      async () => (await Promise.all(pods.map(load))).every((sum) => sum === 1),
      30_000,
    );
    for (const end of ends) end();
  });
});
