/**
 * Which endpoint stands before which Dynamo worker: the frontend that serves what the picker chose. An endpoint says so by a label (Dynamo
 * discovery sets it) or, in Kubernetes, by its pod's name.
 */

import { instanceIdLabel } from "../../data/discovery/dynamo/dynamo-discovery.ts";
import type { Endpoint, Endpoints } from "../../data/endpoint.ts";
import { instanceIdOfPod } from "../../dynamo/instance-id.ts";

/** Endpoints of one snapshot by the worker behind them. */
export type Placement = ReadonlyMap<bigint, Endpoint>;

const bySnapshot = new WeakMap<Endpoints, Placement>();

/** Computed once a snapshot: the array is the same until an endpoint changes. */
export function placementOf(endpoints: Endpoints): Placement {
  let placement = bySnapshot.get(endpoints);
  if (placement === undefined) {
    placement = new Map(endpoints.map((endpoint) => [workerIdOf(endpoint), endpoint]));
    bySnapshot.set(endpoints, placement);
  }
  return placement;
}

const idByName = new Map<string, bigint>();
const maxNames = 65_536;

export function workerIdOf(endpoint: Endpoint): bigint {
  const label = endpoint.labels.get(instanceIdLabel);
  const key = label ?? endpoint.name;
  let id = idByName.get(key);
  if (id === undefined) {
    id = label === undefined ? instanceIdOfPod(podOf(endpoint)) : BigInt(label);
    // Pods come and go for as long as the process runs.
    if (idByName.size >= maxNames) idByName.clear();
    idByName.set(key, id);
  }
  return id;
}

/** "<namespace>/<pod>-rank-<n>" → "<pod>" of the first; the others of a pod, on ports of their own, are workers of their own. */
export function podOf({ name, namespace }: Endpoint): string {
  return name.slice(namespace.length + 1).replace(/-rank-0$/, "");
}
