/**
 * The exact index against Dynamo's own: its radix tree for the device, its selection service for the lower tiers. Engines tell the truth here: a block
 * whose parent goes is told again, or is told gone, before the parent comes back (see the last test for the other case).
 */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { createKvIndex } from "../../src/data/prefix-index/exact-kv-index.ts";
import type { Holder, KvIndex, StorageTier } from "../../src/data/prefix-index/kv-index.ts";
import { hashTokens, tokenHasher } from "../../src/tokens/block-hash.ts";
import { type Oracle, startOracle } from "./oracle.ts";

const radixCases = 10_500;
const casesPerBatch = 500;
const tierCases = 300;
const blockSize = 4;

/** Mulberry32: the same cases every time. */
function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296) * below);
  };
}

type Path = readonly number[];

interface Hashes {
  readonly tokens: Uint32Array;
  readonly sequence: Uint32Array;
  readonly names: Uint32Array;
}

/** Blocks of one repeated token each; a name is the sequence hash itself or another function of it. */
function hashesOf(path: Path, isOpaque: boolean): Hashes {
  const tokens = new Uint32Array(path.length * blockSize);
  for (let block = 0; block < path.length; block++) {
    tokens.fill(path[block] ?? 0, block * blockSize, (block + 1) * blockSize);
  }
  const { blockHashes, sequenceHashes } = hashTokens(tokens, { blockSize });
  const names = isOpaque
    ? sequenceHashes.map((word) => (Math.imul(word, 0x85ebca6b) ^ 0x5bd1e995) >>> 0)
    : sequenceHashes;
  return { tokens: blockHashes, sequence: sequenceHashes, names };
}

function decimal(hashes: Uint32Array, block: number): string {
  return String((BigInt(hashes[2 * block + 1] ?? 0) << 32n) | BigInt(hashes[2 * block] ?? 0));
}

function storePath(index: KvIndex, holder: Holder, tier: StorageTier, path: Path, from: number, isOpaque: boolean) {
  const { tokens, names } = hashesOf(path, isOpaque);
  const parent = from === 0 ? [0, 0] : [names[2 * from - 2] ?? 0, names[2 * from - 1] ?? 0];
  const count = path.length - from;
  return index.stored(holder, tier, parent[0] ?? 0, parent[1] ?? 0, from > 0, names, tokens, from, count);
}

function removePaths(index: KvIndex, holder: Holder, tier: StorageTier, paths: readonly Path[], isOpaque: boolean) {
  const names = new Uint32Array(2 * paths.length);
  for (const [i, path] of paths.entries()) names.set(hashesOf(path, isOpaque).names.subarray(-2), 2 * i);
  index.removed(holder, tier, names, 0, paths.length);
}

function lastName(path: Path, isOpaque: boolean): string {
  return decimal(hashesOf(path, isOpaque).names, path.length - 1);
}

/** What one engine rank has, by path; the truth it tells. */
interface Rank {
  readonly worker: number;
  readonly rank: number;
  readonly held: Map<string, Path>;
}

/** One case: the same steps into our index, at once, and as JSON for the oracle. */
class Case {
  readonly steps: object[] = [];
  readonly expected: number[][][] = [];
  readonly #index = createKvIndex({ random: Math.random });
  readonly #isOpaque: boolean;
  readonly #random: (below: number) => number;
  readonly #ranks: Rank[] = [];
  readonly #holders = new Map<Rank, Holder>();

  constructor(seed: number) {
    this.#random = randomOf(seed);
    this.#isOpaque = this.#random(2) === 0;
    const workers = 1 + this.#random(3);
    for (let worker = 0; worker < workers; worker++) {
      for (let rank = 0; rank <= this.#random(2); rank++) {
        const one: Rank = { worker, rank, held: new Map() };
        this.#ranks.push(one);
        this.#holders.set(one, this.#index.attach());
      }
    }
  }

  run(): void {
    const steps = 6 + this.#random(18);
    for (let step = 0; step < steps; step++) {
      const one = this.#ranks[this.#random(this.#ranks.length)];
      if (one === undefined) break;
      const dice = this.#random(20);
      if (dice < 9) this.#store(one);
      else if (dice < 12) this.#evict(one);
      else if (dice < 14) this.#loseMiddle(one);
      else if (dice < 15) this.#clear(one);
      else if (dice < 16) this.#unknown(one);
      else if (dice < 17 && this.#random(2) === 0) this.#removeWorker(one.worker);
      else this.#query();
    }
    this.#query();
  }

  /** A random walk of up to 10 blocks among few children, so that chains share, branch and contain each other. */
  #path(): number[] {
    const children = 1 + this.#random(2);
    return Array.from({ length: 1 + this.#random(10) }, () => 1 + this.#random(children + 1));
  }

  /** A chain, at the root or after any block held: new, known, or known in part. */
  #store(one: Rank): void {
    const path = this.#path();
    let from = 0;
    while (from < path.length - 1 && one.held.has(path.slice(0, from + 1).join()) && this.#random(4) > 0) from++;
    this.#tellStored(one, path, from);
  }

  #tellStored(one: Rank, path: Path, from: number): void {
    const { tokens, names } = hashesOf(path, this.#isOpaque);
    const blocks = [];
    for (let block = from; block < path.length; block++) blocks.push([decimal(names, block), decimal(tokens, block)]);
    const parent = from === 0 ? null : decimal(names, from - 1);
    this.steps.push({ kind: "store", worker: one.worker, rank: one.rank, parent, blocks });
    storePath(this.#index, this.#holderOf(one), 0, path, from, this.#isOpaque);
    for (let end = from + 1; end <= path.length; end++) one.held.set(path.slice(0, end).join(), path.slice(0, end));
  }

  /** A block and all below it, in one event or several, in any order. */
  #evict(one: Rank): void {
    const gone = this.#below(one, this.#anyHeld(one));
    const order = this.#random(3);
    if (order === 0) gone.reverse();
    else if (order === 1) gone.sort((a, b) => a.join().localeCompare(b.join()));
    const cut = this.#random(gone.length + 1);
    this.#tellRemoved(one, gone.slice(0, cut));
    this.#tellRemoved(one, gone.slice(cut));
  }

  /** Only a block in the middle goes; what lay below is asked for, then told gone or told again with it. */
  #loseMiddle(one: Rank): void {
    const lost = this.#anyHeld(one);
    if (lost === undefined) return;
    const below = this.#below(one, lost).filter((path) => path.length > lost.length);
    this.#tellRemoved(one, [lost]);
    this.#query();
    if (this.#random(2) === 0) {
      this.#tellRemoved(one, below);
      return;
    }
    for (const path of [lost, ...below]) this.#tellStored(one, path, 0);
  }

  #tellRemoved(one: Rank, paths: readonly Path[]): void {
    if (paths.length === 0) return;
    const names = paths.map((path) => lastName(path, this.#isOpaque));
    this.steps.push({ kind: "remove", worker: one.worker, rank: one.rank, names });
    removePaths(this.#index, this.#holderOf(one), 0, paths, this.#isOpaque);
    for (const path of paths) one.held.delete(path.join());
  }

  #clear(one: Rank): void {
    this.steps.push({ kind: "clear", worker: one.worker, rank: one.rank });
    this.#index.cleared(this.#holderOf(one));
    one.held.clear();
  }

  /** A store after a block that the rank does not have, and a removal of one. */
  #unknown(one: Rank): void {
    const path = [...this.#path(), 9, 1];
    const { tokens, names } = hashesOf(path, this.#isOpaque);
    const last = path.length - 1;
    const blocks = [[decimal(names, last), decimal(tokens, last)]];
    this.steps.push({ kind: "store", worker: one.worker, rank: one.rank, parent: decimal(names, last - 1), blocks });
    expect(storePath(this.#index, this.#holderOf(one), 0, path, last, this.#isOpaque)).toBe("unknown-parent");
    this.#tellRemoved(one, [path]);
  }

  #removeWorker(worker: number): void {
    this.steps.push({ kind: "remove_worker", worker });
    for (const one of this.#ranks) {
      if (one.worker !== worker) continue;
      this.#index.detach(this.#holderOf(one));
      this.#holders.set(one, this.#index.attach());
      one.held.clear();
    }
  }

  #query(): void {
    const rank = this.#ranks[this.#random(this.#ranks.length)];
    const held = rank === undefined ? undefined : this.#anyHeld(rank);
    const path = held === undefined || this.#random(3) === 0 ? this.#path() : [...held, ...this.#path().slice(0, 2)];
    const { tokens, sequence } = hashesOf(path, this.#isOpaque);
    this.steps.push({ kind: "query", blocks: path.map((_, block) => decimal(tokens, block)) });
    const matches = this.#index.createMatches();
    this.#index.match(sequence, matches);
    const rows = this.#ranks.map((one) => [one.worker, one.rank, matches.device[this.#holderOf(one)] ?? -1]);
    this.expected.push(rows.filter(([, , depth]) => depth !== 0));
  }

  #anyHeld(one: Rank): Path | undefined {
    const held = [...one.held.values()];
    return held[this.#random(held.length)];
  }

  #below(one: Rank, top: Path | undefined): Path[] {
    if (top === undefined) return [];
    const prefix = `${top.join()},`;
    return [...one.held.values()].filter((path) => `${path.join()},`.startsWith(prefix));
  }

  #holderOf(one: Rank): Holder {
    return this.#holders.get(one) ?? -1;
  }
}

describe("the exact index", () => {
  let oracle: Oracle;
  beforeAll(() => {
    oracle = startOracle("indexer.py");
  });
  afterAll(() => oracle.close());

  it(`answers as Dynamo's radix tree in ${radixCases} random histories`, async () => {
    let queries = 0;
    for (let first = 0; first < radixCases; first += casesPerBatch) {
      const cases = Array.from({ length: casesPerBatch }, (_, i) => new Case(first + i + 1));
      for (const one of cases) one.run();
      const answers = await oracle.ask<number[][][][]>("radix", { cases: cases.map((one) => one.steps) });
      for (const [i, one] of cases.entries()) {
        queries += one.expected.length;
        expect({ seed: first + i + 1, scores: one.expected }).toEqual({ seed: first + i + 1, scores: answers[i] });
      }
    }
    expect(queries).toBeGreaterThan(3 * radixCases);
  }, 120_000);

  it(`answers as Dynamo's tiers in ${tierCases} random histories`, async () => {
    const workers = [1, 2];
    const ranks = 2;
    await oracle.ask("open", { workers, ranks });
    for (let seed = 1; seed <= tierCases; seed++) {
      const random = randomOf(seed);
      const isOpaque = random(2) === 0;
      const index = createKvIndex({ random: Math.random });
      const seats = workers.flatMap((worker) => [0, 1].map((rank) => ({ worker, rank, holder: index.attach() })));
      const chain = Array.from({ length: 12 }, () => 1 + random(3) + 10 * seed);
      const side = [...chain.slice(0, 4), ...Array.from({ length: 6 }, () => 5 + 10 * seed)];
      const steps: object[] = [];
      for (const { worker, rank, holder } of seats) {
        const stored = new Set<string>();
        for (let event = 0; event < 8; event++) {
          const tier = random(4) as StorageTier;
          const branch = random(3) === 0 ? side : chain;
          const from = tier === 0 ? 0 : random(branch.length);
          const path = branch.slice(0, Math.min(branch.length, from + 1 + random(5)));
          const ends = Array.from({ length: path.length - from }, (_, i) => from + i + 1);
          const keys = ends.map((end) => `${tier}:${path.slice(0, end).join()}`);
          if (keys.some((key) => stored.has(key))) continue;
          for (const key of keys) stored.add(key);
          const { names } = hashesOf(path, isOpaque);
          const parent = from === 0 ? null : decimal(names, from - 1);
          const told = ends.map((end) => decimal(names, end - 1));
          steps.push({ kind: "store", worker, rank, tier, parent, names: told, blocks: path.slice(from) });
          storePath(index, holder, tier, path, from, isOpaque);
          if (random(3) > 0) continue;
          const gone = path.slice(0, from + 1 + random(path.length - from));
          const lost = ends
            .filter((end) => end >= gone.length)
            .map((end) => path.slice(0, end))
            .reverse();
          steps.push({ kind: "remove", worker, rank, tier, names: lost.map((block) => lastName(block, isOpaque)) });
          removePaths(index, holder, tier, lost, isOpaque);
          for (const block of lost) stored.delete(`${tier}:${block.join()}`);
        }
      }
      const queries = [chain, side, chain.slice(0, 5), chain.slice(3)];
      const answers = await oracle.ask<number[][][]>("tiers", { steps, queries });
      const matches = index.createMatches();
      const expected = queries.map((query) => {
        index.match(hashesOf(query, isOpaque).sequence, matches);
        return seats.map(({ worker, rank, holder }) => [
          worker,
          rank,
          matches.device[holder],
          matches.host[holder],
          matches.disk[holder],
        ]);
      });
      expect({ seed, scores: expected }).toEqual({ seed, scores: answers });
    }
  }, 120_000);

  it("keeps what an engine still has below a lost block, where the tree forgets the rest of its edge", async () => {
    const path = [1, 2, 3, 4];
    const { tokens, names, sequence } = hashesOf(path, false);
    const blocks = path.map((_, block) => [decimal(names, block), decimal(tokens, block)]);
    const worker = { worker: 0, rank: 0 };
    const query = { kind: "query", blocks: blocks.map(([, hash]) => hash) };
    const steps = [
      { kind: "store", ...worker, parent: null, blocks },
      { kind: "remove", ...worker, names: [decimal(names, 1)] },
      query,
      { kind: "store", ...worker, parent: decimal(names, 0), blocks: blocks.slice(1, 2) },
      query,
    ];
    const [answers] = await oracle.ask<number[][][][]>("radix", { cases: [steps] });
    expect(answers).toEqual([[[0, 0, 1]], [[0, 0, 2]]]);

    const index = createKvIndex({ random: Math.random });
    const holder = index.attach();
    storePath(index, holder, 0, path, 0, false);
    removePaths(index, holder, 0, [path.slice(0, 2)], false);
    const matches = index.createMatches();
    index.match(sequence, matches);
    expect(matches.device[holder]).toBe(1);
    storePath(index, holder, 0, path.slice(0, 2), 1, false);
    index.match(sequence, matches);
    expect(matches.device[holder]).toBe(4);
  });

  it("rolls the chain the way the tree's callers do", () => {
    const { tokens, sequence } = hashesOf([5, 6, 7], false);
    const rolled = new Uint32Array(6);
    tokenHasher().chain(0, 0, false, tokens, 0, 3, rolled, 0);
    expect(rolled).toEqual(sequence);
  });
});
