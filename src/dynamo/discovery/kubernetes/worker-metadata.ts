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

export interface WorkerMetadata {
  /** Undefined: nobody's, so the worker is never there. */
  readonly podUid: string | undefined;
  /** Key → text, in the order in which they are told. Undefined: the object says nothing that can be read. */
  readonly records: ReadonlyMap<string, string> | undefined;
}

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

function recordsOf(worker: string, data: JsonObject): ReadonlyMap<string, string> {
  const instanceId = instanceIdOfPod(worker);
  const records = new Map<string, string>();
  for (const [section, bucket] of sections) {
    const members = data[section];
    // Server-side apply writes an empty map as null.
    if (!isObject(members)) continue;
    for (const [path, member] of Object.entries(members)) {
      if (records.size >= maxRecordsOfWorker) return records;
      const text = encodeExactJson(section === "event_channels" ? withScope(member) : member);
      records.set(keyIn(bucket, path, worker, instanceId, text), text);
    }
  }
  return records;
}

/** The record's own key; where it has none, or is another worker's, one that it does not name itself by, so that it is said to be malformed. */
function keyIn(bucket: Bucket, path: string, worker: string, instanceId: bigint, text: string): string {
  const parsed = recordOfText(text);
  if (parsed.kind === "malformed") return `${bucket}/${path}`;
  const { record } = parsed;
  const isOwn = "instanceId" in record ? record.instanceId === instanceId : true;
  return isOwn && buckets[record.type] === bucket ? keyOf(record) : `${bucket}/${path} of ${worker}`;
}

/** Channels from before Dynamo 1.4 name a namespace and a component, which is empty where there is none. */
function withScope(channel: unknown): unknown {
  if (!isObject(channel) || channel["scope"] !== undefined) return channel;
  const { namespace, component } = channel;
  if (typeof namespace !== "string" || typeof component !== "string") return channel;
  const scope = component === "" ? { kind: "namespace", name: namespace } : { kind: "component", namespace, component };
  return { ...channel, scope };
}
