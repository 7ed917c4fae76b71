/** The plugins `metrics-data-source` and `models-data-source`: one GET per endpoint, plain or TLS, on the endpoint's port or another. */
import { readFileSync } from "node:fs";
import type { ClientTls } from "../../net/http1/get-client.ts";
import { parseDuration } from "../duration.ts";
import type { JsonSchema, PluginDefinition } from "../plugin.ts";
import type { DataSource } from "./source.ts";

export interface HttpSourceParameters {
  readonly scheme: "http" | "https";
  readonly path: string;
  /** The endpoint's own where undefined. */
  readonly port?: number;
  readonly insecureSkipVerify: boolean;
  readonly caCertPath: string;
  readonly clientCertPath: string;
  readonly clientKeyPath: string;
  /** Go duration; "" polls with every scrape interval. */
  readonly interval: string;
}

interface HttpSourceKind {
  readonly type: string;
  readonly path: string;
  readonly interval: string;
  readonly accept: string;
  readonly summary: string;
  readonly hasPort: boolean;
}

function defineHttpSource(kind: HttpSourceKind): PluginDefinition<HttpSourceParameters, DataSource> {
  return {
    type: kind.type,
    kinds: ["data-source"],
    summary: kind.summary,
    parameters: schemaOf(kind),
    validate: faultsOf,
    create: (parameters) => createHttpSource(kind.type, kind.accept, parameters),
  };
}

/** Throws when a certificate file cannot be read. */
export function createHttpSource(sourceType: string, accept: string, parameters: HttpSourceParameters): DataSource {
  const tls = parameters.scheme === "https" ? readTls(parameters) : undefined;
  const { path, port } = parameters;
  return {
    sourceType,
    intervalMs: intervalMsOf(parameters.interval) ?? 0,
    target: (endpoint) => ({ address: endpoint.address, port: port ?? endpoint.port, path, accept, tls }),
  };
}

function readTls(parameters: HttpSourceParameters): ClientTls {
  const read = (path: string): string | undefined => (path === "" ? undefined : readFileSync(path, "utf8"));
  return {
    verifies: !parameters.insecureSkipVerify,
    ca: read(parameters.caCertPath),
    cert: read(parameters.clientCertPath),
    key: read(parameters.clientKeyPath),
  };
}

/** "" polls with every scrape; undefined when the text is no duration or negative. */
function intervalMsOf(text: string): number | undefined {
  const ms = text === "" ? 0 : parseDuration(text);
  return ms !== undefined && ms >= 0 ? ms : undefined;
}

function faultsOf(parameters: HttpSourceParameters): readonly string[] {
  const faults: string[] = [];
  if (intervalMsOf(parameters.interval) === undefined) {
    faults.push(`interval: "${parameters.interval}" is no duration; expected e.g. 500ms, 5s`);
  }
  if ((parameters.clientCertPath === "") !== (parameters.clientKeyPath === "")) {
    faults.push("clientCertPath and clientKeyPath belong together");
  }
  return faults;
}

function schemaOf(kind: HttpSourceKind): JsonSchema {
  return {
    type: "object",
    additionalProperties: false,
    properties: {
      scheme: { type: "string", enum: ["http", "https"], default: "http", description: "http or https." },
      // A path with blanks or line breaks would be another request.
      path: { type: "string", pattern: "^/[!-~]*$", default: kind.path, description: "Path of the page." },
      ...(kind.hasPort
        ? {
            port: {
              type: "integer",
              minimum: 1,
              maximum: 65_535,
              description: "Port of the page; the endpoint's own when absent.",
            },
          }
        : {}),
      insecureSkipVerify: { type: "boolean", default: true, description: "With https: accept any certificate." },
      caCertPath: { type: "string", default: "", description: "With https: PEM bundle to trust." },
      clientCertPath: { type: "string", default: "", description: "With https: PEM client certificate." },
      clientKeyPath: { type: "string", default: "", description: "With https: PEM key of the client certificate." },
      interval: {
        type: "string",
        default: kind.interval,
        description: "Least time between two polls of an endpoint, e.g. 5s; empty polls with every scrape interval.",
      },
    },
  };
}

export const metricsDataSourcePlugin = defineHttpSource({
  type: "metrics-data-source",
  path: "/metrics",
  interval: "",
  accept: "text/plain;version=0.0.4",
  summary: "Polls the engine's metrics page.",
  hasPort: true,
});

export const modelsDataSourcePlugin = defineHttpSource({
  type: "models-data-source",
  path: "/v1/models",
  // Served models change by hand or by adapter loads: asking twenty times a second would only cost the engine.
  interval: "5s",
  accept: "application/json",
  summary: "Polls the list of models an engine serves.",
  hasPort: false,
});
