/** Block hashes against those recorded from Dynamo 1.6.1 (test/dynamo/oracles/record_hash_vectors.py), and XXH3 at every length class. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "@jest/globals";
import {
  type BlockHashOptions,
  completeBlocks,
  createTokenHasher,
  hashTokens,
  maxBlockTokens,
  padValueOfMmHash,
  parseMmHash,
  xxh3_64,
} from "../../../src/tokens/block-hash.ts";
import fc from "../../properties.ts";

interface BlockVector {
  readonly name: string;
  readonly tokens: readonly number[];
  readonly blockSize: number;
  readonly loraName?: string;
  readonly cacheSalt?: string;
  readonly isEagle?: boolean;
  readonly mmHashes?: readonly (readonly string[] | null)[];
  readonly blockHashes: readonly string[];
  readonly sequenceHashes: readonly string[];
}

const fixture = new URL("../../fixtures/dynamo/hash-vectors.json", import.meta.url);
const vectors = JSON.parse(readFileSync(fixture, "utf8")) as {
  readonly blocks: readonly BlockVector[];
  readonly xxh3: readonly (readonly [number, string, string])[];
};

const bytes = Uint8Array.from({ length: 150_000 }, (_, i) => (i * 131 + (i >> 3) * 7) & 255);

function decimals(hashes: Uint32Array): string[] {
  const out = [];
  for (let i = 0; i < hashes.length; i += 2) {
    out.push(String((BigInt(hashes[i + 1] ?? 0) << 32n) | BigInt(hashes[i] ?? 0)));
  }
  return out;
}

function optionsOf(vector: BlockVector): BlockHashOptions {
  return {
    blockSize: vector.blockSize,
    loraName: vector.loraName,
    cacheSalt: vector.cacheSalt,
    isEagle: vector.isEagle,
    mmHashes: vector.mmHashes?.map((block) => block?.map(BigInt)),
  };
}

describe("block hashes", () => {
  it.each(vectors.blocks.map((vector) => [vector.name, vector] as const))("are Dynamo's for %s", (_, vector) => {
    const { blockHashes, sequenceHashes } = hashTokens(Uint32Array.from(vector.tokens), optionsOf(vector));
    expect(decimals(blockHashes)).toEqual(vector.blockHashes);
    expect(decimals(sequenceHashes)).toEqual(vector.sequenceHashes);
  });

  it.each(vectors.blocks.map((vector) => [vector.name, vector] as const))(
    "do not depend on how many blocks were known before, for %s",
    (_, vector) => {
      const hasher = createTokenHasher();
      const tokens = Uint32Array.from(vector.tokens);
      const all = hasher.hash(tokens, optionsOf(vector));
      for (let blocks = 0; blocks <= vector.blockHashes.length; blocks++) {
        const known = {
          blockHashes: all.blockHashes.slice(0, 2 * blocks),
          sequenceHashes: all.sequenceHashes.slice(0, 2 * blocks),
        };
        expect(hasher.hash(tokens, optionsOf(vector), known)).toEqual(all);
      }
    },
  );

  it("are the same for prompts longer than the window, whatever the block size", () => {
    const tokens = Uint32Array.from({ length: 50_021 }, (_, i) => Math.imul(i, 2_654_435_761) >>> 0);
    const raw = new Uint8Array(tokens.buffer);
    for (const isEagle of [false, true]) {
      for (const blockSize of [1, 16, 64, 1000, maxBlockTokens]) {
        const { blockHashes } = hashTokens(tokens, { blockSize, isEagle });
        const window = 4 * (blockSize + (isEagle ? 1 : 0));
        const count = completeBlocks(tokens.length, blockSize, isEagle);
        expect(blockHashes).toHaveLength(2 * count);
        const stride = Math.max(1, Math.floor(count / 7));
        for (let block = count - 1; block >= 0; block -= stride) {
          const at = 4 * block * blockSize;
          const expected = xxh3_64(raw.subarray(at, at + window), 1337n);
          expect(decimals(blockHashes.subarray(2 * block, 2 * block + 2))).toEqual([String(expected)]);
        }
      }
    }
  });

  it("hash a block of the longest size with an object in it", () => {
    const tokens = Uint32Array.from({ length: 2 * maxBlockTokens }, (_, i) => i);
    const mmHashes = [[7n], [3n, 1n]];
    const { blockHashes } = hashTokens(tokens, { blockSize: maxBlockTokens, mmHashes });
    const second = Buffer.alloc(4 * maxBlockTokens + 16);
    second.set(new Uint8Array(tokens.buffer, 4 * maxBlockTokens));
    second.writeBigUInt64LE(1n, 4 * maxBlockTokens);
    second.writeBigUInt64LE(3n, 4 * maxBlockTokens + 8);
    const first = Buffer.alloc(4 * maxBlockTokens + 8);
    first.set(new Uint8Array(tokens.buffer, 0, 4 * maxBlockTokens));
    first.writeBigUInt64LE(7n, 4 * maxBlockTokens);
    expect(decimals(blockHashes)).toEqual([String(xxh3_64(first, 1337n)), String(xxh3_64(second, 1337n))]);
  });

  it("take the seed of each call's own adapter and salt", () => {
    const hasher = createTokenHasher();
    const tokens = Uint32Array.from({ length: 32 }, (_, i) => i);
    const name = fc.option(fc.constantFrom("", "a", "b"), { nil: undefined });
    fc.assert(
      fc.property(fc.array(fc.tuple(name, name), { maxLength: 8 }), (calls) => {
        for (const [loraName, cacheSalt] of calls) {
          const options = { blockSize: 8, loraName, cacheSalt };
          expect(hasher.hash(tokens, options)).toEqual(createTokenHasher().hash(tokens, options));
        }
      }),
      { numRuns: 30 },
    );
  });

  it.each([0, -1, 1.5, maxBlockTokens + 1, Number.NaN])("refuse a block size of %d", (blockSize) => {
    expect(() => hashTokens(new Uint32Array(8), { blockSize })).toThrow(/block of/);
  });
});

describe("a chain", () => {
  it("is the sequence hashes, in whatever pieces it is rolled", () => {
    const hasher = createTokenHasher();
    const { blockHashes, sequenceHashes } = hasher.hash(
      Uint32Array.from({ length: 9_000 }, (_, i) => i),
      { blockSize: 1 },
    );
    for (const piece of [1, 100, 4096, 5000, 9000]) {
      const rolled = new Uint32Array(sequenceHashes.length);
      for (let at = 0; at < 9_000; at += piece) {
        const low = rolled[2 * at - 2] ?? 0;
        const high = rolled[2 * at - 1] ?? 0;
        hasher.chain(low, high, at > 0, blockHashes, at, Math.min(piece, 9_000 - at), rolled, at);
      }
      expect(rolled).toEqual(sequenceHashes);
    }
  });
});

describe("XXH3", () => {
  it("is the specification's at every length class, with and without a seed", () => {
    for (const [length, seed, expected] of vectors.xxh3) {
      expect([length, seed, String(xxh3_64(bytes.subarray(0, length), BigInt(seed)))]).toEqual([
        length,
        seed,
        expected,
      ]);
    }
  });
});

describe("the hash of a multimodal identifier", () => {
  const digest = "00ff00ff00ff00ff".padEnd(64, "a");
  it.each([
    ["", undefined],
    [digest, 0x00ff00ff00ff00ffn],
    [digest.toUpperCase(), 0x00ff00ff00ff00ffn],
    [digest.slice(1), xxh3_64(Buffer.from(digest.slice(1)))],
    [`g${digest.slice(1)}`, xxh3_64(Buffer.from(`g${digest.slice(1)}`))],
    ["image-é", xxh3_64(Buffer.from("image-é"))],
  ])("of %j is %s", (identifier, expected) => {
    expect(parseMmHash(identifier)).toBe(expected);
  });

  it.each([
    [0n, 1_000_000],
    [(1n << 30n) - 1n, 1_000_000 + 2 ** 30 - 1],
    [1n << 30n, 1_000_000],
    [0xffff_ffff_ffff_ffffn, 1_000_000 + 2 ** 30 - 1],
  ])("%s becomes the pad value %d", (hash, expected) => {
    expect(padValueOfMmHash(hash)).toBe(expected);
  });
});
