import { describe, expect, it } from "@jest/globals";
import { growthPercent } from "../../../src/app/collector.ts";

const MiB = 2 ** 20;

describe("the room that the heap is given before it is collected", () => {
  it.each([
    ["of a small process is four times what survives", 15, 60, 400],
    ["of a large one is a size, not a share", 65, 90, 120],
    ["counts what there is now when that is much, whatever survived last", 15, 160, 50],
    ["is never nothing", 1000, 1000, 20],
  ])("%s", (_what, survivedMiB, usedMiB, percent) => {
    expect(growthPercent(survivedMiB * MiB, usedMiB * MiB)).toBe(percent);
  });

  it("lets nothing that survives up to 80 MiB grow by more than 80 MiB", () => {
    for (let survived = 20; survived <= 80; survived++) {
      expect((survived * growthPercent(survived * MiB, survived * MiB)) / 100).toBeLessThanOrEqual(80);
    }
  });
});
