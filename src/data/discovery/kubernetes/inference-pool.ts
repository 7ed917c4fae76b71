/**
 * InferencePool objects as the picker reads them: which pods, by which ports, over which protocol. Both shapes become one: v1 of
 * inference.networking.k8s.io, and v1alpha2 of inference.networking.x-k8s.io with its flat selector and single port.
 */
import type { KubernetesObject } from "../../../net/kubernetes/list-watch.ts";
import type { AppProtocol } from "../../../request/app-protocol.ts";

export interface InferencePool {
  /** Label selector as the API server takes it; "" selects every pod of the namespace. */
  readonly selector: string;
  /** Each port of a pod is an endpoint of its own; its place in this list is its rank. */
  readonly targetPorts: readonly number[];
  /** Undefined: the pool does not say, and nothing is asked of the parsers. */
  readonly appProtocol: AppProtocol | undefined;
}

export type ReadPool =
  | { readonly kind: "pool"; readonly pool: InferencePool }
  /** The object is there, and is no pool. */
  | { readonly kind: "faulty"; readonly faults: readonly string[] };

/** API group → its version and where its pools are. */
const versions: Readonly<Record<string, string>> = {
  "inference.networking.k8s.io": "v1",
  "inference.networking.x-k8s.io": "v1alpha2",
};

export const poolGroups: readonly string[] = Object.keys(versions);

/** Throws RangeError for a group that has no pools. */
export function poolCollection(group: string, namespace: string): string {
  const version = versions[group];
  if (version === undefined) throw new RangeError(`${group} is no API group of InferencePools`);
  return `/apis/${group}/${version}/namespaces/${namespace}/inferencepools`;
}

/** The API server has checked the object against its schema; what passes here all the same is told, not guessed at. */
export function readPool(object: KubernetesObject): ReadPool {
  const spec = recordOf((object as { readonly spec?: unknown }).spec) ?? {};
  const faults: string[] = [];
  const pool = {
    selector: selectorOf(spec, faults),
    targetPorts: portsOf(spec, faults),
    appProtocol: protocolOf(spec["appProtocol"], faults),
  };
  return faults.length === 0 ? { kind: "pool", pool } : { kind: "faulty", faults };
}

export function samePool(a: InferencePool, b: InferencePool): boolean {
  return a.selector === b.selector && a.appProtocol === b.appProtocol && samePorts(a.targetPorts, b.targetPorts);
}

export function samePorts(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((port, rank) => port === b[rank]);
}

/** Equal for equal labels, whatever their order. */
export function selectorOfLabels(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}=${value}`)
    .sort()
    .join(",");
}

function selectorOf(spec: Readonly<Record<string, unknown>>, faults: string[]): string {
  const selector = recordOf(spec["selector"]);
  // v1 nests the labels; an alpha pool may select by a label of that name, whose value is text.
  const labels = recordOf(selector?.["matchLabels"]) ?? selector;
  if (labels === undefined) {
    faults.push("spec.selector: missing");
    return "";
  }
  const texts: Record<string, string> = {};
  for (const [name, value] of Object.entries(labels)) {
    if (typeof value === "string") texts[name] = value;
    else faults.push(`spec.selector: label ${name} is no text`);
  }
  return selectorOfLabels(texts);
}

function portsOf(spec: Readonly<Record<string, unknown>>, faults: string[]): readonly number[] {
  const given = spec["targetPorts"];
  const numbers = Array.isArray(given)
    ? given.map((port: unknown) => recordOf(port)?.["number"])
    : [spec["targetPortNumber"]];
  const ports: number[] = [];
  for (const number of numbers) {
    if (!isPort(number)) faults.push(`spec.targetPorts: ${JSON.stringify(number) ?? "nothing"} is no port`);
    else if (!ports.includes(number)) ports.push(number);
  }
  return ports;
}

function isPort(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= 65_535;
}

function protocolOf(value: unknown, faults: string[]): AppProtocol | undefined {
  if (value === undefined || value === "") return undefined;
  if (value === "http" || value === "kubernetes.io/h2c") return value;
  faults.push(`spec.appProtocol: ${JSON.stringify(value)} is not "http" or "kubernetes.io/h2c"`);
  return undefined;
}

function recordOf(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>)
    : undefined;
}
