/**
 * Block hashes as Dynamo computes them (dynamo-kv-hashing 1.6.1): XXH3-64 of each complete block's token ids as u32 little-endian, and the rolling
 * sequence hashes of the chain. Adapter and salt go into the blocks' seed and never into the chain's; an incomplete last block has no hash.
 */
import { blockHashWasm } from "./block-hash-wasm.ts";

/** Longest block, in tokens, that fits the window with an eagle block's extra token. */
export const maxBlockTokens = 16_383;

/** Seed of blocks without adapter and salt, and of every link of a chain. */
export const baseSeed = 1337n;

export interface BlockHashOptions {
  readonly blockSize: number;
  readonly loraName?: string | undefined;
  readonly cacheSalt?: string | undefined;
  /** Windows of blockSize + 1 tokens, stride blockSize. */
  readonly isEagle?: boolean | undefined;
  /** By block, the hashes of the multimodal objects in it (the way of engines that do not replace their tokens by pad values). */
  readonly mmHashes?: readonly (readonly bigint[] | undefined)[] | undefined;
}

export interface TokenHashes {
  /** u64 as u32 pairs, low word first; one pair a complete block. */
  readonly blockHashes: Uint32Array;
  readonly sequenceHashes: Uint32Array;
}

/** For one thread; holds nothing between calls but the last seed. */
export interface TokenHasher {
  /**
   * Allocates nothing but its results. `known` are hashes of a beginning of the same tokens under the same options, a conversation's earlier
   * turn: its blocks are copied instead of hashed.
   */
  hash(tokens: Uint32Array, options: BlockHashOptions, known?: TokenHashes): TokenHashes;
  /**
   * Rolls block hashes [first, first + count) into sequenceHashes[2 × at …]. With `hasParent` the chain continues after that sequence hash,
   * else it starts at the root.
   */
  chain(
    parentLow: number,
    parentHigh: number,
    hasParent: boolean,
    blockHashes: Uint32Array,
    first: number,
    count: number,
    sequenceHashes: Uint32Array,
    at: number,
  ): void;
  xxh3(bytes: Uint8Array, seed: bigint): bigint;
}

interface HashModule {
  readonly memory: { readonly buffer: ArrayBuffer };
  readonly WINDOW: { readonly value: number };
  readonly MAX_HASHES: { readonly value: number };
  readonly BLOCKS: { readonly value: number };
  readonly SEQUENCES: { readonly value: number };
  setSeed(low: number, high: number): void;
  hashBytes(length: number, index: number): void;
  hashBlocks(count: number, windowBytes: number, strideBytes: number): void;
  beginLong(): void;
  absorbLong(at: number, blocks: number): void;
  endLong(at: number, length: number, total: number): void;
  beginChain(): void;
  continueChain(low: number, high: number): void;
  chainBlocks(count: number): void;
}

/** What is used of the global of that name; the Node type definitions leave it out. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
};

let compiled: object | undefined;
let shared: TokenHasher | undefined;

export function createTokenHasher(): TokenHasher {
  compiled ??= new WebAssembly.Module(Buffer.from(blockHashWasm, "base64"));
  return new WasmTokenHasher(new WebAssembly.Instance(compiled).exports as HashModule);
}

/** The thread's own hasher, for whoever finishes with it before giving way to others. */
export function tokenHasher(): TokenHasher {
  shared ??= createTokenHasher();
  return shared;
}

/** Hashes of every complete block of `tokens`; see TokenHasher.hash. */
export function hashTokens(tokens: Uint32Array, options: BlockHashOptions, known?: TokenHashes): TokenHashes {
  return tokenHasher().hash(tokens, options, known);
}

/** XXH3-64 of any bytes. */
export function xxh3_64(bytes: Uint8Array, seed = 0n): bigint {
  return tokenHasher().xxh3(bytes, seed);
}

/** Number of complete blocks: an eagle block needs the token after it. */
export function completeBlocks(tokenCount: number, blockSize: number, isEagle: boolean): number {
  return Math.max(0, Math.floor((isEagle ? tokenCount - 1 : tokenCount) / blockSize));
}

/** Routing hash of a multimodal object's identifier: the first 16 digits of a 64-digit hexadecimal digest, else XXH3 of the text; none of an empty one. */
export function parseMmHash(identifier: string): bigint | undefined {
  if (identifier === "") return undefined;
  if (/^[0-9a-fA-F]{64}$/.test(identifier)) return BigInt(`0x${identifier.slice(0, 16)}`);
  return xxh3_64(Buffer.from(identifier));
}

/** The token id that stands for each token of a multimodal object where engines replace them (SGLang's pad value). */
export function padValueOfMmHash(mmHash: bigint): number {
  return 1_000_000 + Number(mmHash & 0x3fff_ffffn);
}

/** Words copied one by one: below this, making a view of them costs more. */
const fewWords = 64;

function copy(from: Uint32Array, start: number, to: Uint32Array, at: number, words: number): void {
  if (words > fewWords) {
    to.set(from.subarray(start, start + words), at);
    return;
  }
  for (let word = 0; word < words; word++) to[at + word] = from[start + word] as number;
}

/** Bytes before the end that XXH3's long form reads again. */
const overlap = 64;
/** Block of XXH3's long form. */
const longBlock = 1024;
/** Up to here one call hashes the input. */
const wholeBytes = 32_768;
const chunkBytes = 61_440;
const noHashes = new Uint32Array(0);
const encoder = new TextEncoder();

class WasmTokenHasher implements TokenHasher {
  readonly #wasm: HashModule;
  readonly #windowTokens: number;
  readonly #maxHashes: number;
  readonly #bytes: Uint8Array;
  readonly #tokens: Uint32Array;
  readonly #blocks: Uint32Array;
  readonly #sequences: Uint32Array;
  /** Of the seed that the module has now; undefined after a seed of xxh3(). */
  #lora: string | undefined;
  #salt: string | undefined;
  #isSeeded = false;

  constructor(wasm: HashModule) {
    const { buffer } = wasm.memory;
    this.#wasm = wasm;
    this.#windowTokens = wasm.WINDOW.value / 4;
    this.#maxHashes = wasm.MAX_HASHES.value;
    this.#bytes = new Uint8Array(buffer, 0, wasm.WINDOW.value);
    this.#tokens = new Uint32Array(buffer, 0, this.#windowTokens);
    this.#blocks = new Uint32Array(buffer, wasm.BLOCKS.value, 2 * this.#maxHashes);
    this.#sequences = new Uint32Array(buffer, wasm.SEQUENCES.value, 2 * this.#maxHashes);
  }

  hash(tokens: Uint32Array, options: BlockHashOptions, known?: TokenHashes): TokenHashes {
    const { blockSize, mmHashes } = options;
    if (!(Number.isInteger(blockSize) && blockSize >= 1 && blockSize <= maxBlockTokens)) {
      throw new RangeError(`block of ${blockSize} tokens`);
    }
    const isEagle = options.isEagle === true;
    const total = completeBlocks(tokens.length, blockSize, isEagle);
    if (total === 0) return { blockHashes: noHashes, sequenceHashes: noHashes };
    const blockHashes = new Uint32Array(2 * total);
    const sequenceHashes = new Uint32Array(2 * total);
    const skipped = known === undefined ? 0 : Math.min(total, known.blockHashes.length >> 1);
    if (known !== undefined && skipped > 0) {
      blockHashes.set(known.blockHashes.subarray(0, 2 * skipped));
      sequenceHashes.set(known.sequenceHashes.subarray(0, 2 * skipped));
    }
    this.#seed(options.loraName, options.cacheSalt);
    const windowTokens = blockSize + (isEagle ? 1 : 0);
    const sliceBlocks = Math.min(this.#maxHashes, 1 + Math.floor((this.#windowTokens - windowTokens) / blockSize));
    this.#beginChain(skipped, sequenceHashes);
    for (let block = skipped; block < total; block += sliceBlocks) {
      const count = Math.min(sliceBlocks, total - block);
      const from = block * blockSize;
      this.#tokens.set(tokens.subarray(from, from + (count - 1) * blockSize + windowTokens));
      this.#wasm.hashBlocks(count, 4 * windowTokens, 4 * blockSize);
      if (mmHashes !== undefined) this.#mixMultimodal(tokens, mmHashes, block, count, blockSize, windowTokens);
      this.#wasm.chainBlocks(count);
      blockHashes.set(this.#blocks.subarray(0, 2 * count), 2 * block);
      sequenceHashes.set(this.#sequences.subarray(0, 2 * count), 2 * block);
    }
    return { blockHashes, sequenceHashes };
  }

  chain(
    parentLow: number,
    parentHigh: number,
    hasParent: boolean,
    blockHashes: Uint32Array,
    first: number,
    count: number,
    sequenceHashes: Uint32Array,
    at: number,
  ): void {
    if (hasParent) this.#wasm.continueChain(parentLow, parentHigh);
    else this.#wasm.beginChain();
    for (let done = 0; done < count; done += this.#maxHashes) {
      const slice = Math.min(this.#maxHashes, count - done);
      copy(blockHashes, 2 * (first + done), this.#blocks, 0, 2 * slice);
      this.#wasm.chainBlocks(slice);
      copy(this.#sequences, 0, sequenceHashes, 2 * (at + done), 2 * slice);
    }
  }

  xxh3(bytes: Uint8Array, seed: bigint): bigint {
    this.#isSeeded = false;
    this.#wasm.setSeed(Number(seed & 0xffff_ffffn), Number((seed >> 32n) & 0xffff_ffffn));
    if (bytes.length <= wholeBytes) {
      this.#bytes.set(bytes);
      this.#wasm.hashBytes(bytes.length, 0);
    } else {
      this.#hashLong(bytes);
    }
    return this.#firstBlock();
  }

  /** In chunks, each with the 64 bytes before it, which the end may need. */
  #hashLong(bytes: Uint8Array): void {
    this.#wasm.beginLong();
    const last = longBlock * Math.floor((bytes.length - 1) / longBlock);
    for (let from = 0; from < last; from += chunkBytes) {
      const to = Math.min(last, from + chunkBytes);
      this.#bytes.set(bytes.subarray(from, to));
      this.#wasm.absorbLong(0, (to - from) / longBlock);
    }
    this.#bytes.set(bytes.subarray(last - overlap));
    this.#wasm.endLong(overlap, bytes.length - last, bytes.length);
  }

  #seed(loraName: string | undefined, cacheSalt: string | undefined): void {
    if (this.#isSeeded && this.#lora === loraName && this.#salt === cacheSalt) return;
    let seed = baseSeed;
    if (loraName !== undefined && loraName !== "") seed += this.xxh3(encoder.encode(loraName), 0n);
    if (cacheSalt !== undefined && cacheSalt !== "") seed += this.xxh3(encoder.encode(cacheSalt), 1n);
    this.#wasm.setSeed(Number(seed & 0xffff_ffffn), Number((seed >> 32n) & 0xffff_ffffn));
    this.#lora = loraName;
    this.#salt = cacheSalt;
    this.#isSeeded = true;
  }

  #beginChain(skipped: number, sequenceHashes: Uint32Array): void {
    if (skipped === 0) this.#wasm.beginChain();
    else this.#wasm.continueChain(sequenceHashes[2 * skipped - 2] as number, sequenceHashes[2 * skipped - 1] as number);
  }

  /** Hashes the blocks with multimodal objects again, the objects' hashes in ascending order behind the tokens. */
  #mixMultimodal(
    tokens: Uint32Array,
    mmHashes: readonly (readonly bigint[] | undefined)[],
    firstBlock: number,
    count: number,
    blockSize: number,
    windowTokens: number,
  ): void {
    const end = Math.min(count, mmHashes.length - firstBlock);
    for (let i = 0; i < end; i++) {
      const objects = mmHashes[firstBlock + i];
      if (objects === undefined) continue;
      const from = (firstBlock + i) * blockSize;
      const words = new Uint32Array(windowTokens + 2 * objects.length);
      words.set(tokens.subarray(from, from + windowTokens));
      const ascending = [...objects].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
      for (let object = 0; object < ascending.length; object++) {
        const value = ascending[object] as bigint;
        words[windowTokens + 2 * object] = Number(value & 0xffff_ffffn);
        words[windowTokens + 2 * object + 1] = Number(value >> 32n);
      }
      this.#rehash(new Uint8Array(words.buffer), i);
    }
  }

  /** Hashes bytes that may be longer than the window into number `index` of the slice's blocks; the seed stays. */
  #rehash(bytes: Uint8Array, index: number): void {
    if (bytes.length <= wholeBytes) {
      this.#bytes.set(bytes);
      this.#wasm.hashBytes(bytes.length, index);
      return;
    }
    const [low, high] = [this.#blocks[0] as number, this.#blocks[1] as number];
    this.#hashLong(bytes);
    this.#blocks.copyWithin(2 * index, 0, 2);
    if (index > 0) this.#blocks.set([low, high]);
  }

  #firstBlock(): bigint {
    return (BigInt(this.#blocks[1] as number) << 32n) | BigInt(this.#blocks[0] as number);
  }
}
