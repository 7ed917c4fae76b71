/**
 * Whether the workers of one model in one namespace can serve (Dynamo 1.6.1: dynamo-llm, src/discovery/readiness.rs): somebody lives, every
 * role that is registered lives, and one alternative of everybody's needs is there as a whole.
 */
import type { WorkerRole } from "../model-card/model-card.ts";

/** One group of workers with one card. */
export interface ReadinessUnit {
  /** Undefined in cards from before there were roles: while one is there, needs are not looked at. */
  readonly role: WorkerRole | undefined;
  readonly liveWorkers: number;
  readonly needs: readonly (readonly WorkerRole[])[];
}

export type Readiness =
  | { readonly kind: "ready" }
  | { readonly kind: "missing"; readonly roles: readonly WorkerRole[] }
  /** Two groups of different cards do the same stage: which one belongs to whom cannot be told. */
  | { readonly kind: "ambiguous"; readonly roles: readonly WorkerRole[] }
  | { readonly kind: "empty" };

const roles: readonly WorkerRole[] = ["aggregated", "decode", "encode", "prefill"];

export function evaluateReadiness(units: readonly ReadinessUnit[]): Readiness {
  const live = units.filter((unit) => unit.liveWorkers > 0);
  const isLegacy = units.some((unit) => unit.role === undefined);
  if (isLegacy || units.length === 0) return live.length > 0 ? { kind: "ready" } : { kind: "empty" };
  const present = new Set(live.map((unit) => unit.role));
  const missing = new Set<WorkerRole>();
  for (const { role, liveWorkers, needs } of units) {
    if (role !== undefined && !present.has(role)) missing.add(role);
    if (liveWorkers === 0 || needs.length === 0) continue;
    if (needs.some((group) => group.every((need) => present.has(need)))) continue;
    for (const need of needs.flat()) {
      if (!present.has(need)) missing.add(need);
    }
  }
  if (missing.size > 0) return { kind: "missing", roles: roles.filter((role) => missing.has(role)) };
  const ambiguous = roles.filter(
    (role) => role !== "aggregated" && live.filter((unit) => unit.role === role).length > 1,
  );
  return ambiguous.length > 0 ? { kind: "ambiguous", roles: ambiguous } : { kind: "ready" };
}
