/**
 * Block-chain hashes of a prompt: root = XXH64(target model ‖ cache salt), then for each block XXH64(XXH64(block) ‖ hash before), both as
 * 8-byte little-endian; a shorter last block is hashed too. The bytes pass through a fixed window of WebAssembly memory (192 KiB, never
 * grown) whatever the prompt's length, and that copy is the only one made of them.
 */
import type { ByteRange } from "../../request/parsed-body.ts";
import { hashWasm } from "./hash-wasm.ts";

/** Largest block that fits the window. */
export const maxBlockBytes = 131_072;

export interface BlockHasher {
  /**
   * Sets the root that the following chains start from. A repeated root costs two string comparisons.
   * Hashes differ between models and between salts, so one tenant's prompt never looks cached to another.
   */
  root(model: string, cacheSalt: string | undefined): void;
  /**
   * Hashes the ranges of `body`, read one after the other, as one chain and writes low and high words from hashes[2 × firstBlock] on.
   * Stops after maxBlocks blocks. Returns the number of blocks written.
   */
  hashRanges(
    body: Buffer,
    ranges: readonly ByteRange[],
    blockBytes: number,
    hashes: Uint32Array,
    firstBlock: number,
    maxBlocks: number,
  ): number;
  /** One chain of whole buffers under its own root, in an array of its own: low and high words interleaved. */
  hashChain(
    model: string,
    cacheSalt: string | undefined,
    parts: readonly Buffer[],
    blockBytes: number,
    maxBlocks: number,
  ): Uint32Array;
}

interface HashModule {
  readonly memory: { readonly buffer: ArrayBuffer };
  readonly WINDOW: { readonly value: number };
  readonly MAX_HASHES: { readonly value: number };
  beginRoot(): void;
  absorbRoot(length: number): void;
  endRoot(length: number): void;
  beginChain(): void;
  hashBlocks(length: number, blockBytes: number): number;
}

/** What is used of the global of that name; the Node type definitions leave it out. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
};

let compiled: object | undefined;

/** Each hasher has its own memory; it is for one thread and holds nothing between calls but the last root's names. */
export function createBlockHasher(): BlockHasher {
  compiled ??= new WebAssembly.Module(Buffer.from(hashWasm, "base64"));
  const instance = new WebAssembly.Instance(compiled);
  return new WasmBlockHasher(instance.exports as HashModule);
}

class WasmBlockHasher implements BlockHasher {
  readonly #wasm: HashModule;
  readonly #window: Buffer;
  readonly #words: Uint32Array;
  readonly #maxHashes: number;
  #model: string | undefined;
  #salt: string | undefined;

  #hashes: Uint32Array = new Uint32Array(0);
  #blockBytes = 0;
  /** Bytes of the window that are used for whole blocks. */
  #sliceBytes = 0;
  #filled = 0;
  /** Bytes of the chain that may still be read. */
  #remaining = 0;
  /** Next block to write. */
  #block = 0;

  constructor(wasm: HashModule) {
    const windowBytes = wasm.WINDOW.value;
    this.#wasm = wasm;
    this.#maxHashes = wasm.MAX_HASHES.value;
    this.#window = Buffer.from(wasm.memory.buffer, 0, windowBytes);
    this.#words = new Uint32Array(wasm.memory.buffer, windowBytes, 2 * this.#maxHashes);
  }

  root(model: string, cacheSalt: string | undefined): void {
    if (model === this.#model && cacheSalt === this.#salt) return;
    this.#wasm.beginRoot();
    this.#filled = 0;
    this.#absorb(model);
    if (cacheSalt !== undefined) this.#absorb(cacheSalt);
    this.#wasm.endRoot(this.#filled);
    this.#model = model;
    this.#salt = cacheSalt;
  }

  hashRanges(
    body: Buffer,
    ranges: readonly ByteRange[],
    blockBytes: number,
    hashes: Uint32Array,
    firstBlock: number,
    maxBlocks: number,
  ): number {
    this.#begin(blockBytes, hashes, firstBlock, maxBlocks);
    for (let i = 0; i < ranges.length; i++) {
      const range = ranges[i] as ByteRange;
      this.#feed(body, range.start, range.end);
    }
    return this.#end() - firstBlock;
  }

  hashChain(
    model: string,
    cacheSalt: string | undefined,
    parts: readonly Buffer[],
    blockBytes: number,
    maxBlocks: number,
  ): Uint32Array {
    this.root(model, cacheSalt);
    let totalBytes = 0;
    for (const part of parts) totalBytes += part.length;
    const hashes = new Uint32Array(2 * Math.min(maxBlocks, Math.ceil(totalBytes / blockBytes)));
    this.#begin(blockBytes, hashes, 0, maxBlocks);
    for (const part of parts) this.#feed(part, 0, part.length);
    this.#end();
    return hashes;
  }

  #begin(blockBytes: number, hashes: Uint32Array, firstBlock: number, maxBlocks: number): void {
    if (!(blockBytes >= 1 && blockBytes <= maxBlockBytes)) throw new RangeError(`block of ${blockBytes} bytes`);
    this.#blockBytes = blockBytes;
    this.#sliceBytes = Math.min(Math.floor(maxBlockBytes / blockBytes), this.#maxHashes) * blockBytes;
    this.#filled = 0;
    this.#hashes = hashes;
    this.#block = firstBlock;
    this.#remaining = maxBlocks * blockBytes;
    this.#wasm.beginChain();
  }

  #feed(source: Buffer, start: number, end: number): void {
    const stop = Math.min(end, start + this.#remaining);
    this.#remaining -= Math.max(0, stop - start);
    for (let at = start; at < stop; ) {
      const take = Math.min(stop - at, this.#sliceBytes - this.#filled);
      source.copy(this.#window, this.#filled, at, at + take);
      at += take;
      this.#filled += take;
      if (this.#filled === this.#sliceBytes) this.#flush();
    }
  }

  #flush(): void {
    const blocks = this.#wasm.hashBlocks(this.#filled, this.#blockBytes);
    this.#hashes.set(this.#words.subarray(0, 2 * blocks), 2 * this.#block);
    this.#block += blocks;
    this.#filled = 0;
  }

  #end(): number {
    if (this.#filled > 0) this.#flush();
    this.#hashes = noHashes;
    return this.#block;
  }

  /** Takes the UTF-8 of any text into the root, a window at a time; fewer than 32 bytes stay at the window's start. */
  #absorb(text: string): void {
    for (let from = 0; from < text.length; ) {
      const { read, written } = encoder.encodeInto(
        from === 0 ? text : text.slice(from),
        this.#window.subarray(this.#filled),
      );
      from += read;
      const total = this.#filled + written;
      const whole = total - (total % 32);
      this.#wasm.absorbRoot(whole);
      this.#window.copyWithin(0, whole, total);
      this.#filled = total - whole;
    }
  }
}

const encoder = new TextEncoder();
const noHashes = new Uint32Array(0);
