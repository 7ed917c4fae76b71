/** The block hasher against xxhash-wasm and against XXH64 written out with BigInt. */
import { describe, expect, it } from "@jest/globals";
import xxhash from "xxhash-wasm";
import { createBlockHasher, maxBlockBytes } from "../../../../src/data/prefix-index/block-hasher.ts";
import fc from "../../../properties.ts";

const reference = await xxhash();

const u64 = (1n << 64n) - 1n;
const p1 = 0x9e3779b185ebca87n;
const p2 = 0xc2b2ae3d27d4eb4fn;
const p3 = 0x165667b19e3779f9n;
const p4 = 0x85ebca77c2b2ae63n;
const p5 = 0x27d4eb2f165667c5n;

function rotl(value: bigint, by: bigint): bigint {
  return ((value << by) | (value >> (64n - by))) & u64;
}

function round(lane: bigint, input: bigint): bigint {
  return (rotl((lane + input * p2) & u64, 31n) * p1) & u64;
}

/** XXH64 of the specification, seed 0, slow and plain. */
function xxh64(bytes: Buffer): bigint {
  let at = 0;
  let hash = p5;
  if (bytes.length >= 32) {
    const lanes = [(p1 + p2) & u64, p2, 0n, -p1 & u64];
    for (; at + 32 <= bytes.length; at += 32) {
      for (let lane = 0; lane < 4; lane++) lanes[lane] = round(lanes[lane] ?? 0n, bytes.readBigUInt64LE(at + 8 * lane));
    }
    const turns = [1n, 7n, 12n, 18n];
    hash = lanes.reduce((sum, lane, i) => sum + rotl(lane, turns[i] ?? 0n), 0n) & u64;
    for (const lane of lanes) hash = ((hash ^ round(0n, lane)) * p1 + p4) & u64;
  }
  hash = (hash + BigInt(bytes.length)) & u64;
  for (; at + 8 <= bytes.length; at += 8)
    hash = (rotl(hash ^ round(0n, bytes.readBigUInt64LE(at)), 27n) * p1 + p4) & u64;
  if (at + 4 <= bytes.length) {
    hash = (rotl(hash ^ ((BigInt(bytes.readUInt32LE(at)) * p1) & u64), 23n) * p2 + p3) & u64;
    at += 4;
  }
  for (; at < bytes.length; at++) hash = (rotl(hash ^ ((BigInt(bytes[at] ?? 0) * p5) & u64), 11n) * p1) & u64;
  hash = ((hash ^ (hash >> 33n)) * p2) & u64;
  hash = ((hash ^ (hash >> 29n)) * p3) & u64;
  return hash ^ (hash >> 32n);
}

type Hash = (bytes: Buffer) => bigint;

function chainOf(hash: Hash, root: string, bytes: Buffer, blockBytes: number): bigint[] {
  const chain: bigint[] = [];
  let previous = hash(Buffer.from(root));
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const link = Buffer.alloc(16);
    link.writeBigUInt64LE(hash(bytes.subarray(at, at + blockBytes)), 0);
    link.writeBigUInt64LE(previous, 8);
    previous = hash(link);
    chain.push(previous);
  }
  return chain;
}

function bigints(hashes: Uint32Array): bigint[] {
  return [...new BigUint64Array(hashes.slice().buffer)];
}

/** Splits into parts at the given offsets, empty parts included. */
function split(bytes: Buffer, offsets: readonly number[]): Buffer[] {
  const cuts = [0, ...offsets.map((offset) => offset % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return cuts.slice(1).map((end, i) => bytes.subarray(cuts[i], end));
}

const unlimited = 1_000_000;
const hasher = createBlockHasher();

describe("the block hasher", () => {
  it.each([
    ["xxhash-wasm", (bytes: Buffer) => reference.h64Raw(bytes)],
    ["XXH64 in BigInt", xxh64],
  ] as const)("gives the chain that %s gives, for any split of the prompt", (_name, hash) => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", maxLength: 40 }),
        fc.option(fc.string({ maxLength: 40 }), { nil: undefined }),
        fc.uint8Array({ maxLength: 700 }),
        fc.array(fc.nat(), { maxLength: 6 }),
        fc.integer({ min: 1, max: 300 }),
        (model, salt, array, offsets, blockBytes) => {
          const bytes = Buffer.from(array);
          const hashes = hasher.hashChain(model, salt, split(bytes, offsets), blockBytes, unlimited);
          expect(bigints(hashes)).toEqual(chainOf(hash, model + (salt ?? ""), bytes, blockBytes));
        },
      ),
      { numRuns: 150 },
    );
  });

  it.each([
    ["256-byte blocks", 256, 300_001],
    ["one-byte blocks, more than a slice holds", 1, 9_000],
    ["blocks that do not divide the window", 1_000, 400_003],
    ["the largest block", maxBlockBytes, 300_000],
  ])("hashes a prompt longer than the window: %s", (_name, blockBytes, length) => {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i++) bytes[i] = (i * 2_654_435_761) >>> 13;
    const parts = split(bytes, [1, 777, Math.floor(length / 2), length - 3]);
    expect(bigints(hasher.hashChain("m", "s", parts, blockBytes, unlimited))).toEqual(
      chainOf((block) => reference.h64Raw(block), "ms", bytes, blockBytes),
    );
  });

  it("hashes a root longer than the window", () => {
    const salt = "é€😀x".repeat(40_000);
    expect(bigints(hasher.hashChain("model", salt, [Buffer.from("abc")], 64, 1))).toEqual(
      chainOf((block) => reference.h64Raw(block), `model${salt}`, Buffer.from("abc"), 64),
    );
  });

  it("writes several chains under one root into one array", () => {
    const body = Buffer.from("-aaaabbbbcc--aaaabb-");
    const hashes = new Uint32Array(10);
    hasher.root("m", undefined);
    const first = hasher.hashRanges(
      body,
      [
        { start: 1, end: 5 },
        { start: 5, end: 11 },
      ],
      4,
      hashes,
      0,
      9,
    );
    const second = hasher.hashRanges(body, [{ start: 13, end: 19 }], 4, hashes, first, 9);
    expect([first, second]).toEqual([3, 2]);
    expect(bigints(hashes)).toEqual([
      ...chainOf(xxh64, "m", Buffer.from("aaaabbbbcc"), 4),
      ...chainOf(xxh64, "m", Buffer.from("aaaabb"), 4),
    ]);
  });

  it("stops after the given number of blocks, in the middle of a part too", () => {
    const bytes = Buffer.from("0123456789abcdef");
    const hashes = hasher.hashChain("m", undefined, [bytes.subarray(0, 3), bytes.subarray(3)], 4, 2);
    expect(bigints(hashes)).toEqual(chainOf(xxh64, "m", bytes.subarray(0, 8), 4));
  });

  it("gives no block for an empty prompt", () => {
    expect(hasher.hashChain("m", undefined, [Buffer.alloc(0)], 4, 9)).toHaveLength(0);
  });

  it.each([0, -1, Number.NaN, maxBlockBytes + 1])("refuses a block of %d bytes", (blockBytes) => {
    expect(() => hasher.hashRanges(Buffer.alloc(1), [], blockBytes, new Uint32Array(0), 0, 1)).toThrow("bytes");
  });
});
