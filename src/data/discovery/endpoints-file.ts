/**
 * The endpoints file: YAML or JSON, at most 1 MiB, `endpoints[]{name, namespace, address, port, labels}`. Strict: a file with any fault
 * yields no endpoints, only all its faults.
 */
import { parseDocument } from "yaml";
import { endpointName } from "../endpoint.ts";
import type { EndpointSpec } from "../endpoint-store.ts";
import { isAddress, parsePort } from "./endpoint-address.ts";

export const maxEndpointsFileBytes = 1024 * 1024;

export type ParsedEndpointsFile =
  | { readonly kind: "endpoints"; readonly endpoints: readonly EndpointSpec[] }
  | { readonly kind: "faults"; readonly faults: readonly string[] };

const entryKeys = new Set(["name", "namespace", "address", "port", "labels"]);

export function parseEndpointsFile(bytes: Buffer): ParsedEndpointsFile {
  if (bytes.length > maxEndpointsFileBytes) return faulty("the file exceeds 1 MiB");
  const document = readDocument(bytes.toString("utf8"));
  if ("fault" in document) return faulty(document.fault);
  const root = document.value;
  // A file that is being written is often empty for a moment: an empty pool has to be said.
  if (root === null || root === undefined) return faulty("the file is empty; `endpoints: []` means no endpoints");
  if (!isRecord(root)) return faulty("expected an object with the key endpoints");
  const faults = Object.keys(root)
    .filter((key) => key !== "endpoints")
    .map((key) => `${key}: unknown key; expected endpoints`);
  const list = root["endpoints"];
  if (!Array.isArray(list)) return { kind: "faults", faults: [...faults, "endpoints: expected a list"] };
  const endpoints = new Map<string, EndpointSpec>();
  for (const [index, entry] of (list as readonly unknown[]).entries()) {
    const spec = parseEntry(entry, `endpoints[${index}]`, faults);
    if (spec === undefined) continue;
    const name = endpointName(spec.namespace, spec.name);
    if (endpoints.has(name)) faults.push(`endpoints[${index}].name: ${name} is there twice`);
    endpoints.set(name, spec);
  }
  return faults.length > 0 ? { kind: "faults", faults } : { kind: "endpoints", endpoints: [...endpoints.values()] };
}

function faulty(fault: string): ParsedEndpointsFile {
  return { kind: "faults", faults: [fault] };
}

function readDocument(text: string): { readonly value: unknown } | { readonly fault: string } {
  // The parser reports some faults in `errors` and throws others (alias bombs).
  try {
    const document = parseDocument(text, { logLevel: "silent" });
    const error = document.errors[0];
    if (error !== undefined) return { fault: firstLine(error.message) };
    return { value: document.toJS({ maxAliasCount: 100 }) as unknown };
  } catch (error) {
    return { fault: firstLine(String(error)) };
  }
}

function firstLine(text: string): string {
  return text.split("\n", 1)[0] ?? text;
}

function parseEntry(entry: unknown, path: string, faults: string[]): EndpointSpec | undefined {
  if (!isRecord(entry)) {
    faults.push(`${path}: expected an object`);
    return undefined;
  }
  const before = faults.length;
  for (const key of Object.keys(entry)) {
    if (!entryKeys.has(key)) faults.push(`${path}.${key}: unknown key; expected one of ${[...entryKeys].join(", ")}`);
  }
  const name = nonEmptyString(entry["name"], `${path}.name`, faults);
  const namespace = nonEmptyString(entry["namespace"] ?? "default", `${path}.namespace`, faults);
  const address = typeof entry["address"] === "string" ? entry["address"] : "";
  if (!isAddress(address)) faults.push(`${path}.address: expected an IPv4 or IPv6 address, without brackets`);
  const portText = entry["port"];
  const port = typeof portText === "string" || typeof portText === "number" ? parsePort(String(portText)) : undefined;
  if (port === undefined) faults.push(`${path}.port: expected 1 to 65535`);
  const labels = parseLabels(entry["labels"], `${path}.labels`, faults);
  if (faults.length > before || port === undefined) return undefined;
  return { namespace, name, address, port, labels };
}

function nonEmptyString(value: unknown, path: string, faults: string[]): string {
  if (typeof value === "string" && value !== "") return value;
  faults.push(`${path}: expected a non-empty string`);
  return "";
}

function parseLabels(value: unknown, path: string, faults: string[]): ReadonlyMap<string, string> {
  const labels = new Map<string, string>();
  if (value === undefined || value === null) return labels;
  if (!isRecord(value)) {
    faults.push(`${path}: expected an object of strings`);
    return labels;
  }
  for (const [key, label] of Object.entries(value)) {
    if (typeof label === "string") labels.set(key, label);
    else faults.push(`${path}.${key}: expected a string`);
  }
  return labels;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
