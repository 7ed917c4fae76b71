import { describe, expect, it } from "@jest/globals";
import type { PlanExplanation, RankExplanation } from "../../../../src/prefill-router/contracts.ts";
import { consideredOf } from "../../../../src/prefill-router/plugin/explain-plan.ts";

const eligible = (id: bigint, cost: number): RankExplanation => ({
  workerId: id,
  dpRank: 0,
  excluded: undefined,
  cost,
  terms: { prefillBlocks: cost },
});
const excluded = (id: bigint, why: string): RankExplanation => ({
  workerId: id,
  dpRank: 0,
  excluded: why,
  cost: undefined,
  terms: {},
});

function explanation(ranks: readonly RankExplanation[]): PlanExplanation {
  return {
    mode: "aggregated",
    conditional: undefined,
    policyClass: "default",
    waitedMs: 3,
    session: { prefill: undefined, decode: undefined },
    stages: [{ stage: "decode", ranks }],
  };
}

describe("what a plan considered", () => {
  it("is kept as the cheapest ranks in order, a count of the others, and why the rest could not be chosen", () => {
    const many = Array.from({ length: 11 }, (_, index) => eligible(BigInt(index), (index * 7) % 11));
    const left = [excluded(20n, "it is suspect"), excluded(21n, "it is suspect"), excluded(22n, "it is busy")];
    const { waitedMs, stages } = consideredOf(explanation([...left, ...many]));
    expect(waitedMs).toBe(3);
    expect(stages[0]?.ranks.map(({ cost }) => cost)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    expect(stages[0]?.others).toBe(3);
    expect([...(stages[0]?.excluded ?? [])]).toEqual([
      ["it is suspect", 2],
      ["it is busy", 1],
    ]);
  });
});
