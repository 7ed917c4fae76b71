/** A plan as the decision log shows it. Ids are text: a JSON number above 2^53 is not what most readers read. */
import type { Leg, Plan, PlanExplanation, RankExplanation, Stage } from "../contracts.ts";
import type { RequestHints } from "./request-hints.ts";

type View = Readonly<Record<string, unknown>>;

export type ShownHints = Pick<RequestHints, "priorityJump" | "strictPriority" | "policyClass" | "sessionId">;

/** What a plan considered, cut to what is worth keeping with every decision. */
export interface Considered {
  readonly waitedMs: number;
  readonly conditional: string | undefined;
  readonly stages: readonly {
    readonly stage: Stage;
    /** The cheapest, cheapest first. */
    readonly ranks: readonly RankExplanation[];
    /** Dearer ones that are not shown. */
    readonly others: number;
    /** How many could not be chosen, by reason. */
    readonly excluded: ReadonlyMap<string, number>;
  }[];
}

/** Of each stage: the decision log keeps a thousand plans. */
const shownRanks = 8;

export function consideredOf({ stages, conditional, waitedMs }: PlanExplanation): Considered {
  return {
    waitedMs,
    conditional,
    stages: stages.map(({ stage, ranks }) => {
      const excluded = new Map<string, number>();
      const eligible: RankExplanation[] = [];
      for (const rank of ranks) {
        if (rank.excluded === undefined) eligible.push(rank);
        else excluded.set(rank.excluded, (excluded.get(rank.excluded) ?? 0) + 1);
      }
      eligible.sort((one, other) => (one.cost ?? 0) - (other.cost ?? 0));
      return {
        stage,
        ranks: eligible.slice(0, shownRanks),
        others: Math.max(0, eligible.length - shownRanks),
        excluded,
      };
    }),
  };
}

export function explainPlan(
  plan: Plan,
  promptTokens: number,
  hints: ShownHints,
  considered: Considered | undefined,
): View {
  return {
    mode: plan.mode,
    bookingId: plan.booking.id,
    promptTokens,
    ...hints,
    ...(plan.prefill === undefined ? {} : { prefill: legView(plan.prefill) }),
    decode: legView(plan.decode),
    ...(considered === undefined ? {} : { considered: consideredView(considered) }),
  };
}

function legView(leg: Leg): View {
  const { worker, dpRank, cost, activePrefillTokens, cachedTokens, deviceBlocks, hostBlocks, diskBlocks } = leg;
  const rank = { workerId: worker.id.toString(), dpRank, cost, activePrefillTokens };
  return { ...rank, cachedTokens, deviceBlocks, hostBlocks, diskBlocks };
}

function consideredView({ waitedMs, conditional, stages }: Considered): View {
  return {
    waitedMs,
    ...(conditional === undefined ? {} : { conditional }),
    stages: stages.map(({ stage, ranks, others, excluded }) => ({
      stage,
      ranks: ranks.map(({ workerId, dpRank, cost, terms }) => ({
        workerId: workerId.toString(),
        dpRank,
        cost,
        ...terms,
      })),
      others,
      excluded: Object.fromEntries(excluded),
    })),
  };
}
