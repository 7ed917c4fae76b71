/** The exact index against a model of sets, with every way an engine may name its blocks, and what the model does not see: slices, bounds, memory. */
import { describe, expect, it } from "@jest/globals";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import type { Holder, KvIndex, StorageTier } from "../../../../src/data/prefix-index/kv-index.ts";
import { createTokenHasher } from "../../../../src/tokens/block-hash.ts";
import fc from "../../../properties.ts";

const hasher = createTokenHasher();
const random = () => 0.372_911;

/** A chain of blocks, each told by one small number: what its tokens are. */
type Path = readonly number[];

function tokensOf(path: Path): Uint32Array {
  return Uint32Array.from(path.flatMap((block) => [Math.imul(block + 1, 0x9e3779b1) >>> 0, block]));
}

function sequenceOf(path: Path): Uint32Array {
  const out = new Uint32Array(2 * path.length);
  hasher.chain(0, 0, false, tokensOf(path), 0, path.length, out, 0);
  return out;
}

const namings = {
  /** The mocker's: the sequence hash itself. */
  own: (sequence: Uint32Array) => sequence,
  /** Another function of the same tokens. */
  opaque: (sequence: Uint32Array) => sequence.map((word) => (Math.imul(word, 0x85ebca6b) ^ 0x5bd1e995) >>> 0),
  /** Every engine by itself. */
  perHolder: (sequence: Uint32Array, holder: Holder) =>
    sequence.map((word) => (Math.imul(word ^ holder, 0x85ebca6b) ^ 0x1234567) >>> 0),
} as const;
type Naming = keyof typeof namings;

function namesOf(naming: Naming, holder: Holder, path: Path): Uint32Array {
  return namings[naming](sequenceOf(path), holder);
}

function store(
  index: KvIndex,
  holder: Holder,
  path: Path,
  from = 0,
  { tier = 0 as StorageTier, naming = "own" as Naming } = {},
) {
  const names = namesOf(naming, holder, path);
  return index.stored(
    holder,
    tier,
    from > 0 ? (names[2 * from - 2] ?? 0) : 0,
    from > 0 ? (names[2 * from - 1] ?? 0) : 0,
    from > 0,
    names,
    tokensOf(path),
    from,
    path.length - from,
  );
}

/** Removes the last block of each path in one event. */
function remove(
  index: KvIndex,
  holder: Holder,
  paths: readonly Path[],
  { tier = 0 as StorageTier, naming = "own" as Naming } = {},
): void {
  const hashes = Uint32Array.from(paths.flatMap((path) => Array.from(namesOf(naming, holder, path).slice(-2))));
  index.removed(holder, tier, hashes, 0, paths.length);
}

function matchOf(index: KvIndex, path: Path, holder: Holder): number[] {
  const matches = index.createMatches();
  index.match(sequenceOf(path), matches);
  return [matches.device[holder] ?? -1, matches.host[holder] ?? -1, matches.disk[holder] ?? -1];
}

/** By tier, the paths of the blocks held. */
type Model = readonly Set<string>[];

function createModel(): Model {
  return [new Set(), new Set(), new Set(), new Set()];
}

function matchInModel(model: Model, path: Path): number[] {
  let at = 0;
  const lengths = model.map((held) => {
    const from = at;
    while (at < path.length && held.has(path.slice(0, at + 1).join())) at++;
    return at - from;
  });
  return [lengths[0] ?? 0, lengths[1] ?? 0, (lengths[2] ?? 0) + (lengths[3] ?? 0)];
}

const path = fc.array(fc.nat({ max: 2 }), { minLength: 1, maxLength: 6 });
const tier = fc.constantFrom<StorageTier>(0, 0, 0, 1, 1, 2, 3);
const operation = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({ kind: fc.constant("store" as const), at: fc.nat(), tier, path, from: fc.nat({ max: 5 }) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("remove" as const),
      at: fc.nat(),
      tier,
      paths: fc.array(path, { maxLength: 3 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("match" as const), path }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("clear" as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("detach" as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("attach" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("upkeep" as const) }) },
);

describe("the exact index of KV blocks", () => {
  it.each(["own", "opaque", "perHolder"] as const)(
    "agrees with sets of paths when engines name blocks: %s",
    (naming) => {
      fc.assert(
        fc.property(
          fc.constantFrom(0, 3, 62, 130),
          fc.nat({ max: 8 }),
          fc.array(operation, { maxLength: 80 }),
          (idle, holders, operations) => {
            const index = createKvIndex({ random });
            for (let i = 0; i < idle; i++) index.attach();
            const live = Array.from({ length: holders + 1 }, () => ({ holder: index.attach(), model: createModel() }));
            for (const step of operations) {
              const one = "at" in step ? live[step.at % Math.max(1, live.length)] : undefined;
              switch (step.kind) {
                case "store": {
                  if (one === undefined) break;
                  const from = Math.min(step.from, step.path.length - 1);
                  const parent = step.path.slice(0, from).join();
                  const isKnown = step.tier > 0 || from === 0 || one.model[0]?.has(parent) === true;
                  const outcome = store(index, one.holder, step.path, from, { tier: step.tier, naming });
                  expect(outcome).toBe(isKnown ? "applied" : "unknown-parent");
                  if (!isKnown) break;
                  for (let end = from + 1; end <= step.path.length; end++) {
                    one.model[step.tier]?.add(step.path.slice(0, end).join());
                  }
                  break;
                }
                case "remove":
                  if (one === undefined) break;
                  remove(index, one.holder, step.paths, { tier: step.tier, naming });
                  for (const gone of step.paths) one.model[step.tier]?.delete(gone.join());
                  break;
                case "match": {
                  const matches = index.createMatches();
                  index.match(sequenceOf(step.path), matches);
                  for (const { holder, model } of live) {
                    const found = [matches.device[holder], matches.host[holder], matches.disk[holder]];
                    expect(found).toEqual(matchInModel(model, step.path));
                  }
                  break;
                }
                case "clear":
                  if (one === undefined) break;
                  index.cleared(one.holder);
                  for (const held of one.model) held.clear();
                  break;
                case "detach":
                  if (one === undefined) break;
                  index.detach(one.holder);
                  live.splice(live.indexOf(one), 1);
                  break;
                case "attach":
                  live.push({ holder: index.attach(), model: createModel() });
                  break;
                case "upkeep":
                  index.upkeep();
                  break;
              }
            }
            while (index.upkeep());
            const distinct = live.reduce((all, { model }) => {
              for (const block of model[0] ?? []) all.add(block);
              return all;
            }, new Set<string>());
            expect(index.blocks).toBeGreaterThanOrEqual(distinct.size);
            for (const { holder } of live) index.detach(holder);
            while (index.upkeep());
            expect([index.blocks, index.heldBlocks]).toEqual([0, 0]);
          },
        ),
        { numRuns: 250 },
      );
    },
  );

  it("finds blocks by their tokens when two engines call them differently", () => {
    const index = createKvIndex({ random });
    const [a, b] = [index.attach(), index.attach()];
    store(index, a, [1, 2, 3], 0, { naming: "perHolder" });
    store(index, b, [1, 2], 0, { naming: "perHolder" });
    expect(index.blocks).toBe(3);
    expect(matchOf(index, [1, 2, 3, 4], a)).toEqual([3, 0, 0]);
    expect(matchOf(index, [1, 2, 3, 4], b)).toEqual([2, 0, 0]);
    remove(index, a, [[1, 2, 3]], { naming: "perHolder" });
    expect(matchOf(index, [1, 2, 3], a)).toEqual([2, 0, 0]);
  });

  it("refuses a device block whose parent the holder does not have, and counts it", () => {
    const index = createKvIndex({ random });
    const [a, b] = [index.attach(), index.attach()];
    store(index, a, [1, 2]);
    expect(store(index, b, [1, 2, 3], 2)).toBe("unknown-parent");
    expect(matchOf(index, [1, 2, 3], b)).toEqual([0, 0, 0]);
    expect(index.refusals).toEqual({ unknownParent: 1, invalid: 0, full: 0 });
  });

  it("refuses a block that is its own parent", () => {
    const index = createKvIndex({ random });
    const holder = index.attach();
    store(index, holder, [1]);
    const names = Uint32Array.of(...sequenceOf([1]), ...sequenceOf([1]));
    const outcome = index.stored(holder, 0, names[0] ?? 0, names[1] ?? 0, true, names, tokensOf([5, 6]), 0, 2);
    expect(outcome).toBe("invalid");
    expect(index.heldBlocks).toBe(1);
  });

  it("has nothing to say to a holder that has left, and lets it ask again", () => {
    const index = createKvIndex({ random });
    const holder = index.attach();
    store(index, holder, [1, 2]);
    index.detach(holder);
    index.detach(holder);
    expect(store(index, holder, [1, 2])).toBe("unknown-parent");
    remove(index, holder, [[1]]);
    index.cleared(holder);
    expect([index.heldBlocks, index.blocksOf(holder), index.holderCount]).toEqual([0, 0, 0]);
    const next = index.attach();
    expect(next).toBe(holder);
    expect(matchOf(index, [1, 2], next)).toEqual([0, 0, 0]);
  });

  it("counts a holder's blocks once however often they are stored", () => {
    const index = createKvIndex({ random });
    const holder = index.attach();
    store(index, holder, [1, 2, 3]);
    store(index, holder, [1, 2, 3]);
    store(index, holder, [1, 2, 4], 2);
    store(index, holder, [1, 2], 0, { tier: 1 });
    expect([index.blocksOf(holder), index.heldBlocks, index.blocks]).toEqual([6, 6, 6]);
    remove(index, holder, [[1, 2, 3], [1, 2, 3], [9]]);
    expect([index.blocksOf(holder), index.heldBlocks]).toEqual([5, 5]);
  });

  it.each(["own", "opaque"] as const)("takes lower-tier blocks child first (names: %s)", (naming) => {
    const index = createKvIndex({ random });
    const holder = index.attach();
    const options = { naming, tier: 1 as StorageTier };
    store(index, holder, [1, 2, 3, 4], 3, options);
    store(index, holder, [1, 2, 3], 2, options);
    store(index, holder, [1, 2, 3, 5], 3, options);
    remove(index, holder, [[1, 2, 3, 5]], options);
    expect(matchOf(index, [1, 2, 3, 4], holder)).toEqual([0, 0, 0]);
    store(index, holder, [1, 2], 0, { naming });
    expect(matchOf(index, [1, 2, 3, 4], holder)).toEqual([2, 2, 0]);
    expect(matchOf(index, [1, 2, 3, 5], holder)).toEqual([2, 1, 0]);
  });

  it("lets each tier go on where the one before ended, and counts external memory as disk", () => {
    const index = createKvIndex({ random });
    const [a, b] = [index.attach(), index.attach()];
    const chain = [1, 2, 3, 4, 5, 6, 7];
    store(index, a, chain.slice(0, 2));
    store(index, a, chain.slice(0, 4), 1, { tier: 1 });
    store(index, a, chain.slice(0, 5), 4, { tier: 2 });
    store(index, a, chain.slice(0, 7), 5, { tier: 3 });
    store(index, b, chain.slice(0, 3), 0, { tier: 2 });
    expect(matchOf(index, chain, a)).toEqual([2, 2, 3]);
    expect(matchOf(index, chain, b)).toEqual([0, 0, 3]);
    expect(matchOf(index, [], b)).toEqual([0, 0, 0]);
  });

  it("clears one rank at once and its memory in slices", () => {
    const index = createKvIndex({ random });
    const [a, b] = [index.attach(), index.attach()];
    const long = Array.from({ length: 20_000 }, (_, i) => i);
    store(index, a, long);
    store(index, b, long.slice(0, 100));
    index.cleared(a);
    expect(matchOf(index, long, a)).toEqual([0, 0, 0]);
    expect(matchOf(index, long, b)).toEqual([100, 0, 0]);
    expect([index.heldBlocks, index.blocks > 15_000]).toEqual([100, true]);
    store(index, a, [7]);
    expect(matchOf(index, [7], a)).toEqual([1, 0, 0]);
    let slices = 1;
    while (index.upkeep()) slices++;
    expect(slices).toBeGreaterThan(2);
    expect(index.blocks).toBe(101);
    expect(matchOf(index, [7], a)).toEqual([1, 0, 0]);
  });

  it("does the work put off along with stored events, too", () => {
    const index = createKvIndex({ random });
    const [a, b] = [index.attach(), index.attach()];
    store(
      index,
      a,
      Array.from({ length: 20_000 }, (_, i) => i),
    );
    index.detach(a);
    for (let event = 0; event < 1_100; event++) store(index, b, [event % 7]);
    expect(index.blocks).toBe(7);
    expect(index.upkeep()).toBe(false);
  });

  it("needs no new bit for a rank that is cleared again and again", () => {
    const index = createKvIndex({ random });
    const holder = index.attach();
    for (let round = 0; round < 3_000; round++) {
      store(index, holder, [round, 1, 2]);
      index.cleared(holder);
    }
    while (index.upkeep());
    for (let i = 0; i < 60; i++) index.attach();
    store(index, 60, [1, 2, 3]);
    expect(index.sizeBytes).toBeLessThan(200_000);
  });

  it("stops at its bound and goes on when there is room", () => {
    const index = createKvIndex({ random, maxBlocks: 100 });
    const holder = index.attach();
    expect(
      store(
        index,
        holder,
        Array.from({ length: 100 }, (_, i) => i),
      ),
    ).toBe("applied");
    expect(store(index, holder, [500])).toBe("full");
    expect(index.refusals.full).toBe(1);
    index.cleared(holder);
    while (index.upkeep());
    expect(store(index, holder, [500])).toBe("applied");
  });

  it("counts names and waiting blocks against the bound", () => {
    const index = createKvIndex({ random, maxBlocks: 100 });
    const holder = index.attach();
    store(
      index,
      holder,
      Array.from({ length: 40 }, (_, i) => i),
      0,
      { naming: "opaque" },
    );
    const far = Array.from({ length: 30 }, (_, i) => i + 1000);
    expect(store(index, holder, far, 10, { naming: "opaque", tier: 1 })).toBe("applied");
    expect(store(index, holder, [7], 0)).toBe("full");
    remove(
      index,
      holder,
      far.map((_, i) => far.slice(0, i + 1)),
      { naming: "opaque", tier: 1 },
    );
    expect(store(index, holder, [7], 0)).toBe("applied");
  });

  it("forgets names with their blocks", () => {
    const index = createKvIndex({ random, maxBlocks: 1_000 });
    const holder = index.attach();
    const chain = Array.from({ length: 500 }, (_, i) => i);
    store(index, holder, chain, 0, { naming: "opaque" });
    expect(store(index, holder, [900])).toBe("full");
    remove(
      index,
      holder,
      chain.map((_, i) => chain.slice(0, i + 1)),
      { naming: "opaque" },
    );
    expect([index.blocks, index.heldBlocks]).toEqual([0, 0]);
    expect(store(index, holder, [0, 1], 1, { naming: "opaque" })).toBe("unknown-parent");
    expect(store(index, holder, chain.slice(1), 0, { naming: "opaque" })).toBe("applied");
    expect(store(index, holder, [900])).toBe("applied");
  });

  it("moves a name that an engine gives to another block", () => {
    const index = createKvIndex({ random });
    const holder = index.attach();
    const name = Uint32Array.of(5, 5);
    index.stored(holder, 0, 0, 0, false, name, tokensOf([1]), 0, 1);
    index.stored(holder, 0, 0, 0, false, name, tokensOf([2]), 0, 1);
    expect([matchOf(index, [1], holder)[0], matchOf(index, [2], holder)[0]]).toEqual([0, 1]);
    index.removed(holder, 0, name, 0, 1);
    expect([index.heldBlocks, index.blocks]).toEqual([0, 0]);
  });

  it("holds a block of 64 holders in 64 bytes at most", () => {
    const index = createKvIndex({ random });
    const holders = Array.from({ length: 64 }, () => index.attach());
    const tokens = new Uint32Array(80_000).map((_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 0);
    const sequence = new Uint32Array(tokens.length);
    const blocks = tokens.length / 2;
    hasher.chain(0, 0, false, tokens, 0, blocks, sequence, 0);
    for (const holder of holders) index.stored(holder, 0, 0, 0, false, sequence, tokens, 0, blocks);
    expect(index.blocks).toBe(blocks);
    expect(index.heldBlocks).toBe(64 * blocks);
    expect(index.sizeBytes / blocks).toBeLessThan(64);
  });

  it("holds the blocks of a thousand workers", () => {
    const index = createKvIndex({ random });
    const holders = Array.from({ length: 1_000 }, () => index.attach());
    const shared = [1, 2, 3, 4];
    for (const holder of holders) store(index, holder, [...shared, 1000 + holder]);
    const matches = index.createMatches();
    index.match(sequenceOf([...shared, 1500]), matches);
    expect(holders.map((holder) => matches.device[holder])).toEqual(holders.map((holder) => (holder === 500 ? 5 : 4)));
    for (const holder of holders.slice(3)) index.detach(holder);
    while (index.upkeep());
    expect([index.blocks, index.heldBlocks, index.holderCount]).toEqual([7, 15, 3]);
    expect(matchOf(index, [...shared, 1002], 2)).toEqual([5, 0, 0]);
  });
});
