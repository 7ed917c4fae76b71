/**
 * Text of a discovery record → record. Whoever can write into discovery can write anything: what is malformed becomes a value that says what
 * is wrong, unknown fields are passed over, and a record must name itself by the key it stands under.
 */
import { maxDpRank, parseModelCard } from "./model-card/parse-card.ts";
import { FieldFault, Fields, parseExactJson } from "./record-json.ts";
import { bucketOf, keyOf } from "./record-keys.ts";
import type {
  DynamoRecord,
  EndpointTransport,
  EventChannelRecord,
  EventScope,
  EventSourceRecord,
  EventTransport,
  InstanceRecord,
  ModelRecord,
} from "./records.ts";

export type ParsedRecord =
  | { readonly kind: "record"; readonly record: DynamoRecord }
  | { readonly kind: "malformed"; readonly reason: string };

/** Cards with long chat templates inside are tens of kilobytes. */
export const maxRecordBytes = 1024 * 1024;

/** Values of a record's JSON, by the marks between and around them. A card has a few hundred; reading one takes up to a microsecond. */
const maxMarks = 20_000;

export function parseRecord(key: string, text: string): ParsedRecord {
  if (bucketOf(key) === undefined) return malformed("its key is in no bucket of records");
  const parsed = recordOfText(text);
  if (parsed.kind === "malformed") return parsed;
  const own = keyOf(parsed.record);
  return own === key ? parsed : malformed(`it names itself ${own}`);
}

/** Whatever key it stands under. */
export function recordOfText(text: string): ParsedRecord {
  if (text.length > maxRecordBytes) return malformed(`longer than ${maxRecordBytes} characters`);
  try {
    if (isOverRich(text)) return malformed(`more than ${maxMarks} values`);
    return { kind: "record", record: readRecord(new Fields(parseExactJson(text), "")) };
  } catch (error) {
    if (error instanceof FieldFault) return malformed(error.message);
    return malformed(`not JSON: ${messageOf(error)}`);
  }
}

function isOverRich(text: string): boolean {
  let marks = 0;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    // , [ {
    if ((code === 0x2c || code === 0x5b || code === 0x7b) && ++marks > maxMarks) return true;
  }
  return false;
}

/** Of a SyntaxError, cut: its message quotes the text. */
function messageOf(error: unknown): string {
  const message = typeof error === "object" && error !== null && "message" in error ? String(error.message) : "";
  return message.slice(0, 200);
}

function malformed(reason: string): ParsedRecord {
  return { kind: "malformed", reason };
}

function readRecord(fields: Fields): DynamoRecord {
  const type = fields.string("type");
  switch (type) {
    case "Endpoint":
      return readInstance(fields);
    case "Model":
      return readModel(fields);
    case "EventChannel":
      return readEventChannel(fields);
    case "EventSource":
      return readEventSource(fields);
    default:
      throw new FieldFault("type", "Endpoint, Model, EventChannel or EventSource");
  }
}

function readInstance(fields: Fields): InstanceRecord {
  return {
    type: "Endpoint",
    namespace: fields.segment("namespace"),
    component: fields.segment("component"),
    endpoint: fields.segment("endpoint"),
    instanceId: fields.u64("instance_id"),
    transport: readTransport(fields.fields("transport")),
    codec: fields.optionalString("request_plane_codec") === "msgpack" ? "msgpack" : "json",
  };
}

function readTransport(fields: Fields): EndpointTransport {
  if (!fields.isAbsent("tcp")) {
    const advertised = fields.name("tcp");
    const slash = advertised.indexOf("/");
    const address = slash < 0 ? advertised : advertised.slice(0, slash);
    if (!isAddress(address)) throw new FieldFault(fields.at("tcp"), "host:port/path");
    return { kind: "tcp", address, path: slash < 0 ? "" : advertised.slice(slash + 1) };
  }
  if (!fields.isAbsent("nats_tcp")) return { kind: "nats", subject: fields.name("nats_tcp") };
  if (!fields.isAbsent("http")) return { kind: "http", url: fields.name("http") };
  throw new FieldFault(fields.path, "one of tcp, nats_tcp, http");
}

/** What a socket can be opened to: a name or an IP literal, and a port. */
function isAddress(address: string): boolean {
  const [, port] = /^(?:\[[0-9A-Za-z:.%_-]{2,64}\]|[0-9A-Za-z._-]{1,255}):([0-9]{1,5})$/.exec(address) ?? [];
  return port !== undefined && Number(port) > 0 && Number(port) <= 65_535;
}

function readModel(fields: Fields): ModelRecord {
  return {
    type: "Model",
    namespace: fields.segment("namespace"),
    component: fields.segment("component"),
    endpoint: fields.segment("endpoint"),
    instanceId: fields.u64("instance_id"),
    modelSuffix: fields.isAbsent("model_suffix") ? undefined : fields.name("model_suffix"),
    card: parseModelCard(fields.fields("card_json")),
  };
}

function readEventChannel(fields: Fields): EventChannelRecord {
  return {
    type: "EventChannel",
    scope: readScope(fields.fields("scope")),
    topic: fields.name("topic"),
    publisherId: fields.u64("instance_id"),
    transport: readEventTransport(fields.fields("transport")),
  };
}

function readScope(fields: Fields): EventScope {
  const kind = fields.string("kind");
  switch (kind) {
    case "namespace":
      return { namespace: fields.segment("name"), component: undefined, endpoint: undefined };
    case "component":
      return { namespace: fields.segment("namespace"), component: fields.segment("component"), endpoint: undefined };
    case "endpoint": {
      const endpoint = fields.fields("endpoint");
      return {
        namespace: endpoint.segment("namespace"),
        component: endpoint.segment("component"),
        endpoint: endpoint.segment("name"),
      };
    }
    default:
      throw new FieldFault(fields.at("kind"), "namespace, component or endpoint");
  }
}

function readEventTransport(fields: Fields): EventTransport {
  const kind = fields.string("kind");
  const config = fields.fields("config");
  switch (kind) {
    case "Zmq":
      return { kind: "zmq", endpoint: zmqEndpoint(config.name("endpoint"), config.at("endpoint")) };
    case "Nats":
      return { kind: "nats", subjectPrefix: config.name("subject_prefix") };
    case "ZmqBroker":
      return {
        kind: "zmq-broker",
        xsub: zmqEndpoints(config, "xsub_endpoints"),
        xpub: zmqEndpoints(config, "xpub_endpoints"),
      };
    default:
      throw new FieldFault(fields.at("kind"), "Zmq, Nats or ZmqBroker");
  }
}

const maxBrokers = 64;

function zmqEndpoints(config: Fields, key: string): readonly string[] {
  const endpoints = config.strings(key);
  if (endpoints.length > maxBrokers) throw new FieldFault(config.at(key), `at most ${maxBrokers} endpoints`);
  return endpoints.map((endpoint, index) => zmqEndpoint(endpoint, `${config.at(key)}[${index}]`));
}

/** Not the library's other transports: none of them leads to another process's publisher. */
function zmqEndpoint(endpoint: string, path: string): string {
  if (!/^(tcp|ipc):\/\/[\x21-\x7e]{1,300}$/.test(endpoint)) throw new FieldFault(path, "tcp://host:port");
  return endpoint;
}

function readEventSource(fields: Fields): EventSourceRecord {
  const metadata = fields.fields("metadata");
  const worker = metadata.fields("worker");
  const publisherId = fields.u64("publisher_id");
  if (!metadata.isAbsent("publisher_id") && metadata.u64("publisher_id") !== publisherId) {
    throw new FieldFault("metadata.publisher_id", "the record's publisher_id");
  }
  const recovery = metadata.optionalFields("recovery_target");
  return {
    type: "EventSource",
    scope: readScope(fields.fields("scope")),
    topic: fields.name("topic"),
    publisherId,
    workerId: worker.u64("worker_id"),
    dpRank: worker.integer("dp_rank", maxDpRank),
    recovery: recovery === undefined ? undefined : readInstance(recovery),
  };
}
