/**
 * A multi-turn workload finds at least as much of its prompts cached through the picker as through Dynamo's own KV router: the same trace, the same
 * workers, the same settings. Wants a processor or two for itself: a request that waits for one counts as load meanwhile, and load takes requests
 * away from where they are cached.
 */
import { describe, expect, it } from "@jest/globals";
import { compareHitRates, hitRateTrace, type Layout } from "./hit-rate.ts";

/**
 * Which of two workers has the cheaper place depends on milliseconds, and equal costs are settled by lot in Dynamo: runs of one router over this trace
 * deviate by 0.004 from their mean, two runs by 0.006 from each other, and by more than this once in a hundred times.
 */
const chance = 0.015;
const minutes = 60_000;

describe("a multi-turn workload", () => {
  it.each<[Layout, number]>([
    ["aggregated", 400],
    ["disaggregated", 300],
  ])(
    "is found cached as often as by Dynamo's own router (%s, %i conversations)",
    async (layout, sessions) => {
      const trace = hitRateTrace({ sessions });
      expect(trace.requests.length).toBeGreaterThan(2 * sessions);
      const { dynamo, ours } = await compareHitRates(trace, layout);
      expect([dynamo.errors, ours.errors]).toEqual([0, 0]);
      expect(ours.promptTokens).toBe(dynamo.promptTokens);
      expect(dynamo.hitRate).toBeGreaterThan(0.5);
      expect(ours.hitRate).toBeGreaterThan(dynamo.hitRate - chance);
    },
    6 * minutes,
  );
});
