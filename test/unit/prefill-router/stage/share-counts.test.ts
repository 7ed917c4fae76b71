import { describe, expect, it } from "@jest/globals";
import fc from "fast-check";
import { ShareCounts } from "../../../../src/prefill-router/stage/share-counts.ts";

describe("share counts", () => {
  it("are those of a map, through growth and deletion", () => {
    const key = fc.record({
      node: fc.integer({ min: 0, max: 60 }),
      slot: fc.integer({ min: 0, max: 9 }),
      isMore: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(key, { maxLength: 2000, size: "max" }), (steps) => {
        const counts = new ShareCounts();
        const model = new Map<string, number>();
        for (const { node, slot, isMore } of steps) {
          const name = `${node}/${slot}`;
          const count = model.get(name) ?? 1;
          if (isMore) {
            counts.increment(node, slot);
            model.set(name, count + 1);
          } else {
            expect(counts.decrement(node, slot)).toBe(count > 1);
            if (count > 2) model.set(name, count - 1);
            else model.delete(name);
          }
          expect(counts.isShared(node, slot)).toBe(model.has(name));
        }
        for (let node = 0; node <= 60; node++) {
          for (let slot = 0; slot < 10; slot++) expect(counts.isShared(node, slot)).toBe(model.has(`${node}/${slot}`));
        }
      }),
      { numRuns: 30 },
    );
  });

  it("give their memory back", () => {
    const counts = new ShareCounts();
    const empty = counts.sizeBytes;
    for (let node = 0; node < 5000; node++) counts.increment(node, 3);
    expect(counts.sizeBytes).toBeGreaterThan(empty * 50);
    for (let node = 0; node < 5000; node++) expect(counts.decrement(node, 3)).toBe(true);
    expect(counts.sizeBytes).toBe(empty);
  });
});
