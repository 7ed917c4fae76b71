/** What a plan considered, rank by rank, for the decision log. Asked for before anything is booked, so that it shows the loads of the choice. */
import type { PlanExplanation, PlanRequest, Stage } from "../contracts.ts";
import type { Chooser } from "./chooser.ts";

export function explanationOf(
  chooser: Chooser,
  request: PlanRequest,
  policyClass: string,
  waitedMs: number,
  nowMs: number,
): PlanExplanation {
  const { isDisaggregated } = chooser;
  const stages: readonly Stage[] = isDisaggregated ? ["prefill", "decode"] : ["decode"];
  const matches = chooser.match(request, nowMs);
  const session = {
    prefill: chooser.boundTo(request, "prefill", nowMs),
    decode: chooser.boundTo(request, "decode", nowMs),
  };
  const conditional = isDisaggregated ? chooser.bypassDecision(request, matches, nowMs) : undefined;
  return {
    mode: isDisaggregated && conditional !== "bypassed" ? "disaggregated" : "aggregated",
    conditional,
    policyClass,
    waitedMs,
    session,
    stages: stages.map((stage) => ({
      stage,
      ranks: chooser.explain(request, stage, matches, session[stage], nowMs),
    })),
  };
}
