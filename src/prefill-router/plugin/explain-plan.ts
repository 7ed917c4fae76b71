/** A plan as the decision log shows it. Ids are text: a JSON number above 2^53 is not what most readers read. */
import type { Leg, Plan } from "../contracts.ts";
import type { RequestHints } from "./request-hints.ts";

type View = Readonly<Record<string, unknown>>;

export type ShownHints = Pick<RequestHints, "priorityJump" | "strictPriority" | "policyClass" | "sessionId">;

export function explainPlan(plan: Plan, promptTokens: number, hints: ShownHints): View {
  return {
    mode: plan.mode,
    bookingId: plan.booking.id,
    promptTokens,
    ...hints,
    ...(plan.prefill === undefined ? {} : { prefill: legView(plan.prefill) }),
    decode: legView(plan.decode),
  };
}

function legView({ worker, dpRank, deviceBlocks, hostBlocks, diskBlocks, cachedTokens, cost }: Leg): View {
  return { workerId: worker.id.toString(), dpRank, cost, cachedTokens, deviceBlocks, hostBlocks, diskBlocks };
}
