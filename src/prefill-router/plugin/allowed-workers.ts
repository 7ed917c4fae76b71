/**
 * Which workers a request may be planned on: decode workers that have a frontend among the endpoints which the gateway and the filters of the
 * decode profile leave, prefill workers that the filters of a prefill profile leave, where endpoints stand for prefill workers at all.
 */
import type { Endpoints } from "../../data/endpoint.ts";
import type { PlanOffer } from "../../scheduling/contracts.ts";
import type { PlanRequest } from "../contracts.ts";
import { placementOf } from "./placement.ts";

/** Names of the profiles whose filters count. A configuration with one profile of another name is one of decode workers. */
export interface StageProfiles {
  readonly prefill: string;
  readonly decode: string;
}

const bySnapshot = new WeakMap<Endpoints, ReadonlySet<bigint>>();

export function allowedWorkers(
  offer: PlanOffer,
  profiles: StageProfiles,
  isPrefillWorker: (workerId: bigint) => boolean,
): NonNullable<PlanRequest["allowed"]> {
  return {
    decode: idsOf(offer.eligible(decodeProfileOf(offer.profiles, profiles))),
    prefill:
      offer.profiles.includes(profiles.prefill) && standsForPrefill(offer.candidates, isPrefillWorker)
        ? idsOf(offer.eligible(profiles.prefill))
        : undefined,
  };
}

/** The one that runs: by its name, or the only one. */
export function decodeProfileOf(configured: readonly string[], { decode }: StageProfiles): string {
  return configured.includes(decode) ? decode : (configured[0] ?? decode);
}

function standsForPrefill(endpoints: Endpoints, isPrefillWorker: (workerId: bigint) => boolean): boolean {
  for (const id of idsOf(endpoints)) if (isPrefillWorker(id)) return true;
  return false;
}

function idsOf(endpoints: Endpoints): ReadonlySet<bigint> {
  let ids = bySnapshot.get(endpoints);
  if (ids === undefined) {
    ids = new Set(placementOf(endpoints).keys());
    bySnapshot.set(endpoints, ids);
  }
  return ids;
}
