import { describe, expect, it } from "@jest/globals";
import { EntryHeap } from "../../../../src/prefill-router/queue/entry-heap.ts";
import { QueueEntry } from "../../../../src/prefill-router/queue/queue-entry.ts";
import fc from "../../../properties.ts";

describe("EntryHeap", () => {
  it("gives entries in order whichever of them were removed from its middle", () => {
    const scores = fc.array(fc.nat({ max: 40 }), { maxLength: 60, size: "max" });
    fc.assert(
      fc.property(scores, fc.array(fc.nat({ max: 60 }), { maxLength: 30, size: "max" }), (values, removals) => {
        const heap = new EntryHeap<number>();
        const entries = values.map(
          (score, sequence) =>
            new QueueEntry(sequence, 0, undefined, 0, score, sequence, { rawTokens: 1, cachedTokens: 0 }),
        );
        for (const entry of entries) heap.push(entry);
        const gone = new Set<QueueEntry<number>>();
        for (const index of removals) {
          const entry = entries[index];
          if (entry === undefined) continue;
          expect(heap.remove(entry)).toBe(!gone.has(entry));
          gone.add(entry);
        }
        const order: number[] = [];
        for (let first = heap.first; first !== undefined; first = heap.first) {
          order.push(first.payload);
          expect(heap.remove(first)).toBe(true);
          expect(first.position).toBe(-1);
        }
        const expected = entries.filter((entry) => !gone.has(entry));
        expected.sort((a, b) => b.score - a.score || a.sequence - b.sequence);
        expect(order).toEqual(expected.map((entry) => entry.payload));
      }),
      { numRuns: 300 },
    );
  });
});
