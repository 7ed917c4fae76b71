/**
 * Dynamo's discovery in Kubernetes: a worker is there while its pod is ready in an EndpointSlice (in container mode: while its container is) and
 * its DynamoWorkerMetadata object, which holds its records, is that pod's. While the API server is away what it last said stands.
 */
import type { KubernetesApi } from "../../../net/kubernetes/api-client.ts";
import { type KubernetesObject, ListWatch, type ListWatchEvent } from "../../../net/kubernetes/list-watch.ts";
import type { Logger } from "../../../telemetry/log.ts";
import { parseExactJson } from "../../record-json.ts";
import type { DynamoDiscovery, RecordListener } from "../../records.ts";
import { DiscoveryBackendError } from "../discovery-error.ts";
import { RecordTable } from "../record-table.ts";
import type { KubernetesDiscoveryMode } from "./kubernetes-settings.ts";
import { ReadinessIndex, type ReadyWorker, readyInPod, readyInSlice } from "./readiness-index.ts";
import { WorkerJoin } from "./worker-join.ts";
import { metadataCollection, type WorkerMetadata, workerMetadataOf } from "./worker-metadata.ts";

export interface KubernetesDiscoveryOptions {
  /** Stays its giver's to close. */
  readonly api: Pick<KubernetesApi, "request" | "watch">;
  /** Kubernetes namespace of the workers. */
  readonly namespace: string;
  readonly mode: KubernetesDiscoveryMode;
  readonly log: Logger;
  /** How long `start` waits for both lists. */
  readonly startTimeoutMs?: number;
  /** See ListWatchOptions. */
  readonly watchSeconds?: number;
}

/** What Dynamo's operator writes on everything that takes part; its workers look for this label alone. */
export const discoverySelector = "nvidia.com/dynamo-discovery-enabled=true";

/** Each object holds a worker's cards: tens of kilobytes. */
const metadataPerPage = 100;
const defaultStartTimeoutMs = 120_000;

export function createKubernetesDiscovery(options: KubernetesDiscoveryOptions): DynamoDiscovery {
  return new KubernetesDiscovery(options);
}

class KubernetesDiscovery implements DynamoDiscovery {
  readonly #options: KubernetesDiscoveryOptions;
  readonly #closing = new AbortController();
  #table: RecordTable | undefined;
  #watches: readonly Pick<ListWatch<unknown>, "start" | "close" | "isStale" | "lastError">[] = [];

  constructor(options: KubernetesDiscoveryOptions) {
    this.#options = options;
  }

  get isStale(): boolean {
    return this.#watches.length === 0 || this.#watches.some((watch) => watch.isStale);
  }

  get malformedRecords(): number {
    return this.#table?.malformed ?? 0;
  }

  async start(listener: RecordListener): Promise<void> {
    const { namespace, log, startTimeoutMs = defaultStartTimeoutMs } = this.#options;
    const table = new RecordTable(listener, log);
    this.#table = table;
    const ready = new ReadinessIndex();
    const join = new WorkerJoin(ready, table, log);
    this.#watches = [this.#readiness(ready, join), this.#metadata(join)];
    const { signal } = this.#closing;
    let timer: NodeJS.Timeout | undefined;
    const givenUp = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), startTimeoutMs);
      signal.addEventListener("abort", () => resolve(false), { once: true });
    });
    const listed = Promise.all(this.#watches.map((watch) => watch.start())).then(() => true);
    const isListed = await Promise.race([listed, givenUp]);
    clearTimeout(timer);
    if (isListed) return;
    const cause = this.#watches.find(({ lastError }) => lastError !== undefined)?.lastError;
    if (signal.aborted) {
      throw new DiscoveryBackendError("closed before the Kubernetes API gave a list", { cause });
    }
    await this.close();
    throw new DiscoveryBackendError(
      `the Kubernetes API gave no list of Dynamo's workers in namespace ${namespace} within ${startTimeoutMs} ms`,
      { cause },
    );
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#watches.map((watch) => watch.close()));
  }

  #readiness(ready: ReadinessIndex, join: WorkerJoin): ListWatch<readonly ReadyWorker[]> {
    const { api, namespace, mode, watchSeconds } = this.#options;
    const resource =
      mode === "container"
        ? { path: `/api/v1/namespaces/${namespace}/pods`, read: readyInPod }
        : { path: `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`, read: readyInSlice };
    return new ListWatch<readonly ReadyWorker[]>({
      api,
      ...resource,
      labelSelector: discoverySelector,
      ...(watchSeconds === undefined ? {} : { watchSeconds }),
      report: (event) => this.#report(resource.path, event),
      listener: {
        replaced: (objects) => join.readinessChanged(ready.replace(objects)),
        put: (object, workers) => join.readinessChanged(ready.put(object, workers)),
        removed: (object) => join.readinessChanged(ready.remove(object)),
      },
    });
  }

  #metadata(join: WorkerJoin): ListWatch<NamedMetadata> {
    const { api, namespace, watchSeconds } = this.#options;
    const path = metadataCollection(namespace);
    const workers = new Map<string, WorkerMetadata>();
    return new ListWatch<NamedMetadata>({
      api,
      path,
      pageSize: metadataPerPage,
      parse: parseExactJson,
      read: namedMetadataOf,
      ...(watchSeconds === undefined ? {} : { watchSeconds }),
      report: (event) => this.#report(path, event),
      listener: {
        replaced(objects) {
          workers.clear();
          for (const { name, metadata } of objects.values()) workers.set(name, metadata);
          join.replace(workers);
          workers.clear();
        },
        put: (_key, { name, metadata }) => join.put(name, metadata),
        removed: (key) => join.remove(key.slice(namespace.length + 1)),
      },
    });
  }

  #report(path: string, event: ListWatchEvent): void {
    const { log } = this.#options;
    switch (event.kind) {
      case "listed":
        if (event.leftOut > 0)
          log.error({ path, leftOut: event.leftOut }, "more objects than are read; the rest is left out");
        log.debug({ path, items: event.items, tookMs: event.tookMs }, "Kubernetes objects listed");
        break;
      case "away":
        log.warn({ path, error: event.error }, "the Kubernetes API is away; what it last said is kept");
        break;
      case "back":
        log.info({ path }, "the Kubernetes API is back; records reconciled");
        break;
      case "absent":
        log.info({ path }, "the Kubernetes API does not know this kind");
        break;
      case "expired":
        log.debug({ path }, "the watch's version is gone; a new list follows");
        break;
      case "unreadable":
        log.warn({ path, key: event.key, error: event.error }, "a Kubernetes object cannot be read and is left out");
        break;
      default:
        event satisfies never;
    }
  }
}

interface NamedMetadata {
  readonly name: string;
  readonly metadata: WorkerMetadata;
}

function namedMetadataOf(object: KubernetesObject): NamedMetadata {
  return { name: object.metadata.name, metadata: workerMetadataOf(object) };
}
