import { describe, expect, it } from "@jest/globals";
import { chooseCost, type TieBreak } from "../../../../src/prefill-router/stage/choice.ts";

function choose(costs: readonly number[], temperature: number, sample: number): number {
  const scratch = new Float64Array(costs.length);
  return chooseCost(Float64Array.from(costs), costs.length, temperature, tiesOf(costs), () => sample, scratch);
}

/** Nothing to tell them apart, unless given. */
function tiesOf(costs: readonly number[], values: readonly number[] = []): TieBreak {
  return {
    values: Float64Array.from(costs, (_, index) => values[index] ?? 0),
    slots: Int32Array.from(costs, (_, index) => index),
  };
}

describe("a choice among costs", () => {
  it("is the least at temperature 0", () => {
    expect(choose([3, 1, 2], 0, 0.5)).toBe(1);
    expect(choose([3], 0, 0.5)).toBe(0);
  });

  it.each([
    ["the one that computed least of late", [2, 1, 1, 1], [0, 9, 3, 4], [2, 2, 2]],
    ["lots where that is equal too", [1, 1, 5, 1], [3, 3, 0, 3], [3, 1, 0]],
    ["never a dearer one", [1, 1, 2], [8, 7, 0], [1, 1, 1]],
  ] as const)("takes of equal costs %s", (_name, costs, computed, chosen) => {
    const ties = tiesOf(costs, computed);
    const scratch = new Float64Array(costs.length);
    const draw = (sample: number): number =>
      chooseCost(Float64Array.from(costs), costs.length, 0, ties, () => sample, scratch);
    expect([draw(0), draw(0.4), draw(0.99)]).toEqual(chosen);
  });

  it("asks for a number only where costs are equal", () => {
    let asked = 0;
    const random = () => {
      asked++;
      return 0.99;
    };
    const scratch = new Float64Array(4);
    expect(chooseCost(Float64Array.of(3, 1, 2, 4), 4, 0, tiesOf([3, 1, 2, 4]), random, scratch)).toBe(1);
    expect(asked).toBe(0);
    expect(chooseCost(Float64Array.of(1, 1, 2, 1), 4, 0, tiesOf([1, 1, 2, 1]), random, scratch)).toBe(0);
    expect(asked).toBe(2);
  });

  it.each([
    ["any of equal costs", [5, 5, 5, 5], 1, [0.25, 0.25, 0.25, 0.25]],
    ["cheaper ones more often", [0, 10], 1, [1 / (1 + Math.exp(-1)), Math.exp(-1) / (1 + Math.exp(-1))]],
    ["by their range, whatever the load", [1000, 1010], 1, [1 / (1 + Math.exp(-1)), Math.exp(-1) / (1 + Math.exp(-1))]],
    ["almost evenly when hot", [0, 10], 1e9, [0.5, 0.5]],
    ["the least when cold", [7, 0, 9], 1e-3, [0, 1, 0]],
    [
      "costs further apart than a number reaches",
      [-1e308, 1e308],
      1,
      [1 / (1 + Math.exp(-1)), Math.exp(-1) / (1 + Math.exp(-1))],
    ],
  ] as const)("draws %s above 0", (_name, costs, temperature, shares) => {
    const draws = 2000;
    const counts = costs.map(() => 0);
    for (let draw = 0; draw < draws; draw++) {
      const index = choose(costs, temperature, (draw + 0.5) / draws);
      counts[index] = (counts[index] ?? 0) + 1;
    }
    for (const [index, share] of shares.entries())
      expect(Math.abs((counts[index] ?? 0) / draws - share)).toBeLessThan(0.002);
  });
});
