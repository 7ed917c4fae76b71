/** How the NATS library is told to connect: for ever again once it was connected, with the credentials and certificates of the settings. */
import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import {
  type ConnectionOptions,
  credsAuthenticator,
  type NodeConnectionOptions,
  nkeyAuthenticator,
} from "@nats-io/transport-node";
import type { NatsSettings } from "./settings.ts";

export const retryMs = 1000;
/** How long a first connection is waited for before its user goes on without. */
export const firstConnectMs = 5000;

/** Rejects where the credentials cannot be read. */
export async function connectionOptions(settings: NatsSettings): Promise<NodeConnectionOptions> {
  const { user, password, token, nkey, credentialsFile, caFile, certFile, keyFile } = settings;
  const options: ConnectionOptions = {
    servers: [...settings.servers],
    name: "signalbox",
    maxReconnectAttempts: -1,
    reconnectTimeWait: retryMs,
    timeout: firstConnectMs,
    ignoreAuthErrorAbort: true,
  };
  if (user !== undefined) Object.assign(options, { user, pass: password });
  else if (token !== undefined) options.token = token;
  else if (nkey !== undefined) options.authenticator = nkeyAuthenticator(Buffer.from(nkey));
  else if (credentialsFile !== undefined) options.authenticator = credsAuthenticator(await readFile(credentialsFile));
  const isTls =
    caFile !== undefined ||
    certFile !== undefined ||
    settings.insecure ||
    settings.servers.some((server) => server.startsWith("tls://"));
  if (!isTls) return options;
  const tls = {
    ...(caFile === undefined ? {} : { caFile }),
    ...(certFile === undefined ? {} : { certFile }),
    ...(keyFile === undefined ? {} : { keyFile }),
    ...(settings.insecure ? { rejectUnauthorized: false } : {}),
    checkServerIdentity: identityCheck(settings.servers),
  };
  return { ...options, tls };
}

/**
 * The library names no host to TLS when a server is given by its address; Node then checks for "localhost". Such a certificate must stand for
 * one of the addresses configured.
 */
function identityCheck(servers: readonly string[]): (name: string, certificate: PeerCertificate) => Error | undefined {
  const addresses = servers.map(hostOf).filter((host) => isIP(host) !== 0);
  return (name, certificate) => {
    const error = checkServerIdentity(name, certificate);
    if (error === undefined || name !== "localhost") return error;
    return addresses.some((address) => checkServerIdentity(address, certificate) === undefined) ? undefined : error;
  };
}

function hostOf(server: string): string {
  try {
    return new URL(server.includes("://") ? server : `nats://${server}`).hostname.replace(/^\[|\]$/g, "");
  } catch {
    return "";
  }
}
