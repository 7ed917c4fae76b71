/**
 * What the workers of one stage say of the store behind their caches, taken together: one layout and one place of events, or why there is none. Workers
 * that say nothing, or nothing that can be read, have no voice; of those that do, one that differs is enough to trust no look-up.
 */
import type { HicacheCard, HicacheLayout } from "../../dynamo/model-card/model-card.ts";
import { endpointFault } from "../service/zmq-endpoint.ts";
import { maxPartsPerPage, partsPerPage } from "./object-keys.ts";

export type Agreement =
  | { readonly kind: "silent" }
  | { readonly kind: "agreed"; readonly layout: HicacheLayout; readonly endpoint: string }
  | { readonly kind: "degraded"; readonly reason: string };

export interface VoicedWorker {
  readonly id: bigint;
  readonly hicache: HicacheCard | undefined;
}

/** `configuredEndpoint` goes before what the workers say. */
export function agreementOf(
  workers: Iterable<VoicedWorker>,
  blockSize: number,
  configuredEndpoint: string | undefined,
): Agreement {
  let layout: HicacheLayout | undefined;
  let first = 0n;
  let endpoint = configuredEndpoint;
  let unreadable: string | undefined;
  for (const { id, hicache } of workers) {
    if (hicache === undefined) continue;
    if (hicache.kind === "unreadable") {
      unreadable ??= `worker ${id}: ${hicache.reason}`;
      continue;
    }
    if (layout === undefined) {
      layout = hicache.layout;
      first = id;
    } else {
      const member = differenceOf(layout, hicache.layout);
      if (member !== undefined) return degraded(`workers ${first} and ${id} differ in ${member}`);
    }
    if (configuredEndpoint !== undefined || hicache.eventsEndpoint === undefined) continue;
    endpoint ??= hicache.eventsEndpoint;
    if (endpoint !== hicache.eventsEndpoint) {
      return degraded(`workers differ in where events are: ${endpoint} and ${hicache.eventsEndpoint}`);
    }
  }
  if (layout === undefined) return unreadable === undefined ? { kind: "silent" } : degraded(unreadable);
  if (endpoint === undefined) return degraded("nothing says where the store's events are");
  const fault = endpointFault(endpoint) ?? layoutFault(layout, blockSize);
  return fault === undefined ? { kind: "agreed", layout, endpoint } : degraded(fault);
}

function degraded(reason: string): Agreement {
  return { kind: "degraded", reason };
}

function layoutFault(layout: HicacheLayout, blockSize: number): string | undefined {
  const { backend, pageSize } = layout;
  if (backend !== "mooncake") return `the store is ${backend}, not mooncake`;
  if (pageSize !== blockSize) return `a page has ${pageSize} tokens, a block of the model ${blockSize}`;
  const parts = partsPerPage(layout);
  return parts > maxPartsPerPage ? `a page has ${parts} parts, more than ${maxPartsPerPage}` : undefined;
}

/** The first member that is not the same. */
function differenceOf(a: HicacheLayout, b: HicacheLayout): string | undefined {
  if (a === b) return undefined;
  for (const member of Object.keys(a) as (keyof HicacheLayout)[]) if (a[member] !== b[member]) return member;
  return undefined;
}
