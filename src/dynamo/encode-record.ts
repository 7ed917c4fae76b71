/** Record → the key and the text under which Dynamo's components find it. A model is encoded from its card's JSON: a parsed card is not whole. */
import { encodeExactJson, type JsonObject } from "./record-json.ts";
import { buckets, endpointPath, keyOf } from "./record-keys.ts";
import type {
  DynamoRecord,
  EndpointTransport,
  EventScope,
  EventTransport,
  InstanceRecord,
  ModelRecord,
} from "./records.ts";

export interface EncodedRecord {
  readonly key: string;
  readonly text: string;
}

export function encodeRecord(record: Exclude<DynamoRecord, ModelRecord>): EncodedRecord {
  return { key: keyOf(record), text: encodeExactJson(jsonOf(record)) };
}

/** `modelSuffix` is the slug of a LoRA adapter. */
export function encodeModelRecord(id: Omit<ModelRecord, "type" | "card">, cardJson: JsonObject): EncodedRecord {
  const path = endpointPath(id);
  const { namespace, component, endpoint } = id;
  return {
    key: `${buckets.Model}/${id.modelSuffix === undefined ? path : `${path}/${id.modelSuffix}`}`,
    text: encodeExactJson({
      type: "Model",
      namespace,
      component,
      endpoint,
      instance_id: id.instanceId,
      card_json: cardJson,
      ...(id.modelSuffix === undefined ? {} : { model_suffix: id.modelSuffix }),
    }),
  };
}

function jsonOf(record: Exclude<DynamoRecord, ModelRecord>): JsonObject {
  switch (record.type) {
    case "Endpoint":
      return { type: "Endpoint", ...instanceJson(record) };
    case "EventChannel":
      return {
        type: "EventChannel",
        scope: scopeJson(record.scope),
        topic: record.topic,
        instance_id: record.publisherId,
        transport: eventTransportJson(record.transport),
      };
    case "EventSource": {
      const { namespace, component, endpoint } = record.scope;
      return {
        type: "EventSource",
        scope: scopeJson(record.scope),
        topic: record.topic,
        publisher_id: record.publisherId,
        metadata: {
          kv_state_endpoint: { namespace, component: component ?? "", name: endpoint ?? "" },
          worker: { worker_id: record.workerId, dp_rank: record.dpRank },
          publisher_id: record.publisherId,
          ...(record.recovery === undefined ? {} : { recovery_target: instanceJson(record.recovery) }),
        },
      };
    }
    default: {
      const never: never = record;
      return never;
    }
  }
}

function instanceJson(record: InstanceRecord): JsonObject {
  return {
    component: record.component,
    endpoint: record.endpoint,
    namespace: record.namespace,
    instance_id: record.instanceId,
    transport: transportJson(record.transport),
    // Absent means json to every release.
    ...(record.codec === "json" ? {} : { request_plane_codec: record.codec }),
  };
}

function transportJson(transport: EndpointTransport): JsonObject {
  switch (transport.kind) {
    case "tcp":
      return { tcp: `${transport.address}/${transport.path}` };
    case "nats":
      return { nats_tcp: transport.subject };
    case "http":
      return { http: transport.url };
    default: {
      const never: never = transport;
      return never;
    }
  }
}

function scopeJson({ namespace, component, endpoint }: EventScope): JsonObject {
  if (component === undefined) return { kind: "namespace", name: namespace };
  if (endpoint === undefined) return { kind: "component", namespace, component };
  return { kind: "endpoint", endpoint: { namespace, component, name: endpoint } };
}

function eventTransportJson(transport: EventTransport): JsonObject {
  switch (transport.kind) {
    case "zmq":
      return { kind: "Zmq", config: { endpoint: transport.endpoint } };
    case "nats":
      return { kind: "Nats", config: { subject_prefix: transport.subjectPrefix } };
    case "zmq-broker":
      return { kind: "ZmqBroker", config: { xsub_endpoints: transport.xsub, xpub_endpoints: transport.xpub } };
    default: {
      const never: never = transport;
      return never;
    }
  }
}
