/**
 * The prompt blocks of running requests: which ranks use which block now, counted once a rank however many of its requests share it. One table for
 * all ranks, so that a prompt is compared with every rank in one walk along its chain.
 *
 *     hash ──▶ node: low, high, next of the bucket, holders   and   a mask: one bit a rank slot
 *
 * A sequence hash stands for the whole prefix before it, so a block that a rank has implies the ones before, and the number of a rank's requests
 * that share a block never grows along a chain. 16 bytes and 4 a 32 ranks for each distinct block, 4 for each block of each booking.
 * Nodes lie in chunks that never move, and 256 bucket tables grow on their own: no call rebuilds more than 1/256 of anything, but the one that
 * first needs a wider mask. Memory follows the peak of what ran at once; it is given back when nothing runs.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { type AddressSecrets, addressOf } from "../../data/prefix-index/block-address.ts";
import { ShareCounts } from "./share-counts.ts";

const LOW = 0;
const HIGH = 1;
/** Next node of the same bucket or of the free list; 0 ends both. Node 0 is never used. */
const CHAIN = 2;
/** Ranks that have the block. */
const HOLDERS = 3;
const stride = 4;

const chunkBits = 10;
const chunkNodes = 1 << chunkBits;
const chunkMask = chunkNodes - 1;
const shardCount = 256;
const minShardBits = 2;
/** Ranks of one stage. */
export const maxSlots = 1 << 16;

export class ActiveBlocks {
  readonly #secrets: AddressSecrets;
  readonly #shares = new ShareCounts();
  /** Weight of a rank's block where it is not 1: node × 2^16 + slot → fraction. Empty unless output is tracked with a known length. */
  readonly #fractions = new Map<number, number>();
  /** Words of nodes, and their masks, by chunk. */
  #nodes: Int32Array[] = [];
  #masks: Int32Array[] = [];
  #words = 1;
  /** First node of each bucket, by shard. */
  #buckets = emptyShards();
  readonly #bits = new Uint8Array(shardCount).fill(minShardBits);
  readonly #counts = new Uint32Array(shardCount);
  #used = 1;
  #free = 0;
  #blocks = 0;
  #alive = new Int32Array(1);

  constructor(secrets: AddressSecrets) {
    this.#secrets = secrets;
  }

  /** Distinct blocks in use by any rank. */
  get blocks(): number {
    return this.#blocks;
  }

  get sizeBytes(): number {
    const bytes = (arrays: readonly Int32Array[]): number => arrays.reduce((sum, array) => sum + array.byteLength, 0);
    return bytes(this.#nodes) + bytes(this.#masks) + bytes(this.#buckets) + this.#shares.sizeBytes;
  }

  /** Makes room for rank slots below `count`. */
  reserveSlots(count: number): void {
    if (count > maxSlots) throw new RangeError(`a stage has room for ${maxSlots} ranks`);
    let words = this.#words;
    while (words * 32 < count) words *= 2;
    if (words === this.#words) return;
    this.#masks = this.#masks.map((narrow) => {
      const wide = new Int32Array(chunkNodes * words);
      for (let node = 0; node < chunkNodes; node++) {
        for (let word = 0; word < this.#words; word++) wide[node * words + word] = narrow[node * this.#words + word]!;
      }
      return wide;
    });
    this.#words = words;
    this.#alive = new Int32Array(words);
  }

  /** Takes the blocks of a chain for a rank and fills `nodes` with their numbers. Returns how many of them the rank did not have. */
  acquire(slot: number, hashes: Uint32Array, nodes: Int32Array): number {
    const word = slot >>> 5;
    const bit = 1 << (slot & 31);
    let added = 0;
    for (let block = 0; block < nodes.length; block++) {
      const low = hashes[block * 2]! | 0;
      const high = hashes[block * 2 + 1]! | 0;
      const address = addressOf(this.#secrets, low, high);
      let node = this.#find(address, low, high);
      if (node === 0) node = this.#insert(address, low, high);
      nodes[block] = node;
      const masks = this.#masks[node >>> chunkBits]!;
      const at = (node & chunkMask) * this.#words + word;
      if ((masks[at]! & bit) !== 0) {
        this.#shares.increment(node, slot);
      } else {
        masks[at]! |= bit;
        this.#nodes[node >>> chunkBits]![(node & chunkMask) * stride + HOLDERS]!++;
        added++;
      }
    }
    return added;
  }

  /** Gives back what `acquire` took. Returns the weight of the blocks that no other request of the rank uses. */
  release(slot: number, nodes: Int32Array): number {
    const word = slot >>> 5;
    const bit = 1 << (slot & 31);
    let weight = 0;
    for (let block = nodes.length - 1; block >= 0; block--) {
      const node = nodes[block]!;
      if (this.#shares.decrement(node, slot)) continue;
      weight += this.#takeFraction(node, slot);
      this.#masks[node >>> chunkBits]![(node & chunkMask) * this.#words + word]! &= ~bit;
      if (--this.#nodes[node >>> chunkBits]![(node & chunkMask) * stride + HOLDERS]! === 0) this.#remove(node);
    }
    if (this.#blocks === 0 && this.#nodes.length > 1) this.#reset();
    return weight;
  }

  /** Gives the blocks at the chain's end that only this booking of the rank uses a weight. Returns by how much the rank's total changes. */
  weighExclusiveEnd(slot: number, nodes: Int32Array, fraction: number): number {
    let change = 0;
    for (let block = nodes.length - 1; block >= 0; block--) {
      const node = nodes[block]!;
      if (this.#shares.isShared(node, slot)) break;
      change += fraction - this.#takeFraction(node, slot);
      if (fraction !== 1) this.#fractions.set(node * maxSlots + slot, fraction);
    }
    return change;
  }

  /** How many blocks from the chain's start each rank has in use, by slot. */
  match(hashes: Uint32Array, blocks: number, depths: Int32Array): void {
    depths.fill(0);
    if (blocks === 0 || this.#blocks === 0) return;
    const alive = this.#alive;
    const words = this.#words;
    for (let block = 0; block < blocks; block++) {
      const low = hashes[block * 2]! | 0;
      const high = hashes[block * 2 + 1]! | 0;
      const node = this.#find(addressOf(this.#secrets, low, high), low, high);
      if (node === 0) {
        if (block > 0) this.#settle(depths, block);
        return;
      }
      const masks = this.#masks[node >>> chunkBits]!;
      const at = (node & chunkMask) * words;
      if (block === 0) {
        for (let word = 0; word < words; word++) alive[word] = masks[at + word]!;
        continue;
      }
      let any = 0;
      for (let word = 0; word < words; word++) {
        const before = alive[word]!;
        if (before === 0) continue;
        const after = before & masks[at + word]!;
        let dropped = before ^ after;
        while (dropped !== 0) {
          depths[word * 32 + 31 - Math.clz32(dropped & -dropped)] = block;
          dropped &= dropped - 1;
        }
        alive[word] = after;
        any |= after;
      }
      if (any === 0) return;
    }
    this.#settle(depths, blocks);
  }

  #settle(depths: Int32Array, depth: number): void {
    for (let word = 0; word < this.#words; word++) {
      let bits = this.#alive[word]!;
      while (bits !== 0) {
        depths[word * 32 + 31 - Math.clz32(bits & -bits)] = depth;
        bits &= bits - 1;
      }
    }
  }

  #takeFraction(node: number, slot: number): number {
    if (this.#fractions.size === 0) return 1;
    const key = node * maxSlots + slot;
    const fraction = this.#fractions.get(key);
    if (fraction === undefined) return 1;
    this.#fractions.delete(key);
    return fraction;
  }

  #find(address: number, low: number, high: number): number {
    const shard = address & (shardCount - 1);
    let node = this.#buckets[shard]![address >>> (32 - this.#bits[shard]!)]!;
    while (node !== 0) {
      const nodes = this.#nodes[node >>> chunkBits]!;
      const at = (node & chunkMask) * stride;
      if (nodes[at + LOW] === low && nodes[at + HIGH] === high) return node;
      node = nodes[at + CHAIN]!;
    }
    return 0;
  }

  #insert(address: number, low: number, high: number): number {
    const shard = address & (shardCount - 1);
    if (this.#counts[shard]! >= this.#buckets[shard]!.length) this.#grow(shard);
    const node = this.#allocate();
    const nodes = this.#nodes[node >>> chunkBits]!;
    const at = (node & chunkMask) * stride;
    const buckets = this.#buckets[shard]!;
    const bucket = address >>> (32 - this.#bits[shard]!);
    nodes[at + LOW] = low;
    nodes[at + HIGH] = high;
    nodes[at + CHAIN] = buckets[bucket]!;
    nodes[at + HOLDERS] = 0;
    buckets[bucket] = node;
    this.#counts[shard]!++;
    this.#blocks++;
    return node;
  }

  #allocate(): number {
    const node = this.#free;
    if (node !== 0) {
      this.#free = this.#nodes[node >>> chunkBits]![(node & chunkMask) * stride + CHAIN]!;
      return node;
    }
    if (this.#used >>> chunkBits === this.#nodes.length) {
      this.#nodes.push(new Int32Array(chunkNodes * stride));
      this.#masks.push(new Int32Array(chunkNodes * this.#words));
    }
    return this.#used++;
  }

  /** The node's mask is all zero by now. */
  #remove(node: number): void {
    const nodes = this.#nodes[node >>> chunkBits]!;
    const at = (node & chunkMask) * stride;
    const address = addressOf(this.#secrets, nodes[at + LOW]!, nodes[at + HIGH]!);
    const shard = address & (shardCount - 1);
    const buckets = this.#buckets[shard]!;
    const bucket = address >>> (32 - this.#bits[shard]!);
    if (buckets[bucket] === node) {
      buckets[bucket] = nodes[at + CHAIN]!;
    } else {
      let before = buckets[bucket]!;
      while (this.#chainOf(before) !== node) before = this.#chainOf(before);
      this.#nodes[before >>> chunkBits]![(before & chunkMask) * stride + CHAIN] = nodes[at + CHAIN]!;
    }
    nodes[at + CHAIN] = this.#free;
    this.#free = node;
    this.#counts[shard]!--;
    this.#blocks--;
  }

  #chainOf(node: number): number {
    return this.#nodes[node >>> chunkBits]![(node & chunkMask) * stride + CHAIN]!;
  }

  #grow(shard: number): void {
    const old = this.#buckets[shard]!;
    const bits = this.#bits[shard]! + 1;
    const buckets = new Int32Array(1 << bits);
    for (let bucket = 0; bucket < old.length; bucket++) {
      let node = old[bucket]!;
      while (node !== 0) {
        const nodes = this.#nodes[node >>> chunkBits]!;
        const at = (node & chunkMask) * stride;
        const next = nodes[at + CHAIN]!;
        const to = addressOf(this.#secrets, nodes[at + LOW]!, nodes[at + HIGH]!) >>> (32 - bits);
        nodes[at + CHAIN] = buckets[to]!;
        buckets[to] = node;
        node = next;
      }
    }
    this.#buckets[shard] = buckets;
    this.#bits[shard] = bits;
  }

  #reset(): void {
    this.#nodes = [];
    this.#masks = [];
    this.#buckets = emptyShards();
    this.#bits.fill(minShardBits);
    this.#counts.fill(0);
    this.#used = 1;
    this.#free = 0;
  }
}

function emptyShards(): Int32Array[] {
  return Array.from({ length: shardCount }, () => new Int32Array(1 << minShardBits));
}
