import { describe, expect, it } from "@jest/globals";
import { ambiguousSalt, BlockReferences } from "../../../../src/data/kv-events/block-references.ts";
import type { StorageTier } from "../../../../src/data/prefix-index/kv-index.ts";
import fc from "../../../properties.ts";

const tiers = fc.constantFrom<StorageTier>(0, 1, 2, 3);
/** Few blocks, so that they are met again, some of them neighbours. */
const blocks = fc.integer({ min: 0, max: 400 });

describe("references of blocks", () => {
  it("count as a map of block and tier does", () => {
    const step = fc.tuple(fc.constantFrom("add", "add", "remove", "clear"), blocks, tiers);
    fc.assert(
      fc.property(fc.array(step, { maxLength: 1500, size: "max" }), (steps) => {
        const references = new BlockReferences(100_000);
        const model = new Map<string, number>();
        for (const [kind, block, tier] of steps) {
          const [low, high] = [Math.imul(block, 0x01000193) >>> 0, block % 3];
          const key = `${block}/${tier}`;
          const held = model.get(key) ?? 0;
          if (kind === "add") {
            references.add(low, high, tier, 0);
            model.set(key, held + 1);
          } else if (kind === "remove") {
            expect(references.remove(low, high, tier)).toBe(held === 0 ? -1 : held - 1);
            if (held > 1) model.set(key, held - 1);
            else model.delete(key);
          } else if (block === 0) {
            references.clear();
            model.clear();
          }
        }
        expect(references.size).toBe(new Set([...model.keys()].map((key) => key.split("/")[0])).size);
      }),
      { numRuns: 20 },
    );
  });

  it("remember the salt of a block, and that it was stored under two", () => {
    const references = new BlockReferences(100);
    references.add(1, 2, 0, 7);
    expect(references.saltOf(1, 2)).toBe(7);
    expect(references.saltOf(2, 1)).toBe(0);
    references.add(1, 2, 1, 7);
    expect(references.saltOf(1, 2)).toBe(7);
    references.add(1, 2, 0, 0);
    expect(references.saltOf(1, 2)).toBe(ambiguousSalt);
    for (const tier of [0, 0, 1] as const) references.remove(1, 2, tier);
    references.add(1, 2, 0, 0);
    expect(references.saltOf(1, 2)).toBe(0);
  });

  it("keep the salts of all blocks while the table grows and shrinks", () => {
    const references = new BlockReferences(10_000);
    for (let block = 0; block < 5000; block++) references.add(block, 0, 0, block % 9);
    for (let block = 0; block < 5000; block += 2) references.remove(block, 0, 0);
    for (let block = 1; block < 5000; block += 2) expect(references.saltOf(block, 0)).toBe(block % 9);
    expect(references.size).toBe(2500);
  });

  it("say when there is no room", () => {
    const references = new BlockReferences(3);
    references.add(1, 0, 0, 0);
    references.add(2, 0, 0, 0);
    expect([references.hasRoom(1), references.hasRoom(2)]).toEqual([true, false]);
  });
});
