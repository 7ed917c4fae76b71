/**
 * Whether a pool may be sent requests, and if not, why. What is still coming holds the process back; what cannot be served is nobody else's
 * concern: other pools of the process go on.
 */
import type { KubernetesDiscovery } from "../data/discovery/kubernetes/pool-discovery.ts";
import type { AppProtocol } from "../request/app-protocol.ts";
import { readsProtocol } from "../request/parser-set.ts";
import type { Configuration } from "./configuration.ts";

export type PoolReadiness =
  | { readonly kind: "ready" }
  /** It will be, by itself. */
  | { readonly kind: "coming"; readonly reason: string }
  /** Somebody has to do something. */
  | { readonly kind: "unserved"; readonly reason: string };

const ready: PoolReadiness = { kind: "ready" };

export interface PoolParts {
  readonly store: { readonly isSynced: boolean };
  readonly configuration: Pick<Configuration, "isReady"> & {
    readonly current: { readonly config: { readonly parsers: readonly string[] } };
  };
  readonly objects: { readonly isSynced: boolean };
  /** Undefined where endpoints do not come from Kubernetes. */
  readonly discovery: Pick<KubernetesDiscovery, "state"> | undefined;
  /** Of the pool that computes prompts for this one; undefined where there is none. */
  readonly prefill?: Pick<KubernetesDiscovery, "state"> | undefined;
}

export function readinessOf(
  { store, configuration, objects, discovery, prefill }: PoolParts,
  reads: (parsers: readonly string[], protocol: AppProtocol) => boolean = readsProtocol,
): PoolReadiness {
  const discovered = discovery === undefined ? ready : discoveryReadiness(discovery.state);
  if (discovered.kind !== "ready") return discovered;
  const ofPrefill = prefill === undefined ? ready : discoveryReadiness(prefill.state);
  // Without the other pool this one computes its prompts itself: it is waited for, and never missed.
  if (ofPrefill.kind === "coming") return { kind: "coming", reason: `of the prefill pool: ${ofPrefill.reason}` };
  const protocol = discovery?.state.kind === "listed" ? discovery.state.pool.appProtocol : undefined;
  const { parsers } = configuration.current.config;
  if (protocol !== undefined && !reads(parsers, protocol)) {
    return { kind: "unserved", reason: `appProtocol is ${protocol}, which none of ${parsers.join(", ")} reads` };
  }
  if (!store.isSynced) return { kind: "coming", reason: "the first list of endpoints is not complete" };
  if (!objects.isSynced) return { kind: "coming", reason: "the Kubernetes API has not listed objectives and rewrites" };
  if (!configuration.isReady) return { kind: "coming", reason: "a plugin is not fit to decide yet" };
  return ready;
}

/**
 * Of a process that serves several: what is still coming is waited for, and then one that can be served is enough. A pool that is missing must
 * not take the others' traffic.
 */
export function jointReadiness(pools: ReadonlyMap<string, PoolReadiness>): PoolReadiness {
  const named = [...pools].map(([name, one]) => ({ kind: one.kind, reason: reasonText(name, one) }));
  const coming = named.filter(({ kind }) => kind === "coming");
  if (coming.length > 0) return { kind: "coming", reason: reasonsOf(coming) };
  if (named.some(({ kind }) => kind === "ready")) return ready;
  return { kind: "unserved", reason: reasonsOf(named) };
}

function reasonText(name: string, readiness: PoolReadiness): string {
  if (readiness.kind === "ready") return "";
  return name === "" ? readiness.reason : `${name}: ${readiness.reason}`;
}

function reasonsOf(named: readonly { readonly reason: string }[]): string {
  return named.map(({ reason }) => reason).join("; ");
}

function discoveryReadiness(state: KubernetesDiscovery["state"]): PoolReadiness {
  switch (state.kind) {
    case "unheard":
      return { kind: "coming", reason: "the Kubernetes API has not said whether there is such an InferencePool" };
    case "absent":
      return { kind: "unserved", reason: "there is no such InferencePool" };
    case "faulty":
      return { kind: "unserved", reason: "the InferencePool cannot be read" };
    case "listing":
      return { kind: "coming", reason: "the Kubernetes API has not listed the pods" };
    case "listed":
      return ready;
    default:
      return state satisfies never;
  }
}
