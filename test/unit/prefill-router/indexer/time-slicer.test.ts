/** Long jobs beside each other on one event loop. */
import { describe, expect, it } from "@jest/globals";
import { TimeSlicer } from "../../../../src/prefill-router/indexer/time-slicer.ts";

describe("the time slicer", () => {
  it("gives every job its turn, however long another takes", async () => {
    let nowMs = 0;
    const slicer = new TimeSlicer(3, () => nowMs);
    const order: string[] = [];
    const job = (name: string, steps: number): Promise<void> =>
      slicer.run({
        step: () => {
          nowMs += 2;
          order.push(name);
          return --steps === 0;
        },
      });
    const long = job("long", 100);
    await Promise.all([job("short", 2), job("shorter", 1)]);
    expect(order.slice(0, 5)).toEqual(["long", "short", "shorter", "long", "short"]);
    await long;
    expect(order).toHaveLength(103);
    expect(slicer.longestMs).toBeLessThanOrEqual(4);
  });

  it("goes on with the others when one fails", async () => {
    const slicer = new TimeSlicer(3, () => 0);
    const failing = slicer.run({
      step: () => {
        throw new Error("broken");
      },
    });
    let isDone = false;
    const other = slicer.run({ step: () => (isDone = true) });
    await expect(failing).rejects.toThrow("broken");
    await other;
    expect(isDone).toBe(true);
  });
});
