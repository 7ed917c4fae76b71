/** Dynamo workers as objects of a namespace, and what a discovery says of them. */
import { createKubernetesDiscovery } from "../../src/dynamo/discovery/kubernetes/kubernetes-discovery.ts";
import { metadataOf } from "../../src/dynamo/discovery/kubernetes/kubernetes-registration.ts";
import { type EncodedRecord, encodeModelRecord, encodeRecord } from "../../src/dynamo/encode-record.ts";
import { instanceIdOfPod } from "../../src/dynamo/instance-id.ts";
import type { DynamoDiscovery, DynamoRecord } from "../../src/dynamo/records.ts";
import type { KubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { cardOf } from "../dynamo-peer/card.ts";
import { eventually } from "../stack.ts";
import type { Objects } from "./objects.ts";

/** What a worker of that name registers. Dynamo's own take publisher ids of at most 53 bits in Kubernetes. */
export function recordsOf(
  worker: string,
  address = "10.77.0.1:9000",
  publisherId = instanceIdOfPod(worker) ^ 1n,
): readonly EncodedRecord[] {
  const instanceId = instanceIdOfPod(worker);
  const id = { namespace: "ns", component: "backend", endpoint: "generate", instanceId };
  const scope = { namespace: "ns", component: "backend", endpoint: "generate" };
  const endpoint = (name: string) =>
    ({
      ...id,
      endpoint: name,
      type: "Endpoint",
      codec: "msgpack",
      transport: { kind: "tcp", address, path: `${instanceId.toString(16)}/ns/backend/${name}` },
    }) as const;
  const topic = "kv-events";
  const recovery = endpoint(`worker_kv_query_source_${publisherId.toString(16)}`);
  return [
    encodeRecord({
      type: "EventChannel",
      scope,
      topic,
      publisherId,
      transport: { kind: "zmq", endpoint: "tcp://h:1" },
    }),
    encodeRecord({ type: "EventSource", scope, topic, publisherId, workerId: instanceId, dpRank: 0, recovery }),
    encodeModelRecord({ ...id, modelSuffix: undefined }, cardOf({ role: "aggregated" })),
    encodeRecord(endpoint("generate")),
  ];
}

export function dataOf(...args: Parameters<typeof recordsOf>): unknown {
  return metadataOf(new Map(recordsOf(...args).map(({ key, text }) => [key, text])));
}

/** Its pod, ready in a slice of its own, and its metadata. The pod's uid. */
export async function startWorker(objects: Objects, worker: string, address?: string): Promise<string> {
  const uid = await objects.createPod(worker);
  await objects.setPod(worker, { ip: "10.77.0.1", ready: true });
  await objects.putSlice(worker, [{ pod: worker, uid, ready: true }]);
  await objects.putMetadata(worker, uid, dataOf(worker, address));
  return uid;
}

export interface Watching {
  readonly discovery: DynamoDiscovery;
  /** What stands. */
  readonly records: ReadonlyMap<string, DynamoRecord>;
  /** Every change, in order. */
  readonly told: readonly string[];
  /** Names of the workers whose generate endpoint is there, of those that it is told about. */
  readonly workers: (...names: readonly string[]) => readonly string[];
  /** Resolves when exactly these of the names are there. */
  readonly sees: (names: readonly string[], ...absent: readonly string[]) => Promise<void>;
  close(): Promise<void>;
}

export async function watchWorkers(
  api: Pick<KubernetesApi, "request" | "watch">,
  namespace: string,
  options: { readonly mode?: "pod" | "container"; readonly watchSeconds?: number; readonly awaitStart?: boolean } = {},
): Promise<Watching> {
  const { mode = "pod", watchSeconds, awaitStart = true } = options;
  const records = new Map<string, DynamoRecord>();
  const told: string[] = [];
  const discovery = createKubernetesDiscovery({
    api,
    namespace,
    mode,
    log: silentLogger,
    ...(watchSeconds === undefined ? {} : { watchSeconds }),
  });
  const started = discovery.start({
    put(key, record) {
      records.set(key, record);
      told.push(`+${key}`);
    },
    removed(key) {
      records.delete(key);
      told.push(`-${key}`);
    },
  });
  if (awaitStart) await started;
  else started.catch(() => {});
  const workers = (...names: readonly string[]): readonly string[] =>
    names.filter((name) => records.has(`v1/instances/ns/backend/generate/${instanceIdOfPod(name).toString(16)}`));
  return {
    discovery,
    records,
    told,
    workers,
    async sees(names, ...absent) {
      const wanted = names.join(" ");
      const isSo = (): boolean => workers(...names, ...absent).join(" ") === wanted;
      await eventually(`the workers are [${wanted}]`, async () => await Promise.resolve(isSo()), 30_000);
    },
    close: () => discovery.close(),
  };
}
