/**
 * Thousands of pods, written into the API server's store behind its back, which takes seconds where creating them takes minutes. Each is as large
 * as an engine's pod is in a cluster: two containers, their environment and volumes, the fields that managers claim, a full status.
 */
import { Etcd3 } from "etcd3";

export interface StoredPod {
  readonly name: string;
  readonly ip: string;
  readonly ready: boolean;
  readonly labels: Readonly<Record<string, string>>;
}

/** So many in one transaction: together below the 1.5 MB that etcd takes. */
const batch = 100;

export async function storePods(etcdUrl: string, namespace: string, pods: readonly StoredPod[]): Promise<void> {
  const etcd = new Etcd3({ hosts: etcdUrl });
  try {
    for (let from = 0; from < pods.length; from += batch) {
      const success = pods.slice(from, from + batch).map((pod, i) => ({
        request_put: {
          key: Buffer.from(`/registry/pods/${namespace}/${pod.name}`),
          value: Buffer.from(JSON.stringify(podObject(namespace, pod, from + i))),
        },
      }));
      await etcd.kv.txn({ compare: [], success, failure: [] });
    }
  } finally {
    etcd.close();
  }
}

/** "127.x.y.z", another for each index below 4,000,000. */
export function podAddress(index: number): string {
  return `127.${64 + Math.floor(index / 62_500)}.${Math.floor(index / 250) % 250}.${(index % 250) + 1}`;
}

const time = "2026-01-01T00:00:00Z";

function podObject(namespace: string, { name, ip, ready, labels }: StoredPod, index: number): object {
  const status = ready ? "True" : "False";
  const condition = (type: string, is: string) => ({ type, status: is, lastProbeTime: null, lastTransitionTime: time });
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      name,
      namespace,
      uid: `00000000-0000-4000-8000-${index.toString(16).padStart(12, "0")}`,
      creationTimestamp: time,
      generateName: "engine-7d4b9c6f5-",
      labels: { "pod-template-hash": "7d4b9c6f5", "app.kubernetes.io/part-of": "serving", role: "decode", ...labels },
      annotations: {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8000",
        "kubectl.kubernetes.io/default-container": "engine",
        "network.example/status": JSON.stringify([{ name: "default", interface: "eth0", ips: [ip], default: true }]),
      },
      ownerReferences: [
        { apiVersion: "apps/v1", kind: "ReplicaSet", name: "engine-7d4b9c6f5", uid: "owner", controller: true },
      ],
      managedFields: ["kube-controller-manager", "multus", "kubelet"].map((manager) => ({
        manager,
        operation: "Update",
        apiVersion: "v1",
        time,
        fieldsType: "FieldsV1",
        fieldsV1: claimedFields,
      })),
    },
    spec: {
      containers: ["engine", "sidecar"].map(containerOf),
      volumes: Array.from({ length: 6 }, (_, i) => ({ name: `volume-${i}`, emptyDir: { sizeLimit: "16Gi" } })),
      restartPolicy: "Always",
      terminationGracePeriodSeconds: 130,
      dnsPolicy: "ClusterFirst",
      nodeName: `node-${index % 500}`,
      securityContext: {},
      schedulerName: "default-scheduler",
      tolerations: [{ key: "nvidia.com/gpu", operator: "Exists", effect: "NoSchedule" }],
    },
    status: {
      phase: "Running",
      conditions: [
        condition("Initialized", "True"),
        condition("ContainersReady", status),
        condition("PodScheduled", "True"),
        condition("Ready", status),
      ],
      hostIP: "10.0.0.1",
      podIP: ip,
      podIPs: [{ ip }],
      startTime: time,
      containerStatuses: ["engine", "sidecar"].map((container) => ({
        name: container,
        state: { running: { startedAt: time } },
        lastState: {},
        ready,
        restartCount: 0,
        image: "registry.example/engine:v1",
        imageID: `registry.example/engine@sha256:${"0".repeat(64)}`,
        containerID: `containerd://${"1".repeat(64)}`,
        started: true,
      })),
      qosClass: "Burstable",
    },
  };
}

const claimedFields = {
  "f:metadata": { "f:labels": claims("label", 10), "f:annotations": claims("annotation", 6) },
  "f:spec": { "f:containers": { 'k:{"name":"engine"}': { "f:env": claims("variable", 24) } } },
};

function claims(what: string, count: number): Readonly<Record<string, object>> {
  return Object.fromEntries(Array.from({ length: count }, (_, i) => [`f:${what}-${i}`, {}]));
}

function containerOf(name: string): object {
  return {
    name,
    image: "registry.example/engine:v1",
    args: ["--model=meta-llama/Llama-3.1-70B-Instruct", "--tensor-parallel-size=8", "--max-model-len=131072"],
    ports: [{ name: "http", containerPort: 8000, protocol: "TCP" }],
    env: Array.from({ length: 24 }, (_, i) => ({ name: `VARIABLE_${i}`, value: `value of variable ${i}` })),
    resources: { limits: { "nvidia.com/gpu": "8", memory: "512Gi" }, requests: { cpu: "16", memory: "256Gi" } },
    volumeMounts: Array.from({ length: 6 }, (_, i) => ({ name: `volume-${i}`, mountPath: `/volumes/${i}` })),
    terminationMessagePath: "/dev/termination-log",
    terminationMessagePolicy: "File",
    imagePullPolicy: "IfNotPresent",
  };
}
