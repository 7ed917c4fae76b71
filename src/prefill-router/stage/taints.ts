/**
 * Taints: names a worker carries and a request requires or prefers. Where a worker lies (zone, rack) is a taint too, so that a decode worker
 * can be bound to the domain within which its prefill worker can hand KV blocks over.
 */
import type { RouterWorker, RoutingConstraints } from "../contracts.ts";

/** Dynamo's spelling of "this worker lies in `value` of `domain`". */
export function topologyTaint(domain: string, value: string): string {
  return `dynamo.topology/${domain}=${value}`;
}

/** The worker's own taints and those of its topology domains. */
export function effectiveTaints(worker: RouterWorker): ReadonlySet<string> {
  const taints = new Set(worker.taints);
  for (const [domain, value] of worker.topologyDomains) taints.add(topologyTaint(domain, value));
  return taints;
}

export function hasRequiredTaints(constraints: RoutingConstraints, taints: ReadonlySet<string>): boolean {
  for (const taint of constraints.requiredTaints) if (!taints.has(taint)) return false;
  return true;
}

/** exp(−tanh(Σ weights of the preferred taints the worker has)): 1 is neutral, at most a factor of e either way. */
export function taintMultiplier(constraints: RoutingConstraints, taints: ReadonlySet<string>): number {
  if (constraints.preferredTaints.size === 0) return 1;
  let sum = 0;
  // Dynamo keeps weights in 32 bits.
  for (const [taint, weight] of constraints.preferredTaints) if (taints.has(taint)) sum += Math.fround(weight);
  return Math.exp(-Math.tanh(sum));
}

export type TransferConstraints =
  | { readonly kind: "none" }
  | { readonly kind: "constraints"; readonly constraints: RoutingConstraints }
  | { readonly kind: "invalid"; readonly message: string };

/** What the choice of this prefill worker demands of the decode worker: to lie where KV blocks can be handed over. */
export function transferConstraints(prefill: RouterWorker): TransferConstraints {
  const domain = prefill.kvTransferDomain;
  if (domain === undefined) return { kind: "none" };
  const value = prefill.topologyDomains.get(domain);
  const worker = `prefill worker ${prefill.id}`;
  if (value === undefined) {
    return {
      kind: "invalid",
      message: `${worker} names the KV transfer domain "${domain}" but not where in it it lies`,
    };
  }
  const taint = topologyTaint(domain, value);
  switch (prefill.kvTransferEnforcement) {
    case "required":
      return { kind: "constraints", constraints: { requiredTaints: [taint], preferredTaints: new Map() } };
    case "preferred": {
      const weight = prefill.kvTransferPreferredWeight;
      if (weight === undefined) {
        return { kind: "invalid", message: `${worker} prefers its KV transfer domain without a weight` };
      }
      return { kind: "constraints", constraints: { requiredTaints: [], preferredTaints: new Map([[taint, weight]]) } };
    }
    case undefined:
      return { kind: "invalid", message: `${worker} names a KV transfer domain without saying whether it is required` };
    default: {
      const never: never = prefill.kvTransferEnforcement;
      return never;
    }
  }
}

/** Both hold; a taint preferred by both has the second's weight. */
export function mergeConstraints(
  first: RoutingConstraints | undefined,
  second: RoutingConstraints,
): RoutingConstraints {
  if (first === undefined) return second;
  return {
    requiredTaints: [...new Set([...first.requiredTaints, ...second.requiredTaints])],
    preferredTaints: new Map([...first.preferredTaints, ...second.preferredTaints]),
  };
}
