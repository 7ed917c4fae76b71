/** What DYN_EVENT_PLANE and its companions say, read from an environment that is handed in. Names and defaults are Dynamo 1.6's. */
import { type NatsSettings, natsSettings } from "../nats/settings.ts";
import { isTruthy, splitList } from "../variables.ts";

export interface ZmqSettings {
  readonly kind: "zmq";
  readonly ioThreads: number;
  /** What direct publishers tell others; undefined for the machine's own address. */
  readonly host: string | undefined;
  readonly broker: BrokerSettings | undefined;
}

/** Where brokers are: named here, or (`endpoints` undefined) found in discovery as component zmq_broker. */
export interface BrokerSettings {
  readonly endpoints: { readonly xsub: readonly string[]; readonly xpub: readonly string[] } | undefined;
}

export type EventPlaneSettings = ({ readonly kind: "nats" } & NatsSettings) | ZmqSettings;

export type Environment = Readonly<Record<string, string | undefined>>;

const defaultIoThreads = 4;

/** Throws an error that names the variable. */
export function eventPlaneSettings(env: Environment): EventPlaneSettings {
  const kind = (env["DYN_EVENT_PLANE"] ?? "").trim().toLowerCase();
  if (kind === "nats") return { kind: "nats", ...natsSettings(env) };
  if (kind === "zmq" || kind === "") return zmqSettings(env);
  throw new Error(`DYN_EVENT_PLANE=${env["DYN_EVENT_PLANE"]} is neither zmq nor nats`);
}

function zmqSettings(env: Environment): ZmqSettings {
  const threads = env["DYN_ZMQ_IO_THREADS"];
  const ioThreads = threads === undefined ? defaultIoThreads : Number(threads);
  if (!Number.isInteger(ioThreads) || ioThreads < 1 || ioThreads > 1024)
    throw new Error(`DYN_ZMQ_IO_THREADS=${threads} is no count of threads`);
  const url = env["DYN_ZMQ_BROKER_URL"];
  const isBrokerEnabled = url !== undefined || isTruthy(env["DYN_ZMQ_BROKER_ENABLED"]);
  const broker = isBrokerEnabled ? { endpoints: url === undefined ? undefined : parseBrokerUrl(url) } : undefined;
  return { kind: "zmq", ioThreads, host: env["DYN_EVENT_PLANE_HOST"], broker };
}

/** "xsub=tcp://a:1;tcp://b:1 , xpub=tcp://a:2;tcp://b:2". */
function parseBrokerUrl(url: string): { readonly xsub: readonly string[]; readonly xpub: readonly string[] } {
  let xsub: readonly string[] = [];
  let xpub: readonly string[] = [];
  for (const part of splitList(url, ",")) {
    if (part.startsWith("xsub=")) xsub = splitList(part.slice(5), ";");
    else if (part.startsWith("xpub=")) xpub = splitList(part.slice(5), ";");
    else throw new Error(`DYN_ZMQ_BROKER_URL has ${part} where xsub=… or xpub=… should be`);
  }
  if (xsub.length === 0 || xpub.length === 0) throw new Error("DYN_ZMQ_BROKER_URL must name xsub= and xpub= endpoints");
  return { xsub, xpub };
}
