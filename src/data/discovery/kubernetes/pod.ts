/**
 * What is kept of a pod that may serve, and the endpoints it stands for: one for each target port, named for its rank. A pod that is not ready
 * or on its way out is none.
 */
import type { KubernetesObject } from "../../../net/kubernetes/list-watch.ts";
import type { EndpointSpec } from "../../endpoint-store.ts";
import { isAddress } from "../endpoint-address.ts";

export interface ServingPod {
  readonly namespace: string;
  readonly name: string;
  /** Two pods of one name, one after the other, are two servers. */
  readonly uid: string;
  /** IP literal without brackets. */
  readonly address: string;
  readonly labels: ReadonlyMap<string, string>;
  /** Ports that its annotation restricts it to; undefined: all. */
  readonly activePorts: ReadonlySet<number> | undefined;
}

/** The reference's, and the one it had before. */
const activePortsAnnotations = ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"] as const;

interface PodObject extends KubernetesObject {
  readonly metadata: KubernetesObject["metadata"] & { readonly annotations?: Readonly<Record<string, string>> };
  readonly status?: {
    readonly podIP?: string;
    readonly podIPs?: readonly { readonly ip?: string }[];
    readonly conditions?: readonly { readonly type?: string; readonly status?: string }[];
  };
}

/** Undefined: no traffic may go there. */
export function readServingPod(object: KubernetesObject): ServingPod | undefined {
  const { metadata, status } = object as PodObject;
  if (metadata.deletionTimestamp !== undefined) return undefined;
  if (!status?.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True")) return undefined;
  const address = [status.podIP, ...(status.podIPs ?? []).map(({ ip }) => ip)].find(
    (ip): ip is string => ip !== undefined && isAddress(ip),
  );
  if (address === undefined) return undefined;
  return {
    namespace: metadata.namespace ?? "default",
    name: metadata.name,
    uid: metadata.uid ?? "",
    address,
    labels: new Map(Object.entries(metadata.labels ?? {})),
    activePorts: activePortsOf(metadata.annotations),
  };
}

function activePortsOf(annotations: Readonly<Record<string, string>> = {}): ReadonlySet<number> | undefined {
  const name = activePortsAnnotations.find((annotation) => annotations[annotation] !== undefined);
  if (name === undefined) return undefined;
  const ports = new Set<number>();
  for (const part of (annotations[name] ?? "").split(",")) {
    // As the reference reads it: the number at the start counts, whatever follows it.
    const digits = /^\s*\+?(\d{1,5})/.exec(part)?.[1];
    if (digits !== undefined) ports.add(Number(digits));
  }
  return ports;
}

/** The pod's endpoint of that rank: unique in its namespace, the same for as long as the pod's name is. */
export function rankName(pod: Pick<ServingPod, "name">, rank: number): string {
  return `${pod.name}-rank-${rank}`;
}

/** By rank; undefined where the pod does not serve that port. */
export function endpointsOfPod(pod: ServingPod, targetPorts: readonly number[]): readonly (EndpointSpec | undefined)[] {
  const { namespace, address, labels, activePorts } = pod;
  return targetPorts.map((port, rank) =>
    activePorts === undefined || activePorts.has(port)
      ? { namespace, name: rankName(pod, rank), address, port, labels }
      : undefined,
  );
}
