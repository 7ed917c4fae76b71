/** Settings of the request plane from an environment that is handed in (DYN_TCP_*); defaults are Dynamo's unless said. */
import { readFile } from "node:fs/promises";
import type { ConnectionOptions, TlsOptions } from "node:tls";
import { type NatsSettings, natsSettings } from "../nats/settings.ts";

export interface RequestPlaneSettings {
  /** What workers are told to dial; undefined for the machine's own address. */
  readonly host: string | undefined;
  /** 0 for any free one. */
  readonly port: number;
  readonly maxMessageBytes: number;
  readonly maxItemBytes: number;
  readonly connectTimeoutMs: number;
  readonly ackTimeoutMs: number;
  readonly answerTimeoutMs: number;
  readonly connectionsPerWorker: number;
  readonly serverTls: TlsOptions | undefined;
  readonly clientTls: ConnectionOptions | undefined;
  /** For workers that are reached over NATS. */
  readonly nats: NatsSettings;
}

export const requestPlaneDefaults: RequestPlaneSettings = {
  host: undefined,
  port: 0,
  maxMessageBytes: 32 * 1024 * 1024,
  maxItemBytes: 64 * 1024 * 1024,
  connectTimeoutMs: 5000,
  ackTimeoutMs: 5000,
  // Dynamo's client waits for ever here; a worker that cannot read a body takes the request and never answers.
  answerTimeoutMs: 60_000,
  connectionsPerWorker: 4,
  serverTls: undefined,
  clientTls: undefined,
  nats: natsSettings({}),
};

/** Of the server that others ask (DYN_TCP_RPC_*). */
export interface EndpointServerSettings {
  /** Where requests come over NATS; undefined: over TCP. */
  readonly nats: NatsSettings | undefined;
  /** What others are told to dial; undefined for the machine's own address. */
  readonly host: string | undefined;
  /** 0 for any free one. */
  readonly port: number;
  /** Of one request. */
  readonly maxMessageBytes: number;
  readonly connectTimeoutMs: number;
  readonly serverTls: TlsOptions | undefined;
  readonly clientTls: ConnectionOptions | undefined;
}

export const endpointServerDefaults: EndpointServerSettings = {
  nats: undefined,
  host: undefined,
  port: 0,
  // Half of Dynamo's own: a decision of 262,144 blocks in JSON is 11 MB.
  maxMessageBytes: 16 * 1024 * 1024,
  connectTimeoutMs: 5000,
  serverTls: undefined,
  clientTls: undefined,
};

type Environment = Readonly<Record<string, string | undefined>>;

/** Reads the certificate files. Rejects with an error that names the variable at fault. */
export async function requestPlaneSettings(env: Environment): Promise<RequestPlaneSettings> {
  const defaults = requestPlaneDefaults;
  const ackSeconds = numberOf(env, "DYN_TCP_REQUEST_TIMEOUT", 3600);
  return {
    ...defaults,
    host: env["DYN_TCP_RESPONSE_STREAM_HOST"],
    port: numberOf(env, "DYN_TCP_RESPONSE_STREAM_PORT", 65_535) ?? defaults.port,
    maxMessageBytes: numberOf(env, "DYN_TCP_MAX_MESSAGE_SIZE", 0xffff_ffff) ?? defaults.maxMessageBytes,
    ackTimeoutMs: ackSeconds === undefined || ackSeconds === 0 ? defaults.ackTimeoutMs : ackSeconds * 1000,
    serverTls: await serverTls(env),
    clientTls: await clientTls(env),
    nats: natsSettings(env),
  };
}

/** Reads the certificate files. Rejects with an error that names the variable at fault. */
export async function endpointServerSettings(env: Environment): Promise<EndpointServerSettings> {
  const defaults = endpointServerDefaults;
  const most = numberOf(env, "DYN_TCP_MAX_MESSAGE_SIZE", 0xffff_ffff) ?? defaults.maxMessageBytes;
  return {
    ...defaults,
    nats: env["DYN_REQUEST_PLANE"] === "nats" ? natsSettings(env) : undefined,
    host: env["DYN_TCP_RPC_HOST"],
    port: numberOf(env, "DYN_TCP_RPC_PORT", 65_535) ?? defaults.port,
    maxMessageBytes: Math.min(most, defaults.maxMessageBytes),
    serverTls: await serverTls(env),
    clientTls: await clientTls(env),
  };
}

async function serverTls(env: Environment): Promise<TlsOptions | undefined> {
  const cert = await fileOf(env, "DYN_TCP_TLS_CERT_PATH");
  const key = await fileOf(env, "DYN_TCP_TLS_KEY_PATH");
  const ca = await fileOf(env, "DYN_TCP_TLS_CLIENT_CA_CERT_PATH");
  if (cert === undefined && key === undefined && ca === undefined) return undefined;
  if (cert === undefined || key === undefined)
    throw new Error("DYN_TCP_TLS_CERT_PATH and DYN_TCP_TLS_KEY_PATH must be set together");
  return { cert, key, ...(ca === undefined ? {} : { ca, requestCert: true, rejectUnauthorized: true }) };
}

async function clientTls(env: Environment): Promise<ConnectionOptions | undefined> {
  const ca = await fileOf(env, "DYN_TCP_TLS_CA_CERT_PATH");
  const cert = await fileOf(env, "DYN_TCP_TLS_CLIENT_CERT_PATH");
  const key = await fileOf(env, "DYN_TCP_TLS_CLIENT_KEY_PATH");
  const isInsecure = ["1", "true", "on", "yes"].includes((env["DYN_TCP_TLS_INSECURE"] ?? "").trim().toLowerCase());
  if (ca === undefined && cert === undefined && key === undefined && !isInsecure) return undefined;
  if ((cert === undefined) !== (key === undefined)) {
    throw new Error("DYN_TCP_TLS_CLIENT_CERT_PATH and DYN_TCP_TLS_CLIENT_KEY_PATH must be set together");
  }
  if (ca === undefined && !isInsecure)
    throw new Error("DYN_TCP_TLS_CA_CERT_PATH must be set, or DYN_TCP_TLS_INSECURE=true");
  const name = env["DYN_TCP_TLS_SERVER_NAME"];
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
    ...(name === undefined ? {} : { servername: name }),
    ...(isInsecure ? { rejectUnauthorized: false } : {}),
  };
}

async function fileOf(env: Environment, variable: string): Promise<Buffer | undefined> {
  const path = env[variable];
  if (path === undefined || path === "") return undefined;
  try {
    return await readFile(path);
  } catch (error) {
    throw new Error(`${variable}=${path} cannot be read`, { cause: error });
  }
}

function numberOf(env: Environment, variable: string, most: number): number | undefined {
  const text = env[variable];
  if (text === undefined || text.trim() === "") return undefined;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value > most)
    throw new Error(`${variable}=${text} is no whole number up to ${most}`);
  return value;
}
