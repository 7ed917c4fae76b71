/** Objects of one namespace as Dynamo's operator, its workers and Kubernetes' own controllers write them. */
import { encodeExactJson } from "../../src/dynamo/record-json.ts";
import type { KubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { eventually } from "../stack.ts";
import { workerMetadataDefinition } from "./worker-metadata-crd.ts";

export interface PodOptions {
  readonly labels?: Readonly<Record<string, string>>;
  readonly containers?: readonly object[];
  /** Keeps a deleted pod on its way out. */
  readonly finalizers?: readonly string[];
}

export interface PodState {
  readonly ip?: string;
  readonly ready: boolean;
  /** By container. */
  readonly containers?: Readonly<Record<string, boolean>>;
}

export interface SliceMember {
  readonly pod: string;
  readonly uid: string | undefined;
  readonly ready: boolean;
  readonly ip?: string;
}

export interface Objects {
  readonly namespace: string;
  /** Its uid. */
  createPod(name: string, options?: PodOptions): Promise<string>;
  setPod(name: string, state: PodState): Promise<void>;
  deletePod(name: string): Promise<void>;
  /** Replaces what the slice holds. */
  putSlice(name: string, members: readonly SliceMember[]): Promise<void>;
  deleteSlice(name: string): Promise<void>;
  putMetadata(name: string, podUid: string, data: unknown): Promise<void>;
  /** Where there is none yet; cheaper for the server. */
  createMetadata(name: string, podUid: string, data: unknown): Promise<void>;
  deleteMetadata(name: string): Promise<void>;
}

export const discoveryLabels = {
  "nvidia.com/dynamo-discovery-backend": "kubernetes",
  "nvidia.com/dynamo-discovery-enabled": "true",
} as const;

/** Once for each control plane. */
export async function defineWorkerMetadata(api: KubernetesApi): Promise<void> {
  const kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
  await api.request({ method: "POST", path: kinds, body: JSON.stringify(workerMetadataDefinition) });
  // Its storage begins a moment after it is served, and answers 429 until then.
  await eventually("worker metadata can be listed", () =>
    api.request({ path: "/apis/nvidia.com/v1alpha1/namespaces/default/dynamoworkermetadatas" }).then(
      () => true,
      () => false,
    ),
  );
}

/** In a namespace of its own. */
export async function createObjects(api: KubernetesApi, namespace: string): Promise<Objects> {
  const send = async (method: "POST" | "PATCH" | "DELETE", path: string, body?: unknown, contentType?: string) =>
    await api.request({
      method,
      path,
      ...(body === undefined ? {} : { body: encodeExactJson(body) }),
      ...(contentType === undefined ? {} : { contentType }),
    });
  const apply = (path: string, body: unknown) =>
    send("PATCH", `${path}?fieldManager=dynamo-worker&force=true`, body, "application/apply-patch+yaml");
  const remove = async (path: string): Promise<void> => void (await send("DELETE", path));
  const pods = `/api/v1/namespaces/${namespace}/pods`;
  const slices = `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`;
  const metadatas = `/apis/nvidia.com/v1alpha1/namespaces/${namespace}/dynamoworkermetadatas`;
  await send("POST", "/api/v1/namespaces", { metadata: { name: namespace } });
  return {
    namespace,
    async createPod(name, { labels = {}, containers = [mainContainer, frontendContainer], finalizers = [] } = {}) {
      const metadata = { name, labels: { ...discoveryLabels, ...labels }, finalizers };
      const pod = JSON.parse(await send("POST", pods, { metadata, spec: { containers } })) as {
        readonly metadata: { readonly uid: string };
      };
      return pod.metadata.uid;
    },
    async setPod(name, { ip, ready, containers = {} }) {
      const condition = (isTrue: boolean) => (isTrue ? "True" : "False");
      const status = {
        phase: "Running",
        ...(ip === undefined ? {} : { podIP: ip, podIPs: [{ ip }] }),
        conditions: [{ type: "Ready", status: condition(ready) }],
        containerStatuses: Object.entries(containers).map(([container, isReady]) => ({
          name: container,
          ready: isReady,
          restartCount: 0,
          image: "worker",
          imageID: "worker",
        })),
      };
      await send("PATCH", `${pods}/${name}/status`, { status }, "application/merge-patch+json");
    },
    deletePod: (name) => remove(`${pods}/${name}`),
    async putSlice(name, members) {
      await apply(`${slices}/${name}`, {
        apiVersion: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: { name, labels: discoveryLabels },
        addressType: "IPv4",
        endpoints: members.map(({ pod, uid, ready, ip = "10.77.0.1" }) => ({
          addresses: [ip],
          conditions: { ready },
          targetRef: { kind: "Pod", name: pod, namespace, ...(uid === undefined ? {} : { uid }) },
        })),
      });
    },
    deleteSlice: (name) => remove(`${slices}/${name}`),
    async putMetadata(name, podUid, data) {
      await apply(`${metadatas}/${name}`, metadataObject(name, podUid, data));
    },
    async createMetadata(name, podUid, data) {
      await send("POST", metadatas, metadataObject(name, podUid, data));
    },
    deleteMetadata: (name) => remove(`${metadatas}/${name}`),
  };
}

function metadataObject(name: string, podUid: string, data: unknown): object {
  return {
    apiVersion: "nvidia.com/v1alpha1",
    kind: "DynamoWorkerMetadata",
    metadata: { name, ownerReferences: [{ apiVersion: "v1", kind: "Pod", name, uid: podUid, controller: true }] },
    spec: { data },
  };
}

export const mainContainer = { name: "main", image: "worker", ports: [{ name: "system", containerPort: 9090 }] };
export const frontendContainer = {
  name: "sidecar-frontend",
  image: "frontend",
  ports: [
    { name: "metrics", containerPort: 9345 },
    { name: "http", containerPort: 8000 },
  ],
};
