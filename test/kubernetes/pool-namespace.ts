/** One namespace with InferencePools of either group and pods as their controllers and kubelets would write them, and an account that may only look. */

import { createPodSource } from "../../src/data/discovery/kubernetes/pod-source.ts";
import { createPoolDiscovery, type KubernetesDiscovery } from "../../src/data/discovery/kubernetes/pool-discovery.ts";
import { createPoolSource } from "../../src/data/discovery/kubernetes/pool-source.ts";
import { createEndpointStore, type EndpointStore } from "../../src/data/endpoint-store.ts";
import type { KubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { eventually } from "../stack.ts";
import { accountApi, type ControlPlane } from "./control-plane.ts";

export const poolGroup = "inference.networking.k8s.io";
export const alphaGroup = "inference.networking.x-k8s.io";

export interface PodWish {
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly finalizers?: readonly string[];
  /** The first is podIP; default: none yet. */
  readonly ips?: readonly string[];
  /** Default: yes, where it has an address. */
  readonly ready?: boolean;
}

export interface PoolNamespace {
  readonly namespace: string;
  putPool(name: string, spec: object): Promise<void>;
  /** Of the alpha group. */
  putAlphaPool(name: string, spec: object): Promise<void>;
  deletePool(name: string): Promise<void>;
  /** Creates it and sets its status; its uid. */
  createPod(name: string, wish?: PodWish): Promise<string>;
  setStatus(name: string, wish: Pick<PodWish, "ips" | "ready">): Promise<void>;
  /** Labels, annotations, finalizers; null removes one. */
  patchPod(name: string, metadata: object): Promise<void>;
  deletePod(name: string): Promise<void>;
  /** Folder of an account that may look at pods and pools of this namespace. */
  account(): Promise<string>;
}

/** A spec of v1 as most have it. */
export function poolSpec(labels: Readonly<Record<string, string>>, ...ports: readonly number[]): object {
  return {
    selector: { matchLabels: labels },
    targetPorts: ports.map((number) => ({ number })),
    endpointPickerRef: { name: "picker", port: { number: 9002 } },
  };
}

/** Makes the namespace. */
export async function createPoolNamespace(plane: ControlPlane, namespace: string): Promise<PoolNamespace> {
  const send = (method: "POST" | "PATCH" | "DELETE", path: string, body?: object, contentType?: string) =>
    plane.api.request({
      method,
      path,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(contentType === undefined ? {} : { contentType }),
    });
  const merge = (path: string, body: object) => send("PATCH", path, body, "application/merge-patch+json");
  const pods = `/api/v1/namespaces/${namespace}/pods`;
  const put = async (group: string, version: string, name: string, spec: object): Promise<void> => {
    const path = `/apis/${group}/${version}/namespaces/${namespace}/inferencepools/${name}`;
    const object = { apiVersion: `${group}/${version}`, kind: "InferencePool", metadata: { name }, spec };
    await send("PATCH", `${path}?fieldManager=tests&force=true`, object, "application/apply-patch+yaml");
  };
  const setStatus: PoolNamespace["setStatus"] = async (name, { ips = [], ready = ips.length > 0 }) => {
    await merge(`${pods}/${name}/status`, {
      status: {
        phase: "Running",
        ...(ips[0] === undefined ? {} : { podIP: ips[0], podIPs: ips.map((ip) => ({ ip })) }),
        conditions: [{ type: "Ready", status: ready ? "True" : "False" }],
      },
    });
  };
  await send("POST", "/api/v1/namespaces", { metadata: { name: namespace } });
  return {
    namespace,
    putPool: (name, spec) => put(poolGroup, "v1", name, spec),
    putAlphaPool: (name, spec) => put(alphaGroup, "v1alpha2", name, spec),
    async deletePool(name) {
      await send("DELETE", `/apis/${poolGroup}/v1/namespaces/${namespace}/inferencepools/${name}`);
    },
    async createPod(name, { labels = {}, annotations = {}, finalizers = [], ...status } = {}) {
      const pod = JSON.parse(
        await send("POST", pods, {
          metadata: { name, labels, annotations, finalizers },
          spec: { containers: [{ name: "engine", image: "engine" }] },
        }),
      ) as { readonly metadata: { readonly uid: string } };
      await setStatus(name, status);
      return pod.metadata.uid;
    },
    setStatus,
    async patchPod(name, metadata) {
      await merge(`${pods}/${name}`, { metadata });
    },
    async deletePod(name) {
      await send("DELETE", `${pods}/${name}`, { gracePeriodSeconds: 0 });
    },
    async account() {
      const rbac = `/apis/rbac.authorization.k8s.io/v1/namespaces/${namespace}`;
      const verbs = ["get", "list", "watch"];
      await send("POST", `/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name: "picker" } });
      await send("POST", `${rbac}/roles`, {
        metadata: { name: "picker" },
        rules: [
          { apiGroups: [""], resources: ["pods"], verbs },
          { apiGroups: [poolGroup, alphaGroup], resources: ["inferencepools"], verbs },
        ],
      });
      await send("POST", `${rbac}/rolebindings`, {
        metadata: { name: "picker" },
        roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "picker" },
        subjects: [{ kind: "ServiceAccount", name: "picker", namespace }],
      });
      return await plane.accountFolder(namespace, "picker");
    },
  };
}

/** A discovery with a store of its own. */
export interface PoolWatching {
  readonly store: EndpointStore;
  readonly discovery: KubernetesDiscovery;
  /** Waits until exactly these endpoints are in the store: name → ip:port. */
  readonly sees: (endpoints: Readonly<Record<string, string>>) => Promise<void>;
  close(): Promise<void>;
}

/** As an account that may only look; names without their namespace. */
export async function watchPool(
  plane: ControlPlane,
  place: PoolNamespace,
  name: string,
  options: { readonly group?: string; readonly api?: KubernetesApi } = {},
): Promise<PoolWatching> {
  const api = options.api ?? accountApi(plane, await place.account());
  const context = { api, namespace: place.namespace, log: silentLogger };
  const pods = createPodSource(context);
  const pools = createPoolSource(context, options.group ?? poolGroup);
  const discovery = createPoolDiscovery({ pods, log: silentLogger, from: { kind: "object", name, pools } });
  const store = createEndpointStore();
  await discovery.start(store);
  pools.start();
  return {
    store,
    discovery,
    async sees(endpoints) {
      const expected = entriesText(Object.entries(endpoints));
      const seen = () =>
        entriesText(
          store.snapshot().map((endpoint) => [endpoint.name.slice(place.namespace.length + 1), endpoint.hostPort]),
        );
      await eventually(
        `the endpoints are ${expected}`,
        () => Promise.resolve(seen() === expected && discovery.state.kind === "listed"),
        30_000,
      ).catch((cause: unknown) => {
        throw new Error(`endpoints: ${seen()}; pool: ${discovery.state.kind}`, { cause });
      });
    },
    async close() {
      await discovery.close();
      await pools.close();
      await api.close();
    },
  };
}

function entriesText(entries: readonly (readonly [string, string])[]): string {
  return entries
    .map(([name, hostPort]) => `${name}=${hostPort}`)
    .sort()
    .join(" ");
}
