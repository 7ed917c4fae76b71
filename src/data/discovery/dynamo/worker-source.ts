/** Where the workers come from, by the backend's name, and in Kubernetes the frontends beside them. What one backend needs is loaded only where it is used. */
import type { EtcdOptions } from "../../../dynamo/discovery/etcd/etcd-options.ts";
import { kubernetesSettings } from "../../../dynamo/discovery/kubernetes/kubernetes-settings.ts";
import type { DynamoRegistration } from "../../../dynamo/discovery/registration.ts";
import type { DynamoDiscovery, RecordListener } from "../../../dynamo/records.ts";
import type { NamespaceFilter } from "../../../dynamo/worker-sets/namespace-filter.ts";
import type { ListWatchEvent } from "../../../net/kubernetes/list-watch.ts";
import type { Logger } from "../../../telemetry/log.ts";
import type { DynamoDiscoveryParameters } from "./dynamo-discovery-parameters.ts";
import { type PodFrontend, PodFrontends, workerPodSelector } from "./pod-frontends.ts";

export type BackendName = NonNullable<DynamoDiscoveryParameters["backend"]>;

type Environment = Readonly<Record<string, string | undefined>>;

export interface WorkerSourceOptions {
  readonly backend: BackendName;
  readonly parameters: DynamoDiscoveryParameters;
  readonly environment: Environment;
  readonly filter: NamespaceFilter;
  readonly log: Logger;
  /** Pods have come, gone or changed. */
  readonly podsChanged: () => void;
}

export interface WorkerSource extends DynamoDiscovery {
  /** The frontend in a worker's pod; undefined where no pod is ready for it. Only in Kubernetes. */
  readonly podOf?: (instanceId: bigint) => PodFrontend | undefined;
}

export function backendNameOf({ backend }: DynamoDiscoveryParameters, environment: Environment): BackendName {
  const name = backend ?? environment["DYN_DISCOVERY_BACKEND"] ?? "etcd";
  if (name === "file" || name === "etcd" || name === "kubernetes") return name;
  throw new RangeError(`DYN_DISCOVERY_BACKEND: ${JSON.stringify(name)} is not "file", "etcd" or "kubernetes"`);
}

export async function createWorkerSource(options: WorkerSourceOptions): Promise<WorkerSource> {
  switch (options.backend) {
    case "file":
      return await fileSource(options);
    case "etcd":
      return await etcdSource(options);
    case "kubernetes":
      return await kubernetesSource(options);
    default: {
      const never: never = options.backend;
      return never;
    }
  }
}

async function fileSource(options: WorkerSourceOptions): Promise<WorkerSource> {
  const { createFileDiscovery } = await import("../../../dynamo/discovery/file/file-discovery.ts");
  return createFileDiscovery({ root: await fileRootOf(options), log: options.log });
}

async function etcdSource(options: WorkerSourceOptions): Promise<WorkerSource> {
  const { createEtcdDiscovery } = await import("../../../dynamo/discovery/etcd/etcd-discovery.ts");
  const seconds = Number(options.environment["ETCD_STARTUP_CONNECT_TIMEOUT_SECONDS"]);
  return createEtcdDiscovery({
    ...(await etcdOptionsOf(options)),
    ...(seconds > 0 ? { startTimeoutMs: seconds * 1000 } : {}),
    log: options.log,
  });
}

type RegistrationOptions = Pick<WorkerSourceOptions, "backend" | "parameters" | "environment" | "log">;

/** A place for records of this process among those of the workers; the caller's to close. Rejects where the backend takes none or is away. */
export async function createRegistration(options: RegistrationOptions): Promise<DynamoRegistration> {
  switch (options.backend) {
    case "file": {
      const { createFileRegistration } = await import("../../../dynamo/discovery/file/file-registration.ts");
      return createFileRegistration({ root: await fileRootOf(options), log: options.log });
    }
    case "etcd": {
      const { createEtcdRegistration } = await import("../../../dynamo/discovery/etcd/etcd-registration.ts");
      const ttlSeconds = Number(options.environment["ETCD_LEASE_TTL"]);
      return createEtcdRegistration({
        ...(await etcdOptionsOf(options)),
        ...(ttlSeconds > 0 ? { ttlSeconds } : {}),
        log: options.log,
      });
    }
    case "kubernetes": {
      const { createPodRegistration } = await import("./pod-registration.ts");
      return createPodRegistration(options.environment, options.parameters.kubernetesNamespace);
    }
    default: {
      const never: never = options.backend;
      return never;
    }
  }
}

async function fileRootOf({ parameters, environment }: RegistrationOptions): Promise<string> {
  const { defaultFileRoot } = await import("../../../dynamo/discovery/file/file-registration.ts");
  return parameters.fileRoot ?? environment["DYN_FILE_KV"] ?? defaultFileRoot();
}

async function etcdOptionsOf({ parameters, environment }: RegistrationOptions): Promise<EtcdOptions> {
  const { etcdOptionsFromEnvironment } = await import("../../../dynamo/discovery/etcd/etcd-options.ts");
  const options = etcdOptionsFromEnvironment(environment);
  return parameters.etcdEndpoints === undefined ? options : { ...options, endpoints: parameters.etcdEndpoints };
}

async function kubernetesSource(options: WorkerSourceOptions): Promise<WorkerSource> {
  const { parameters, environment, filter, log } = options;
  const { createKubernetesApi } = await import("../../../net/kubernetes/api-client.ts");
  const { findCredentials } = await import("../../../net/kubernetes/credentials.ts");
  const { createKubernetesDiscovery } = await import("../../../dynamo/discovery/kubernetes/kubernetes-discovery.ts");
  const credentials = findCredentials(environment);
  if (credentials === undefined) {
    throw new Error("no Kubernetes API: neither KUBECONFIG, nor a service account in the pod, nor ~/.kube/config");
  }
  const settings = kubernetesSettings(environment);
  const { mode } = settings;
  const namespace = parameters.kubernetesNamespace ?? settings.namespace;
  const api = createKubernetesApi(credentials);
  const workers = createKubernetesDiscovery({ api, namespace, mode, log });
  const pods = new PodFrontends({
    api,
    namespace,
    mode,
    selector: parameters.podSelector ?? workerPodSelector(filter),
    changed: options.podsChanged,
    report: (event) => reportPods(event, log),
  });
  const closing = new AbortController();
  const closed = new Promise<void>((resolve) => {
    closing.signal.addEventListener("abort", () => resolve(), { once: true });
  });
  return {
    podOf: (instanceId) => pods.find(instanceId),
    get isStale() {
      return workers.isStale || pods.isStale;
    },
    get malformedRecords() {
      return workers.malformedRecords;
    },
    // Whoever may list workers' metadata may list pods: one deadline is enough.
    async start(listener: RecordListener) {
      const podsListed = pods.start();
      await workers.start(listener);
      await Promise.race([podsListed, closed]);
    },
    async close() {
      closing.abort();
      await Promise.all([workers.close(), pods.close()]);
      await api.close();
    },
  };
}

function reportPods(event: ListWatchEvent, log: Logger): void {
  if (event.kind === "away") {
    log.warn({ error: event.error }, "pods cannot be read from the Kubernetes API; what it last said is kept");
  } else if (event.kind === "back") log.info({}, "pods can be read from the Kubernetes API again");
  else if (event.kind === "listed" && event.leftOut > 0) {
    log.error({ leftOut: event.leftOut }, "more pods than are read; the rest is left out");
  }
}
