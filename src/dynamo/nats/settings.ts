/** Where NATS is and how it is entered, from an environment that is handed in. Names and defaults are Dynamo 1.6's. */
import { isTruthy, splitList } from "../variables.ts";

export interface NatsSettings {
  readonly servers: readonly string[];
  readonly user: string | undefined;
  readonly password: string | undefined;
  readonly token: string | undefined;
  /** Seed of an nkey. */
  readonly nkey: string | undefined;
  readonly credentialsFile: string | undefined;
  readonly caFile: string | undefined;
  readonly certFile: string | undefined;
  readonly keyFile: string | undefined;
  readonly insecure: boolean;
  /** From a request to its acknowledgement. */
  readonly requestTimeoutMs: number;
}

/** The library's, in Dynamo. */
const defaultRequestSeconds = 10;

/** Throws an error that names the variables. */
export function natsSettings(env: Readonly<Record<string, string | undefined>>): NatsSettings {
  const servers = splitList(env["NATS_SERVER"] ?? "nats://localhost:4222", ",");
  const certFile = env["NATS_TLS_CLIENT_CERT_PATH"];
  const keyFile = env["NATS_TLS_CLIENT_KEY_PATH"];
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw new Error("NATS_TLS_CLIENT_CERT_PATH and NATS_TLS_CLIENT_KEY_PATH must be set together");
  }
  const requestSeconds = Number(env["DYN_NATS_REQUEST_TIMEOUT_SECS"]);
  return {
    servers,
    user: env["NATS_AUTH_USERNAME"],
    password: env["NATS_AUTH_PASSWORD"],
    token: env["NATS_AUTH_TOKEN"],
    nkey: env["NATS_AUTH_NKEY"],
    credentialsFile: env["NATS_AUTH_CREDENTIALS_FILE"],
    caFile: env["NATS_TLS_CA_CERT_PATH"],
    certFile,
    keyFile,
    insecure: isTruthy(env["NATS_TLS_INSECURE"]),
    // As there, what is no whole number above 0 counts as unset.
    requestTimeoutMs: 1000 * (isPositiveInteger(requestSeconds) ? requestSeconds : defaultRequestSeconds),
  };
}

function isPositiveInteger(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0;
}
