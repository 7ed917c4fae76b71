/**
 * Which holder has which prefix: a block → holders table and, for each holder, its blocks in LRU order. A prompt is touched deepest block first,
 * so that tails are evicted before the heads they depend on. No call does more work than its own prompt and a bounded slice of upkeep.
 *
 * Memory: 28 to 34 bytes for each block of each holder at its capacity (while it fills, up to twice that) and 23 to 46 bytes for each distinct
 * block, and with more than 64 holders 4 + holders/8 more for a block that more than four of them have. Capacities bound the number of blocks.
 */
import { createAddressSecrets } from "./block-address.ts";
import { BlockHolders } from "./block-holders.ts";
import { HolderBlocks } from "./holder-blocks.ts";

/** Blocks evicted in one call for the sake of holders that left or whose capacity shrank. */
const upkeepBlocks = 512;

export class PrefixIndex {
  readonly #table: BlockHolders;
  /** By bit number; undefined where the bit is free. */
  readonly #holders: (HolderBlocks | undefined)[] = [];
  readonly #leaving: HolderBlocks[] = [];
  #lastStamp = 0;

  /** `random` is uniform in [0, 1); it seeds where blocks lie in the tables and decides nothing else. */
  constructor(random: () => number) {
    this.#table = new BlockHolders(createAddressSecrets(random));
  }

  /** Distinct blocks. */
  get blocks(): number {
    return this.#table.blocks;
  }

  /** Bits in use or once used: the length that `depths` needs. */
  get holderCount(): number {
    return this.#holders.length;
  }

  get sizeBytes(): number {
    return this.#holders.reduce((sum, blocks) => sum + (blocks?.sizeBytes ?? 0), this.#table.sizeBytes);
  }

  attach(capacityBlocks: number): HolderBlocks {
    let holder = this.#holders.indexOf(undefined);
    if (holder < 0) holder = this.#holders.length;
    const blocks = new HolderBlocks(this.#table, holder, capacityBlocks);
    this.#holders[holder] = blocks;
    return blocks;
  }

  /** The holder is gone. Its bits are cleared in slices by the next insertions, and only then is its number used again. */
  detach(blocks: HolderBlocks): void {
    if (!this.isAttached(blocks)) return;
    blocks.capacity = 0;
    this.#leaving.push(blocks);
    this.#clearLeaving();
  }

  isAttached(blocks: HolderBlocks): boolean {
    return this.#holders[blocks.holder] === blocks && !this.#leaving.includes(blocks);
  }

  /**
   * Adds to depths[holder], for each holder whose bit is set in `alive`, its longest contiguous match in each chain. Chain i is the blocks from
   * chainEnds[i − 1] (0 for the first) up to chainEnds[i]. `scratch` has the length of `alive` and is overwritten.
   */
  match(
    hashes: Uint32Array,
    chainEnds: readonly number[],
    alive: Int32Array,
    scratch: Int32Array,
    depths: Int32Array,
  ): void {
    const words = signed(hashes);
    let start = 0;
    for (let chain = 0; chain < chainEnds.length; chain++) {
      const end = chainEnds[chain] as number;
      scratch.set(alive);
      this.#table.match(words, start, end, scratch, depths);
      start = end;
    }
  }

  /** The holder will hold these blocks. Returns the insertion's stamp, with which it can be taken back. */
  insert(blocks: HolderBlocks, hashes: Uint32Array, chainEnds: readonly number[]): number {
    const words = signed(hashes);
    const stamp = this.#nextStamp();
    let start = 0;
    let touched = 0;
    for (let chain = 0; chain < chainEnds.length; chain++) {
      const end = chainEnds[chain] as number;
      const deepest = Math.min(end, start + blocks.capacity);
      let isNew = true;
      for (let block = deepest - 1; block >= start; block--) {
        isNew = blocks.touch(words[2 * block] as number, words[2 * block + 1] as number, stamp, isNew);
      }
      touched += deepest - start;
      start = end;
    }
    blocks.trim(touched + upkeepBlocks);
    this.#clearLeaving();
    return stamp;
  }

  /** The holder held these blocks before all that it has now, the most recent first: what there is room for is taken. */
  fill(blocks: HolderBlocks, hashes: Uint32Array): void {
    const words = signed(hashes);
    for (let at = 0; at < words.length; at += 2) {
      if (!blocks.addOldest(words[at] as number, words[at + 1] as number)) return;
    }
  }

  /** Takes an insertion back: what it brought and nobody has touched since. */
  forget(blocks: HolderBlocks, stamp: number, hashes: Uint32Array): void {
    const words = signed(hashes);
    for (let at = 0; at < words.length; at += 2) {
      blocks.forget(words[at] as number, words[at + 1] as number, stamp);
    }
  }

  #nextStamp(): number {
    this.#lastStamp = (this.#lastStamp + 1) | 0 || 1;
    return this.#lastStamp;
  }

  #clearLeaving(): void {
    const blocks = this.#leaving[0];
    if (blocks === undefined) return;
    blocks.trim(upkeepBlocks);
    if (blocks.size > 0) return;
    this.#leaving.shift();
    this.#holders[blocks.holder] = undefined;
  }
}

/** The same words as the tables keep them. */
function signed(hashes: Uint32Array): Int32Array {
  return new Int32Array(hashes.buffer, hashes.byteOffset, hashes.length);
}
