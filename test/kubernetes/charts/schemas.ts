/**
 * JSON schemas for kubeconform out of what a live API server says of its kinds (OpenAPI v3), so that built-in and custom kinds are checked alike and
 * by the very version that will run them. Strict: a key that the server would drop is a fault.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { KubernetesApi } from "../../../src/net/kubernetes/api-client.ts";

type Json = Readonly<Record<string, unknown>>;

export interface GroupVersionKind {
  readonly group: string;
  readonly version: string;
  readonly kind: string;
}

/** What kubeconform is told to look for: group (the version, where there is none), kind, version. */
export function schemaLocation(folder: string): string {
  return join(folder, "{{ .Group }}_{{ .ResourceKind }}_{{ .ResourceAPIVersion }}.json");
}

/** The name of a kind's file. */
export function schemaFile({ group, version, kind }: GroupVersionKind): string {
  return `${group === "" ? version : group}_${kind.toLowerCase()}_${version}.json`;
}

/** Names of the files written. A kind that was defined a moment ago may not be among them yet. */
export async function writeSchemas(api: Pick<KubernetesApi, "request">, folder: string): Promise<ReadonlySet<string>> {
  await mkdir(folder, { recursive: true });
  const index = JSON.parse(await api.request({ path: "/openapi/v3" })) as {
    readonly paths: Readonly<Record<string, unknown>>;
  };
  const written = new Set<string>();
  for (const path of Object.keys(index.paths)) {
    const [, group = "", version] = /^(?:api|apis\/([^/]+))\/(v\d\w*)$/.exec(path) ?? [];
    if (version === undefined) continue;
    const document = JSON.parse(await api.request({ path: `/openapi/v3/${path}`, timeoutMs: 60_000 })) as {
      readonly components?: { readonly schemas?: Readonly<Record<string, Json>> };
    };
    const schemas = document.components?.schemas ?? {};
    const shared = `definitions_${group}_${version}.json`;
    await writeFile(join(folder, shared), JSON.stringify({ definitions: strict(schemas) }));
    for (const [name, schema] of Object.entries(schemas)) {
      const kinds = (schema["x-kubernetes-group-version-kind"] ?? []) as readonly GroupVersionKind[];
      const own = kinds.find((kind) => kind.group === group && kind.version === version);
      if (own === undefined) continue;
      const file = schemaFile(own);
      await writeFile(join(folder, file), JSON.stringify({ $ref: `${shared}#/definitions/${name}` }));
      written.add(file);
    }
  }
  return written;
}

/** OpenAPI's words in JSON Schema's. */
function strict(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(strict);
  if (typeof value !== "object" || value === null) return value;
  const schema: Record<string, unknown> = {};
  for (const [key, member] of Object.entries(value)) {
    if (key === "$ref" && typeof member === "string") {
      schema[key] = member.replace("#/components/schemas/", "#/definitions/");
    } else schema[key] = strict(member);
  }
  if (schema["x-kubernetes-int-or-string"] === true || schema["format"] === "int-or-string") {
    return { anyOf: [{ type: "integer" }, { type: "string" }] };
  }
  if (schema["nullable"] === true && typeof schema["type"] === "string") schema["type"] = [schema["type"], "null"];
  const isOpen =
    schema["additionalProperties"] !== undefined || schema["x-kubernetes-preserve-unknown-fields"] === true;
  if (schema["type"] === "object" && typeof schema["properties"] === "object" && !isOpen) {
    schema["additionalProperties"] = false;
  }
  return schema;
}
