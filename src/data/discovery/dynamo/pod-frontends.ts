/**
 * The frontends that stand beside Dynamo's workers in Kubernetes: each worker pod's container port named "http", on the pod's address, while the
 * pod is ready and not on its way out. Which worker a pod is follows from its name.
 */
import { isIP } from "node:net";
import type { KubernetesDiscoveryMode } from "../../../dynamo/discovery/kubernetes/kubernetes-settings.ts";
import { workerName } from "../../../dynamo/discovery/kubernetes/readiness-index.ts";
import { instanceIdOfPod } from "../../../dynamo/instance-id.ts";
import type { NamespaceFilter } from "../../../dynamo/worker-sets/namespace-filter.ts";
import type { KubernetesApi } from "../../../net/kubernetes/api-client.ts";
import { type KubernetesObject, ListWatch, type ListWatchEvent } from "../../../net/kubernetes/list-watch.ts";

/** One worker of a pod; several in container mode share address and port. */
export interface PodFrontend {
  readonly instanceId: bigint;
  /** Of the worker: the pod's, or with its container's after it. */
  readonly name: string;
  readonly namespace: string;
  readonly address: string;
  readonly port: number;
  readonly labels: ReadonlyMap<string, string>;
}

export interface PodFrontendsOptions {
  readonly api: Pick<KubernetesApi, "request" | "watch">;
  readonly namespace: string;
  readonly selector: string;
  readonly mode: KubernetesDiscoveryMode;
  readonly changed: () => void;
  readonly report: (event: ListWatchEvent) => void;
}

/** The label holds the base of a rolling update's namespaces. */
export function workerPodSelector(filter: NamespaceFilter): string {
  const base = filter.kind === "exact" ? filter.namespace : filter.kind === "prefix" ? filter.prefix : undefined;
  const workers = "nvidia.com/dynamo-component-class=worker";
  // A prefix that is cut short is no label's value.
  const isWhole = base !== undefined && /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/.test(base);
  return isWhole ? `nvidia.com/dynamo-namespace=${base},${workers}` : workers;
}

export class PodFrontends {
  readonly #watch: ListWatch<readonly PodFrontend[]>;
  readonly #byPod = new Map<string, readonly PodFrontend[]>();
  readonly #byWorker = new Map<bigint, PodFrontend>();
  readonly #changed: () => void;

  constructor({ api, namespace, selector, mode, changed, report }: PodFrontendsOptions) {
    this.#changed = changed;
    this.#watch = new ListWatch({
      api,
      path: `/api/v1/namespaces/${namespace}/pods`,
      labelSelector: selector,
      read: (pod) => podFrontendsOf(pod, mode),
      report,
      listener: {
        replaced: (pods) => {
          for (const pod of this.#byPod.keys()) if (!pods.has(pod)) this.#put(pod, []);
          for (const [pod, frontends] of pods) this.#put(pod, frontends);
          this.#changed();
        },
        put: (pod, frontends) => {
          if (this.#put(pod, frontends)) this.#changed();
        },
        removed: (pod) => {
          if (this.#put(pod, [])) this.#changed();
        },
      },
    });
  }

  /** Resolves when every pod there is has been seen. */
  start(): Promise<void> {
    return this.#watch.start();
  }

  get isStale(): boolean {
    return this.#watch.isStale;
  }

  find(instanceId: bigint): PodFrontend | undefined {
    return this.#byWorker.get(instanceId);
  }

  close(): Promise<void> {
    return this.#watch.close();
  }

  /** True when it changed anything: pods are written to far more often than they change. */
  #put(pod: string, frontends: readonly PodFrontend[]): boolean {
    const before = this.#byPod.get(pod) ?? [];
    if (isSame(before, frontends)) return false;
    for (const frontend of before) {
      if (this.#byWorker.get(frontend.instanceId) === frontend) this.#byWorker.delete(frontend.instanceId);
    }
    if (frontends.length === 0) this.#byPod.delete(pod);
    else this.#byPod.set(pod, frontends);
    for (const frontend of frontends) this.#byWorker.set(frontend.instanceId, frontend);
    return true;
  }
}

interface ContainerPort {
  readonly name?: string;
  readonly containerPort?: number;
  readonly protocol?: string;
}

interface Container {
  readonly name: string;
  readonly ports?: readonly ContainerPort[];
  readonly restartPolicy?: string;
}

/** What is read of a pod: core/v1. */
interface Pod extends KubernetesObject {
  readonly spec?: { readonly containers?: readonly Container[]; readonly initContainers?: readonly Container[] };
  readonly status?: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly { readonly name: string; readonly ready: boolean }[];
    readonly initContainerStatuses?: readonly { readonly name: string; readonly ready: boolean }[];
  };
}

/** Empty while the pod serves nobody. */
export function podFrontendsOf(object: KubernetesObject, mode: KubernetesDiscoveryMode): readonly PodFrontend[] {
  const pod = object as Pod;
  const { name, namespace = "", deletionTimestamp, labels = {} } = pod.metadata;
  const address = pod.status?.podIP ?? "";
  if (deletionTimestamp !== undefined || isIP(address) === 0) return [];
  const containers = pod.spec?.containers ?? [];
  const http = httpPortOf([...containers, ...(pod.spec?.initContainers ?? []).filter(isSidecar)]);
  if (http === undefined || !isServing(pod, mode, http.container)) return [];
  const labelled = new Map(Object.entries(labels));
  const names = mode === "pod" ? [name] : containers.map((container) => workerName(name, container.name));
  return [...new Set([name, ...names])].map((worker) => ({
    instanceId: instanceIdOfPod(worker),
    name: worker,
    namespace,
    address,
    port: http.port,
    labels: labelled,
  }));
}

/** An init container that stays. */
function isSidecar({ restartPolicy }: Container): boolean {
  return restartPolicy === "Always";
}

function httpPortOf(
  containers: readonly Container[],
): { readonly container: string; readonly port: number } | undefined {
  for (const { name, ports = [] } of containers) {
    const port = ports.find((candidate) => candidate.name === "http")?.containerPort;
    if (port !== undefined) return { container: name, port };
  }
  return undefined;
}

/**
 * In container mode one engine of a pod may be down and another serve: the pod as a whole is then not ready, and what counts is the container
 * that answers requests.
 */
function isServing({ status }: Pod, mode: KubernetesDiscoveryMode, container: string): boolean {
  if (mode === "pod") {
    return status?.conditions?.some((condition) => condition.type === "Ready" && condition.status === "True") ?? false;
  }
  const statuses = [...(status?.containerStatuses ?? []), ...(status?.initContainerStatuses ?? [])];
  return statuses.some(({ name, ready }) => name === container && ready);
}

function isSame(one: readonly PodFrontend[], other: readonly PodFrontend[]): boolean {
  return (
    one.length === other.length &&
    one.every((frontend, index) => {
      const against = other[index];
      return (
        against !== undefined &&
        frontend.instanceId === against.instanceId &&
        frontend.address === against.address &&
        frontend.port === against.port &&
        isSameLabels(frontend.labels, against.labels)
      );
    })
  );
}

function isSameLabels(one: ReadonlyMap<string, string>, other: ReadonlyMap<string, string>): boolean {
  if (one.size !== other.size) return false;
  for (const [name, value] of one) if (other.get(name) !== value) return false;
  return true;
}
