/** The prefix index against a model of Maps, and what the model does not see: widths, memory, work per call. */
import { describe, expect, it } from "@jest/globals";
import { addressOf, createAddressSecrets } from "../../../../src/data/prefix-index/block-address.ts";
import type { HolderBlocks } from "../../../../src/data/prefix-index/holder-blocks.ts";
import { PrefixIndex } from "../../../../src/data/prefix-index/prefix-index.ts";
import fc from "../../../properties.ts";

const fixedRandom = () => 0.372_911;

/** Hashes that all lie in one shard, near its end and its beginning, so that probe runs are long and wrap around. */
const crowded: readonly number[] = (() => {
  const secrets = createAddressSecrets(fixedRandom);
  const found: number[] = [];
  for (let low = 1; found.length < 48; low++) {
    const address = addressOf(secrets, low, 7);
    const isNearWrap = address >>> 28 === 15 || address >>> 28 === 0;
    if ((address & 255) === 3 && isNearWrap) found.push(low);
  }
  return found;
})();

function hashesOf(keys: readonly number[]): Uint32Array {
  return Uint32Array.from(keys.flatMap((key) => [crowded[key % crowded.length] ?? 0, 7]));
}

function sequence(from: number, count: number): Uint32Array {
  return Uint32Array.from({ length: 2 * count }, (_, i) =>
    i % 2 === 0 ? (from + i) >>> 0 : Math.imul(from + i, 0x9e3779b1) >>> 0,
  );
}

function depthsOf(index: PrefixIndex, holders: readonly HolderBlocks[], hashes: Uint32Array, ends: readonly number[]) {
  const alive = new Int32Array(Math.ceil(index.holderCount / 32));
  for (const { holder } of holders) alive[holder >>> 5] = (alive[holder >>> 5] ?? 0) | (1 << (holder & 31));
  const depths = new Int32Array(index.holderCount);
  index.match(hashes, ends, alive, new Int32Array(alive.length), depths);
  return holders.map(({ holder }) => depths[holder]);
}

/** One holder of the model: key → stamp, least recent first. */
interface ModelHolder {
  capacity: number;
  readonly blocks: Map<number, number>;
}

function insertIntoModel(model: ModelHolder, chains: readonly (readonly number[])[], stamp: number): void {
  for (const chain of chains) {
    for (const key of chain.slice(0, model.capacity).reverse()) {
      const before = model.blocks.get(key);
      model.blocks.delete(key);
      model.blocks.set(key, before === undefined || before === stamp ? stamp : 0);
    }
  }
  for (const key of model.blocks.keys()) {
    if (model.blocks.size <= model.capacity) break;
    model.blocks.delete(key);
  }
}

function matchInModel(model: ModelHolder, chains: readonly (readonly number[])[]): number {
  let sum = 0;
  for (const chain of chains) {
    const miss = chain.findIndex((key) => !model.blocks.has(key));
    sum += miss < 0 ? chain.length : miss;
  }
  return sum;
}

function endsOf(chains: readonly (readonly number[])[]): number[] {
  let end = 0;
  return chains.map((chain) => (end += chain.length));
}

const key = fc.nat({ max: crowded.length - 1 });
const chains = fc.array(fc.array(key, { maxLength: 12 }), { minLength: 1, maxLength: 3 });
const operation = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("insert" as const), at: fc.nat(), chains }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("forget" as const), at: fc.nat() }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("match" as const), chains }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("resize" as const), at: fc.nat(), capacity: fc.nat({ max: 40 }) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("attach" as const), capacity: fc.nat({ max: 40 }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("detach" as const), at: fc.nat() }) },
);

describe("the prefix index", () => {
  it("agrees with a model of Maps over any sequence of operations", () => {
    fc.assert(
      fc.property(fc.nat({ max: 70 }), fc.array(operation, { maxLength: 60 }), (idle, operations) => {
        const index = new PrefixIndex(fixedRandom);
        for (let i = 0; i < idle; i++) index.attach(1);
        const live: { readonly blocks: HolderBlocks; readonly model: ModelHolder }[] = [30, 8].map((capacity) => ({
          blocks: index.attach(capacity),
          model: { capacity, blocks: new Map() },
        }));
        const insertions: { blocks: HolderBlocks; model: ModelHolder; stamp: number; keys: number[] }[] = [];
        for (const step of operations) {
          switch (step.kind) {
            case "attach":
              live.push({ blocks: index.attach(step.capacity), model: { capacity: step.capacity, blocks: new Map() } });
              break;
            case "detach": {
              const [gone] = live.length === 0 ? [] : live.splice(step.at % live.length, 1);
              if (gone !== undefined) index.detach(gone.blocks);
              break;
            }
            case "resize": {
              const holder = live[step.at % live.length];
              if (holder === undefined) break;
              holder.blocks.capacity = step.capacity;
              holder.model.capacity = step.capacity;
              break;
            }
            case "insert": {
              const holder = live[step.at % live.length];
              if (holder === undefined) break;
              const stamp = index.insert(holder.blocks, hashesOf(step.chains.flat()), endsOf(step.chains));
              insertIntoModel(holder.model, step.chains, stamp);
              insertions.push({ ...holder, stamp, keys: step.chains.flat() });
              break;
            }
            case "forget": {
              const insertion = insertions[step.at % insertions.length];
              if (insertion === undefined) break;
              index.forget(insertion.blocks, insertion.stamp, hashesOf(insertion.keys));
              for (const block of insertion.keys) {
                if (insertion.model.blocks.get(block) === insertion.stamp) insertion.model.blocks.delete(block);
              }
              break;
            }
            case "match":
              expect(
                depthsOf(
                  index,
                  live.map(({ blocks }) => blocks),
                  hashesOf(step.chains.flat()),
                  endsOf(step.chains),
                ),
              ).toEqual(live.map(({ model }) => matchInModel(model, step.chains)));
              break;
          }
          expect(live.map(({ blocks }) => blocks.size)).toEqual(live.map(({ model }) => model.blocks.size));
          expect(index.blocks).toBe(new Set(live.flatMap(({ model }) => [...model.blocks.keys()])).size);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("credits only the blocks before the first one an endpoint misses", () => {
    const index = new PrefixIndex(fixedRandom);
    const whole = index.attach(100);
    const gap = index.attach(100);
    const hashes = sequence(1, 6);
    index.insert(whole, hashes, [6]);
    index.insert(gap, hashes.subarray(0, 4), [2]);
    index.insert(gap, hashes.subarray(6), [3]);
    expect(depthsOf(index, [whole, gap], hashes, [6])).toEqual([6, 2]);
  });

  it("evicts the tail of the least recent prompt first, so that its head stays a hit", () => {
    const index = new PrefixIndex(fixedRandom);
    const holder = index.attach(10);
    const first = sequence(1, 8);
    index.insert(holder, first, [8]);
    index.insert(holder, sequence(1_000, 5), [5]);
    expect(depthsOf(index, [holder], first, [8])).toEqual([5]);
  });

  it("keeps the head of a prompt longer than the capacity", () => {
    const index = new PrefixIndex(fixedRandom);
    const holder = index.attach(10);
    const hashes = sequence(1, 25);
    index.insert(holder, hashes, [25]);
    expect(depthsOf(index, [holder], hashes, [25])).toEqual([10]);
  });

  it("takes back only what the failed request brought and nobody else has touched", () => {
    const index = new PrefixIndex(fixedRandom);
    const holder = index.attach(100);
    const hashes = sequence(1, 9);
    index.insert(holder, hashes.subarray(0, 6), [3]);
    const failed = index.insert(holder, hashes, [9]);
    index.insert(holder, hashes.subarray(0, 10), [5]);
    index.forget(holder, failed, hashes);
    expect(depthsOf(index, [holder], hashes, [9])).toEqual([5]);
  });

  it.each([1, 64, 65, 300])("matches %i holders, each to its own depth", (count) => {
    const index = new PrefixIndex(fixedRandom);
    const hashes = sequence(1, 320);
    const holders = Array.from({ length: count }, () => index.attach(1_000));
    for (const [i, holder] of holders.entries()) index.insert(holder, hashes.subarray(0, 2 * i), [i]);
    expect(depthsOf(index, holders, hashes, [320])).toEqual(holders.map((_, i) => i));
  });

  it("clears a holder that left in slices, and reuses its number only then", () => {
    const index = new PrefixIndex(fixedRandom);
    const gone = index.attach(10_000);
    const hashes = sequence(1, 3_000);
    index.insert(gone, hashes, [3_000]);
    const before = index.blocks;
    index.detach(gone);
    expect(before - index.blocks).toBeLessThan(1_000);
    const next = index.attach(10_000);
    expect(next.holder).not.toBe(gone.holder);
    for (let i = 0; i < 10; i++) index.insert(next, sequence(90_000, 1), [1]);
    expect(index.blocks).toBe(1);
    expect(index.attach(5).holder).toBe(gone.holder);
  });

  it("inserts nothing for a holder that has left", () => {
    const index = new PrefixIndex(fixedRandom);
    const gone = index.attach(100);
    index.detach(gone);
    index.detach(gone);
    index.insert(gone, sequence(1, 5), [5]);
    expect([index.isAttached(gone), index.blocks]).toEqual([false, 0]);
  });

  it("gives memory back when capacities shrink", () => {
    const index = new PrefixIndex(Math.random);
    const holder = index.attach(40_000);
    index.insert(holder, sequence(1, 40_000), [40_000]);
    const full = index.sizeBytes;
    holder.capacity = 100;
    for (let i = 0; i < 100; i++) index.insert(holder, sequence(1, 50), [50]);
    expect(holder.size).toBe(100);
    expect(index.sizeBytes).toBeLessThan(full / 8);
  });

  it("stays within the stated bytes per block at capacity", () => {
    const index = new PrefixIndex(Math.random);
    const holders = Array.from({ length: 8 }, () => index.attach(20_000));
    holders.forEach((holder, i) => {
      for (let from = 0; from < 30_000; from += 1_000) {
        index.insert(holder, sequence(i * 1_000_000 + 2 * from, 1_000), [1_000]);
      }
    });
    expect(index.blocks).toBe(160_000);
    expect(index.sizeBytes / 160_000).toBeLessThan(32 + 46);
  });

  it("leaves out the all-zero hash, which marks a free entry", () => {
    const index = new PrefixIndex(fixedRandom);
    const holder = index.attach(100);
    const hashes = sequence(1, 4);
    hashes.fill(0, 4, 6);
    const stamp = index.insert(holder, hashes, [4]);
    expect([index.blocks, holder.size]).toEqual([3, 3]);
    expect(depthsOf(index, [holder], hashes, [4])).toEqual([2]);
    index.forget(holder, stamp, hashes);
    expect([index.blocks, holder.size]).toEqual([0, 0]);
  });
});
