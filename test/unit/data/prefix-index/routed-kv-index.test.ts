/** Indices that learn from routing decisions: the approximate one against a model of expiry times, and predictions over the exact one. */
import { describe, expect, it } from "@jest/globals";
import { createApproximateKvIndex } from "../../../../src/data/prefix-index/approximate-kv-index.ts";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import type { KvMatcher } from "../../../../src/data/prefix-index/kv-index.ts";
import { createPredictedKvIndex } from "../../../../src/data/prefix-index/predicted-kv-index.ts";
import { createTokenHasher } from "../../../../src/tokens/block-hash.ts";
import fc from "../../../properties.ts";

const hasher = createTokenHasher();
const random = () => 0.372_911;
const startMs = 1_790_000_000_000;

function tokensOf(path: readonly number[]): Uint32Array {
  return Uint32Array.from(path.flatMap((block) => [Math.imul(block + 1, 0x9e3779b1) >>> 0, block]));
}

function sequenceOf(path: readonly number[]): Uint32Array {
  const out = new Uint32Array(2 * path.length);
  hasher.chain(0, 0, false, tokensOf(path), 0, path.length, out, 0);
  return out;
}

function depthsOf(index: KvMatcher, path: readonly number[], nowMs: number): number[] {
  const matches = index.createMatches();
  matches.device.fill(99);
  index.match(sequenceOf(path), matches, nowMs);
  return Array.from(matches.device.subarray(0, index.holderCount));
}

const path = fc.array(fc.nat({ max: 2 }), { maxLength: 6 });
const operation = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("route" as const), at: fc.nat(), path }) },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant("match" as const), path }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("wait" as const), ticks: fc.nat({ max: 12 }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("clear" as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("detach" as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("attach" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("upkeep" as const) }) },
);

describe("the approximate index", () => {
  it("agrees with a model of expiry times", () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
        const index = createApproximateKvIndex({ random, ttlMs: 1_000 });
        let nowMs = startMs;
        index.upkeep(nowMs);
        const live = Array.from({ length: 3 }, () => ({ holder: index.attach(), ends: new Map<string, number>() }));
        for (const step of operations) {
          const one = "at" in step ? live[step.at % Math.max(1, live.length)] : undefined;
          switch (step.kind) {
            case "route":
              if (one === undefined) break;
              index.routed(one.holder, sequenceOf(step.path), nowMs);
              for (let end = 1; end <= step.path.length; end++) {
                one.ends.set(step.path.slice(0, end).join(), nowMs + 1_000);
              }
              break;
            case "match": {
              const depths = depthsOf(index, step.path, nowMs);
              for (const { holder, ends } of live) {
                let depth = 0;
                while (depth < step.path.length && (ends.get(step.path.slice(0, depth + 1).join()) ?? 0) > nowMs)
                  depth++;
                expect(depths[holder]).toBe(depth);
              }
              break;
            }
            case "wait":
              nowMs += 100 * step.ticks;
              break;
            case "clear":
              if (one === undefined) break;
              index.cleared(one.holder);
              one.ends.clear();
              break;
            case "detach":
              if (one === undefined) break;
              index.detach(one.holder);
              live.splice(live.indexOf(one), 1);
              break;
            case "attach":
              live.push({ holder: index.attach(), ends: new Map() });
              break;
            case "upkeep":
              while (index.upkeep(nowMs));
              break;
          }
        }
        nowMs += 2_000;
        while (index.upkeep(nowMs));
        expect([index.blocks, index.heldBlocks]).toEqual([0, 0]);
      }),
      { numRuns: 200 },
    );
  });

  it("keeps a block for its time after the last routing, and up to a tick more", () => {
    const index = createApproximateKvIndex({ random, ttlMs: 120_000 });
    const holder = index.attach();
    index.routed(holder, sequenceOf([1, 2, 3]), startMs);
    index.routed(holder, sequenceOf([1, 2]), startMs + 60_050);
    expect(depthsOf(index, [1, 2, 3], startMs + 119_999)).toEqual([3]);
    expect(depthsOf(index, [1, 2, 3], startMs + 120_100)).toEqual([2]);
    expect(depthsOf(index, [1, 2, 3], startMs + 180_049)).toEqual([2]);
    expect(depthsOf(index, [1, 2, 3], startMs + 180_150)).toEqual([0]);
  });

  it("matches nothing that has expired, however much of it waits to be removed", () => {
    const index = createApproximateKvIndex({ random, ttlMs: 1_000 });
    const holder = index.attach();
    const long = Array.from({ length: 20_000 }, (_, i) => i);
    index.routed(holder, sequenceOf(long), startMs);
    index.routed(holder, sequenceOf(long.slice(0, 7)), startMs + 500);
    expect(depthsOf(index, long, startMs + 1_200)).toEqual([7]);
    expect(index.heldBlocks).toBeGreaterThan(15_000);
    expect(depthsOf(index, long, startMs + 1_700)).toEqual([0]);
    while (index.upkeep(startMs + 1_700));
    expect(index.heldBlocks).toBe(0);
  });

  it("never lets time go back", () => {
    const index = createApproximateKvIndex({ random, ttlMs: 1_000 });
    const holder = index.attach();
    index.routed(holder, sequenceOf([1]), startMs + 5_000);
    index.routed(holder, sequenceOf([2]), startMs);
    expect(depthsOf(index, [2], startMs)).toEqual([1]);
    expect(depthsOf(index, [2], startMs + 6_200)).toEqual([0]);
  });

  it("keeps to each rank's capacity, shallow blocks last to go", () => {
    const index = createApproximateKvIndex({ random, blocksPerHolder: 10 });
    const [a, b, small] = [index.attach(), index.attach(), index.ownHolders.attach(4)];
    const long = Array.from({ length: 16 }, (_, i) => i);
    index.routed(a, sequenceOf(long), startMs);
    expect(depthsOf(index, long, startMs + 1e9)).toEqual([10, 0, 0]);
    index.routed(a, sequenceOf([90, 91, 92, 93]), startMs + 1e9);
    expect(depthsOf(index, long, startMs + 1e9)).toEqual([6, 0, 0]);
    index.routed(b, sequenceOf([1]), startMs + 1e9);
    index.routed(small, sequenceOf(long), startMs + 1e9);
    while (index.upkeep(startMs + 1e9));
    expect([index.blocksOf(a), index.blocksOf(b), index.blocksOf(small)]).toEqual([10, 1, 4]);
  });

  it("ignores what is routed to a holder that has left", () => {
    const index = createApproximateKvIndex({ random, ttlMs: 1_000 });
    const holder = index.ownHolders.attach();
    index.ownHolders.detach(holder);
    index.routed(holder, sequenceOf([1]), startMs);
    expect([index.heldBlocks, index.holderCount]).toEqual([0, 0]);
  });

  it("gives a seat again and again without growing", () => {
    const index = createApproximateKvIndex({ random, ttlMs: 1_000 });
    for (let round = 0; round < 500; round++) {
      const holder = index.attach();
      index.routed(holder, sequenceOf([round, 1, 2]), startMs + round);
      index.detach(holder);
    }
    while (index.upkeep(startMs + 1_000));
    expect([index.blocks, index.holderCount]).toEqual([0, 0]);
    expect(index.sizeBytes).toBeLessThan(100_000);
  });
});

describe("predictions over the exact index", () => {
  function stored(
    index: ReturnType<typeof createPredictedKvIndex>,
    holder: number,
    blocks: readonly number[],
    tier: 0 | 1,
  ) {
    return index.stored(holder, tier, 0, 0, false, sequenceOf(blocks), tokensOf(blocks), 0, blocks.length);
  }

  it("take the larger match of both by holder, for as long as the prediction lasts", () => {
    const index = createPredictedKvIndex(createKvIndex({ random }), { random, ttlMs: 5_000 });
    const [a, b, c] = [index.attach(), index.attach(), index.attach()];
    stored(index, a, [1, 2, 3], 0);
    index.routed(a, sequenceOf([1, 2]), startMs);
    index.routed(b, sequenceOf([1, 2]), startMs);
    expect(depthsOf(index, [1, 2, 3, 4], startMs + 4_999)).toEqual([3, 2, 0]);
    expect(depthsOf(index, [1, 2, 3, 4], startMs + 5_200)).toEqual([3, 0, 0]);
    expect(c).toBe(2);
  });

  it("leave the lower tiers to what events have told", () => {
    const index = createPredictedKvIndex(createKvIndex({ random }), { random, ttlMs: 5_000 });
    const holder = index.attach();
    stored(index, holder, [1, 2, 3], 1);
    index.routed(holder, sequenceOf([1, 2]), startMs);
    const matches = index.createMatches();
    index.match(sequenceOf([1, 2, 3]), matches, startMs);
    expect([matches.device[holder], matches.host[holder]]).toEqual([2, 3]);
  });

  it("survive a clear and end with their holder", () => {
    const index = createPredictedKvIndex(createKvIndex({ random }), { random, ttlMs: 5_000 });
    const holder = index.attach();
    stored(index, holder, [1, 2, 3], 0);
    index.routed(holder, sequenceOf([1]), startMs);
    index.cleared(holder);
    expect(depthsOf(index, [1, 2], startMs)).toEqual([1]);
    index.detach(holder);
    expect(index.attach()).toBe(holder);
    expect(depthsOf(index, [1, 2], startMs)).toEqual([0]);
    while (index.upkeep(startMs));
    expect([index.blocks, index.heldBlocks, index.blocksOf(holder)]).toEqual([0, 0, 0]);
  });

  it("need no time where none is known yet", () => {
    const index = createPredictedKvIndex(createKvIndex({ random }), { random, ttlMs: 5_000 });
    const holder = index.attach();
    stored(index, holder, [1], 0);
    const matches = index.createMatches();
    index.match(sequenceOf([1]), matches);
    expect([matches.device[holder], index.upkeep()]).toEqual([1, false]);
    index.routed(holder, sequenceOf([1, 2]), startMs);
    index.match(sequenceOf([1, 2]), matches);
    expect(matches.device[holder]).toBe(2);
  });
});
