import { describe, expect, it } from "@jest/globals";
import type { Picker } from "../../../../src/scheduling/contracts.ts";
import { maxScorePicker } from "../../../../src/scheduling/plugins/pickers/max-score-picker.ts";
import { randomPicker } from "../../../../src/scheduling/plugins/pickers/random-picker.ts";
import { weightedRandomPicker } from "../../../../src/scheduling/plugins/pickers/weighted-random-picker.ts";
import fc from "../../../properties.ts";
import { create, cycle, endpointsOf, seeded } from "../cycle-fixtures.ts";

/** How often each slot came first in `rounds` picks. */
function firsts(picker: Picker, totals: readonly number[], rounds: number): number[] {
  const random = seeded(11);
  const endpoints = endpointsOf(...totals.map(() => ({})));
  const counts = totals.map(() => 0);
  for (let i = 0; i < rounds; i++) {
    const slot = picker.pick(cycle({}, random), endpoints, Float64Array.from(totals))[0]?.slot ?? -1;
    counts[slot] = (counts[slot] ?? 0) + 1;
  }
  return counts;
}

const all: readonly [string, (most: number) => Picker][] = [
  ["max-score-picker", (most) => create(maxScorePicker, { maxNumOfEndpoints: most })],
  ["random-picker", (most) => create(randomPicker, { maxNumOfEndpoints: most })],
  ["weighted-random-picker", (most) => create(weightedRandomPicker, { maxNumOfEndpoints: most })],
];

describe.each(all)("%s", (_type, made) => {
  it("names the number asked for, without repetition, and at most all", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 6 }),
        fc.array(fc.double({ min: 0, max: 10, noNaN: true }), { minLength: 1, maxLength: 9 }),
        fc.integer(),
        (most, totals, seed) => {
          const endpoints = endpointsOf(...totals.map(() => ({})));
          const picked = made(most).pick(cycle({}, seeded(seed)), endpoints, Float64Array.from(totals));
          expect(picked).toHaveLength(Math.min(most, totals.length));
          expect(new Set(picked).size).toBe(picked.length);
          for (const endpoint of picked) expect(endpoints).toContain(endpoint);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("picks evenly when all totals are equal, zero included", () => {
    for (const total of [0, 1]) {
      for (const most of [1, 2]) {
        for (const count of firsts(made(most), [total, total, total, total], 4000)) {
          expect(Math.abs(count - 1000)).toBeLessThan(130);
        }
      }
    }
  });
});

describe("max-score-picker", () => {
  it("Scheduling 24: ties are broken at random among the best only", () => {
    const counts = firsts(create(maxScorePicker), [1, 3, 2, 3, 3], 3000);
    expect([counts[0], counts[2]]).toEqual([0, 0]);
    for (const slot of [1, 3, 4]) expect(Math.abs((counts[slot] ?? 0) - 1000)).toBeLessThan(120);
  });

  it("names fallbacks by descending total, ties at random", () => {
    const endpoints = endpointsOf({}, {}, {}, {});
    const orders = new Set<string>();
    const random = seeded(5);
    for (let i = 0; i < 100; i++) {
      const picked = create(maxScorePicker, { maxNumOfEndpoints: 3 }).pick(
        cycle({}, random),
        endpoints,
        Float64Array.of(1, 5, 1, 7),
      );
      orders.add(picked.map(({ slot }) => slot).join());
    }
    expect([...orders].sort()).toEqual(["3,1,0", "3,1,2"]);
  });

  it("draws no randomness without a tie", () => {
    const never = (): number => {
      throw new Error("drew");
    };
    expect(create(maxScorePicker).pick(cycle({}, never), endpointsOf({}, {}), Float64Array.of(1, 2))[0]?.slot).toBe(1);
  });
});

describe("random-picker", () => {
  it("ignores the totals", () => {
    for (const count of firsts(create(randomPicker), [100, 0, 1], 3000))
      expect(Math.abs(count - 1000)).toBeLessThan(120);
  });
});

describe("weighted-random-picker", () => {
  it("picks in proportion to the totals and never one of total 0", () => {
    const counts = firsts(create(weightedRandomPicker), [1, 3, 0, 6], 10_000);
    expect(counts[2]).toBe(0);
    for (const [slot, expected] of [
      [0, 1000],
      [1, 3000],
      [3, 6000],
    ] as const) {
      expect(Math.abs((counts[slot] ?? 0) - expected)).toBeLessThan(220);
    }
  });

  it("keeps the proportion where U^(1/w) would underflow", () => {
    const counts = firsts(create(weightedRandomPicker), [1e-6, 3e-6], 4000);
    expect(Math.abs((counts[0] ?? 0) - 1000)).toBeLessThan(140);
  });

  it("names endpoints of total 0 only as last fallbacks", () => {
    const picker = create(weightedRandomPicker, { maxNumOfEndpoints: 3 });
    const random = seeded(9);
    for (let i = 0; i < 50; i++) {
      const picked = picker.pick(cycle({}, random), endpointsOf({}, {}, {}), Float64Array.of(0, 1, 2));
      expect(picked[2]?.slot).toBe(0);
    }
  });
});
