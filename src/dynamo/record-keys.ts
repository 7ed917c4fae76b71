/**
 * Keys of discovery records: "<bucket>/<path>", ids in lower-case hex without padding. Names in the paths of events are percent-encoded,
 * those of endpoints and models stand as they are. The file backend encodes a path once more to make it a file name.
 * Dynamo 1.6.1: dynamo-runtime, src/discovery/mod.rs and src/storage/kv.rs.
 */
import type { DynamoRecord, EventScope } from "./records.ts";

export const buckets = {
  Endpoint: "v1/instances",
  Model: "v1/mdc",
  EventChannel: "v1/event_channels",
  EventSource: "v1/event_sources",
} as const satisfies Readonly<Record<DynamoRecord["type"], string>>;

export type Bucket = (typeof buckets)[keyof typeof buckets];

export const bucketNames: readonly Bucket[] = Object.values(buckets);

/** What every key of every bucket begins with. */
export const keyPrefix = "v1/";

export function keyOf(record: DynamoRecord): string {
  const bucket = buckets[record.type];
  switch (record.type) {
    case "Endpoint":
      return `${bucket}/${endpointPath(record)}`;
    case "Model": {
      const path = endpointPath(record);
      return record.modelSuffix === undefined ? `${bucket}/${path}` : `${bucket}/${path}/${record.modelSuffix}`;
    }
    case "EventChannel":
    case "EventSource":
      return `${bucket}/${eventPath(record.scope, record.topic, record.publisherId)}`;
    default: {
      const never: never = record;
      return never;
    }
  }
}

/** What an instance and its model card have in common. */
export function endpointPath(id: {
  readonly namespace: string;
  readonly component: string;
  readonly endpoint: string;
  readonly instanceId: bigint;
}): string {
  return `${id.namespace}/${id.component}/${id.endpoint}/${id.instanceId.toString(16)}`;
}

function eventPath(scope: EventScope, topic: string, publisherId: bigint): string {
  return `${scopePath(scope)}/topic/${encodeSegment(topic)}/${publisherId.toString(16)}`;
}

/** One string for one scope: scopes are equal when these are. */
export function scopePath({ namespace, component, endpoint }: EventScope): string {
  let path = `namespace/${encodeSegment(namespace)}`;
  if (component !== undefined) path += `/component/${encodeSegment(component)}`;
  if (endpoint !== undefined) path += `/endpoint/${encodeSegment(endpoint)}`;
  return path;
}

/** The bucket of a key, or undefined when it is in none of them. */
export function bucketOf(key: string): Bucket | undefined {
  return bucketNames.find((bucket) => key.startsWith(bucket) && key.charCodeAt(bucket.length) === slash);
}

const slash = 0x2f;

/** Keeps [A-Za-z0-9-_]. */
export function encodeSegment(name: string): string {
  return percentEncode(name, true);
}

/** The name under which the file backend keeps the path of a key; keeps [A-Za-z0-9] only. */
export function fileNameOf(path: string): string {
  return percentEncode(path, false);
}

/** Undefined for a name that cannot be one of ours. */
export function pathOfFileName(name: string): string | undefined {
  try {
    const path = decodeURIComponent(name);
    return fileNameOf(path) === name ? path : undefined;
  } catch {
    return undefined;
  }
}

function percentEncode(text: string, keepDashes: boolean): string {
  let encoded = "";
  for (const byte of Buffer.from(text, "utf8")) {
    if (isAlphanumeric(byte) || (keepDashes && (byte === 0x2d || byte === 0x5f))) encoded += String.fromCharCode(byte);
    else encoded += `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return encoded;
}

function isAlphanumeric(byte: number): boolean {
  return (byte >= 0x30 && byte <= 0x39) || (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a);
}
