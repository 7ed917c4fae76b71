/** What the rest of the pipeline wants to know of the scheduler's answer. */
import type { Endpoints } from "../data/endpoint.ts";
import type { ProfileOutcome, SchedulingResult } from "../scheduling/contracts.ts";

export type Scheduled = Extract<SchedulingResult, { kind: "scheduled" }>;

/** Endpoints of every profile that picked any. */
export function pickedByProfile(outcomes: ReadonlyMap<string, ProfileOutcome>): ReadonlyMap<string, Endpoints> {
  const byProfile = new Map<string, Endpoints>();
  for (const [profile, outcome] of outcomes) {
    if (outcome.kind === "picked") byProfile.set(profile, outcome.endpoints);
  }
  return byProfile;
}

/** Scores of the candidates that survived the primary profile's filters, by hostPort. */
export function scoresOf(result: Scheduled): ReadonlyMap<string, number> | undefined {
  const outcome = result.outcomes.get(result.primary);
  if (outcome?.kind !== "picked") return undefined;
  const scores = new Map<string, number>();
  for (const [endpoint, total] of outcome.totals) scores.set(endpoint.hostPort, total);
  return scores;
}
