import { describe, expect, it } from "@jest/globals";
import { PrefixIndex } from "../../../../src/data/prefix-index/prefix-index.ts";
import fc from "../../../properties.ts";

const hashesOf = (blocks: readonly number[]): Uint32Array => Uint32Array.from(blocks.flatMap((block) => [block, 7]));
const blocksOf = (words: Int32Array): number[] => Array.from(words).filter((_, at) => at % 2 === 0);

describe("blocks that a holder is filled with", () => {
  it("come after all that it has, in their order, as far as there is room", () => {
    const prompt = fc.uniqueArray(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(
        fc.array(prompt, { maxLength: 6 }),
        prompt,
        prompt,
        fc.integer({ min: 1, max: 30 }),
        (own, known, later, capacity) => {
          const index = new PrefixIndex(() => 0.3);
          const blocks = index.attach(capacity);
          for (const one of own) index.insert(blocks, hashesOf(one), [one.length]);
          const before = blocksOf(blocks.recent(100));
          index.fill(blocks, hashesOf(known));
          const room = Math.max(0, capacity - before.length);
          const fresh = known.filter((block) => !before.includes(block)).slice(0, room);
          const after = [...before, ...fresh];
          expect(blocksOf(blocks.recent(100))).toEqual(after);
          expect(blocks.size).toBe(after.length);
          // What is touched next pushes out from the end.
          index.insert(blocks, hashesOf(later), [later.length]);
          const touched = later.slice(0, capacity);
          const kept = [...touched, ...after.filter((block) => !touched.includes(block))].slice(0, capacity);
          expect(blocksOf(blocks.recent(100))).toEqual(kept);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("cannot be taken back by the insertion of anybody, and are found by a match", () => {
    const index = new PrefixIndex(() => 0.3);
    const blocks = index.attach(10);
    index.fill(blocks, hashesOf([1, 2, 3]));
    index.forget(blocks, index.insert(blocks, hashesOf([9]), [1]), hashesOf([1, 2, 3]));
    const depths = new Int32Array(64);
    index.match(hashesOf([1, 2, 3, 4]), [4], Int32Array.of(1, 0), new Int32Array(2), depths);
    expect(depths[blocks.holder]).toBe(3);
  });

  it("are told no further than asked for", () => {
    const index = new PrefixIndex(() => 0.3);
    const blocks = index.attach(10);
    index.insert(blocks, hashesOf([1, 2, 3]), [3]);
    expect(blocksOf(blocks.recent(2))).toEqual([1, 2]);
    expect(blocksOf(blocks.recent(0))).toEqual([]);
  });
});
