/**
 * The four kinds of records that Dynamo's components write into discovery (Dynamo 1.6.1), as every backend hands them on. Ids are u64:
 * bigint here, decimal in headers, lower-case hex without padding in keys.
 */
import type { ModelCard } from "./model-card/model-card.ts";

export type EndpointTransport =
  | {
      readonly kind: "tcp";
      /** "host:port". */
      readonly address: string;
      /** Everything after the first "/" of the advertised string, as it stands: the request plane's path. */
      readonly path: string;
    }
  | { readonly kind: "nats"; readonly subject: string }
  | { readonly kind: "http"; readonly url: string };

/** Where one endpoint of one worker process answers on the request plane. */
export interface InstanceRecord {
  readonly type: "Endpoint";
  readonly namespace: string;
  readonly component: string;
  readonly endpoint: string;
  readonly instanceId: bigint;
  readonly transport: EndpointTransport;
  /** What the worker prefers; json is always understood. */
  readonly codec: "json" | "msgpack";
}

export interface ModelRecord {
  readonly type: "Model";
  readonly namespace: string;
  readonly component: string;
  readonly endpoint: string;
  readonly instanceId: bigint;
  /** Slug of a LoRA adapter; undefined for the base model. */
  readonly modelSuffix: string | undefined;
  readonly card: ModelCard;
}

/** What a topic is published for; a query is exact: an endpoint's publishers are not the component's. */
export interface EventScope {
  readonly namespace: string;
  readonly component: string | undefined;
  readonly endpoint: string | undefined;
}

export type EventTransport =
  | { readonly kind: "zmq"; readonly endpoint: string }
  | { readonly kind: "nats"; readonly subjectPrefix: string }
  | { readonly kind: "zmq-broker"; readonly xsub: readonly string[]; readonly xpub: readonly string[] };

export interface EventChannelRecord {
  readonly type: "EventChannel";
  readonly scope: EventScope;
  /** "kv-events", "kv_metrics", "active_sequences_events", "prefill_events". */
  readonly topic: string;
  readonly publisherId: bigint;
  readonly transport: EventTransport;
}

/** Which worker and rank a publisher of KV events speaks for, and where its past can be asked for. */
export interface EventSourceRecord {
  readonly type: "EventSource";
  readonly scope: EventScope;
  readonly topic: string;
  readonly publisherId: bigint;
  readonly workerId: bigint;
  readonly dpRank: number;
  /** Undefined where the worker keeps no local indexer. */
  readonly recovery: InstanceRecord | undefined;
}

export type DynamoRecord = InstanceRecord | ModelRecord | EventChannelRecord | EventSourceRecord;

/** Sees every change of what is registered. A put of a known key replaces its record. Never called before `start` and after `close`. */
export interface RecordListener {
  /** `key` is unique over all buckets, e.g. "v1/instances/ns/backend/generate/1a". */
  put(key: string, record: DynamoRecord): void;
  removed(key: string, record: DynamoRecord): void;
  /** What stands under the key cannot be read (a record before it stays), or it no longer does: `reason` is undefined then. */
  unreadable?(key: string, reason: string | undefined): void;
}

/**
 * One discovery backend. A record that cannot be read is logged, counted and left out; a backend that is away keeps what it last said
 * (`isStale` is then true) and reconciles when it is back: what is still there is not told again, what has gone is removed.
 */
export interface DynamoDiscovery {
  /** Resolves when the first complete list has been told; rejects with an error that names the backend when it cannot be reached in time. */
  start(listener: RecordListener): Promise<void>;
  readonly isStale: boolean;
  /** Texts that could not be read as records, ever. */
  readonly malformedRecords: number;
  close(): Promise<void>;
}
