/**
 * What a DynamoWorkerMetadata object says: the records of one worker, each under the key it has in every other backend, and whose pod the worker
 * is. A worker speaks for itself only: an endpoint or card with another id is not taken (Dynamo 1.6.1: dynamo-runtime, src/discovery/kube/crd.rs,
 * src/discovery/metadata.rs).
 */
import type { KubernetesObject } from "../../../net/kubernetes/list-watch.ts";
import { instanceIdOfPod } from "../../instance-id.ts";
import { recordOfText } from "../../parse-record.ts";
import { encodeExactJson, isObject, type JsonObject } from "../../record-json.ts";
import { type Bucket, buckets, keyOf } from "../../record-keys.ts";
import type { DynamoRecord } from "../../records.ts";

export interface WorkerMetadata {
  /** Undefined: nobody's, so the worker is never there. */
  readonly podUid: string | undefined;
  /** By key, in the order in which they are told. Undefined: the object says nothing that can be read. */
  readonly records: WorkerRecords | undefined;
}

export interface WorkerRecord {
  readonly text: string;
  /** Undefined: it cannot be read, or is not this worker's to register. */
  readonly record: DynamoRecord | undefined;
}

export type WorkerRecords = ReadonlyMap<string, WorkerRecord>;

export function metadataCollection(namespace: string): string {
  return `/apis/nvidia.com/v1alpha1/namespaces/${namespace}/dynamoworkermetadatas`;
}

/** Endpoints last: a worker is known by all else before it can be reached. */
export const sections = [
  ["event_sources", buckets.EventSource],
  ["event_channels", buckets.EventChannel],
  ["model_cards", buckets.Model],
  ["endpoints", buckets.Endpoint],
] as const satisfies readonly (readonly [string, Bucket])[];

/** A worker has a handful for each rank and each adapter. */
const maxRecordsOfWorker = 10_000;

export function workerMetadataOf(object: KubernetesObject): WorkerMetadata {
  const { name, ownerReferences = [] } = object.metadata;
  const podUid = ownerReferences.find(({ kind }) => kind === "Pod")?.uid;
  const { spec } = object as { readonly spec?: unknown };
  const data = isObject(spec) ? spec["data"] : undefined;
  return { podUid, records: isObject(data) ? recordsOf(name, data) : undefined };
}

function recordsOf(worker: string, data: JsonObject): WorkerRecords {
  const instanceId = instanceIdOfPod(worker);
  const records = new Map<string, WorkerRecord>();
  for (const [section, bucket] of sections) {
    const members = data[section];
    // Server-side apply writes an empty map as null.
    if (!isObject(members)) continue;
    for (const [path, member] of Object.entries(members)) {
      if (records.size >= maxRecordsOfWorker) return records;
      const text = encodeExactJson(section === "event_channels" ? withScope(member) : member);
      const parsed = recordOfText(text);
      if (parsed.kind === "malformed") records.set(`${bucket}/${path}`, { text, record: undefined });
      else if (isOf(bucket, instanceId, parsed.record))
        records.set(keyOf(parsed.record), { text, record: parsed.record });
      // A key that it does not name itself by, so that it is said to be malformed.
      else records.set(`${bucket}/${path} of ${worker}`, { text, record: undefined });
    }
  }
  return records;
}

function isOf(bucket: Bucket, instanceId: bigint, record: DynamoRecord): boolean {
  return buckets[record.type] === bucket && (!("instanceId" in record) || record.instanceId === instanceId);
}

/** Channels from before Dynamo 1.4 name a namespace and a component, which is empty where there is none. */
function withScope(channel: unknown): unknown {
  if (!isObject(channel) || channel["scope"] !== undefined) return channel;
  const { namespace, component } = channel;
  if (typeof namespace !== "string" || typeof component !== "string") return channel;
  const scope = component === "" ? { kind: "namespace", name: namespace } : { kind: "component", namespace, component };
  return { ...channel, scope };
}
