import { describe, expect, it } from "@jest/globals";
import { ShareCounts } from "../../../../src/prefill-router/stage/share-counts.ts";
import fc from "../../../properties.ts";

describe("share counts", () => {
  it("are those of a map, through growth and deletion", () => {
    const key = fc.record({
      node: fc.integer({ min: 0, max: 60 }),
      slot: fc.integer({ min: 0, max: 9 }),
      isMore: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(key, { maxLength: 1200, size: "max" }), (steps) => {
        const counts = new ShareCounts();
        const model = new Map<string, number>();
        const wrong: string[] = [];
        for (const { node, slot, isMore } of steps) {
          const name = `${node}/${slot}`;
          const count = model.get(name) ?? 1;
          if (isMore) counts.increment(node, slot);
          else if (counts.decrement(node, slot) !== count > 1) wrong.push(name);
          if (isMore) model.set(name, count + 1);
          else if (count > 2) model.set(name, count - 1);
          else model.delete(name);
        }
        for (let node = 0; node <= 60; node++) {
          for (let slot = 0; slot < 10; slot++) {
            if (counts.isShared(node, slot) !== model.has(`${node}/${slot}`)) wrong.push(`${node}/${slot} at the end`);
          }
        }
        expect(wrong).toEqual([]);
      }),
      { numRuns: 20 },
    );
  });

  it("give their memory back", () => {
    const counts = new ShareCounts();
    const empty = counts.sizeBytes;
    for (let node = 0; node < 5000; node++) counts.increment(node, 3);
    expect(counts.sizeBytes).toBeGreaterThan(empty * 10);
    for (let node = 0; node < 5000; node++) expect(counts.decrement(node, 3)).toBe(true);
    expect(counts.sizeBytes).toBe(empty);
  });
});
