/** The metrics port of one picker: its certificate and who may read it, from flags and environment. */
import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { type AdminRoute, type AdminServer, type AdminServerOptions, startAdminServer } from "../admin/http-server.ts";
import { createMetricsAccess } from "../admin/metrics-access.ts";
import { createReviewClient } from "../admin/review-client.ts";
import { ConfigError } from "../config/complete-config.ts";
import { accountFolderOf } from "../net/kubernetes/credentials.ts";
import { loadCertificates } from "../net/tls.ts";
import type { Logger } from "../telemetry/log.ts";
import { watchCertificates } from "./certificate-watch.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

export interface MetricsPortOptions {
  readonly settings: {
    readonly "bind-address": string;
    readonly "metrics-port": number;
    readonly "metrics-endpoint-auth": boolean;
    readonly "metrics-cert-dir": string;
    readonly "metrics-client-ca-file": string;
  };
  /** Flags that were given rather than left at their default. */
  readonly given: ReadonlySet<string>;
  readonly environment: Environment;
  readonly routes: ReadonlyMap<string, AdminRoute>;
  readonly log: Logger;
  readonly now: () => number;
  /** Default: where Kubernetes mounts the pod's service account. */
  readonly serviceAccountFolder?: string;
}

/** Resolves once bound; a port below 0 serves nothing and has the number 0. Throws ConfigError for flags that cannot be met, CertificateError, or the system's error. */
export async function startMetricsPort(options: MetricsPortOptions): Promise<Pick<AdminServer, "port" | "close">> {
  const { settings, log } = options;
  if (settings["metrics-port"] < 0) return { port: 0, close: () => Promise.resolve() };
  const authorize = await accessOf(options);
  const folder = settings["metrics-cert-dir"];
  const clientCaFile = settings["metrics-client-ca-file"];
  if (folder === "" && clientCaFile !== "") {
    throw new ConfigError("flags", ["--metrics-client-ca-file needs --metrics-cert-dir: client certificates need TLS"]);
  }
  const pair = folder === "" ? undefined : await loadCertificates(folder);
  const clientCa = clientCaFile === "" ? undefined : await readClientCa(clientCaFile);
  const server = await startAdminServer({
    host: settings["bind-address"],
    port: settings["metrics-port"],
    tls: pair === undefined ? undefined : { key: pair.key, cert: pair.cert, clientCa },
    routes: options.routes,
    authorize,
    onError: (error) => log.error({ error }, "the metrics port failed to answer"),
  }).catch((error: unknown) => {
    throw new Error(`port ${settings["metrics-port"]} (--metrics-port) cannot be bound`, { cause: error });
  });
  const watch =
    pair === undefined
      ? undefined
      : await watchCertificates(
          folder,
          (next) => {
            server.setTls(next);
            log.info({ folder }, "the certificate of the metrics port was replaced");
          },
          (error) => log.error({ error, folder }, "the new certificate is refused; the last good one stays"),
          { current: pair },
        ).catch(async (error: unknown) => {
          await server.close();
          throw error;
        });
  return {
    port: server.port,
    async close() {
      await watch?.close();
      await server.close();
    },
  };
}

/** Inside Kubernetes the API server is asked unless the flag says no; outside everything is open, unless the flag asks for what cannot be had. */
async function accessOf(options: MetricsPortOptions): Promise<AdminServerOptions["authorize"]> {
  const { settings, given, environment, log, now } = options;
  if (!settings["metrics-endpoint-auth"]) return undefined;
  const folder = options.serviceAccountFolder ?? accountFolderOf(environment);
  const tokenFile = `${folder}/token`;
  const host = environment["KUBERNETES_SERVICE_HOST"] ?? "";
  const hasToken = await readFile(tokenFile).then(
    () => true,
    () => false,
  );
  if (host === "" || !hasToken) {
    if (!given.has("metrics-endpoint-auth")) return undefined;
    throw new ConfigError("flags", [
      `--metrics-endpoint-auth needs a Kubernetes API server: KUBERNETES_SERVICE_HOST is ${host === "" ? "not set" : "set"} and ${tokenFile} ${hasToken ? "can" : "cannot"} be read`,
    ]);
  }
  const client = createReviewClient({
    host: host.replace(/^\[|\]$/g, ""),
    port: Number(environment["KUBERNETES_SERVICE_PORT_HTTPS"] ?? environment["KUBERNETES_SERVICE_PORT"] ?? 443),
    tokenFile,
    caFile: `${folder}/ca.crt`,
  });
  return createMetricsAccess({
    client,
    now,
    onError: (error) => log.error({ error }, "cannot ask the API server who may read metrics; nobody is let in"),
  });
}

async function readClientCa(file: string): Promise<string> {
  try {
    const pem = await readFile(file, "utf8");
    // Throws on what is no certificate; a TLS server would take it and then let nobody in.
    new X509Certificate(pem);
    return pem;
  } catch (cause) {
    const { message } = cause as { message?: unknown };
    throw new ConfigError("flags", [`--metrics-client-ca-file: ${file} is no PEM certificate: ${String(message)}`]);
  }
}
