/**
 * The blocks that one holder is believed to hold, in the order of their last touch. Every block in here has the holder's bit in the table, and
 * the other way round. 24 bytes a node and 4 to 8 a bucket: 28 to 34 bytes a block of this holder at capacity.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { addressOf } from "./block-address.ts";
import type { BlockHolders } from "./block-holders.ts";

// A node's words. Node 0 is the ring's anchor: its NEXT is the most recent block, its PREVIOUS the least recent.
const LOW = 0;
const HIGH = 1;
const PREVIOUS = 2;
const NEXT = 3;
/** Next node of the same bucket, or of the free list; 0 ends both. */
const CHAIN = 4;
/** The insertion that brought the block; 0 once another has touched it. */
const STAMP = 5;
const stride = 6;

const initialNodes = 64;
/** A full list grows in such steps: insertion runs ahead of eviction by one prompt. */
const growthStep = 1024;
const minBucketBits = 6;

export class HolderBlocks {
  /** Bit number in the table's masks. */
  readonly holder: number;
  readonly #table: BlockHolders;
  #capacity: number;
  #nodes = new Int32Array(initialNodes * stride);
  #buckets = new Int32Array(1 << minBucketBits);
  #bucketBits = minBucketBits;
  /** Nodes ever used, the anchor included. */
  #used = 1;
  #free = 0;
  #size = 0;

  constructor(table: BlockHolders, holder: number, capacity: number) {
    this.#table = table;
    this.holder = holder;
    this.#capacity = capacity;
  }

  get size(): number {
    return this.#size;
  }

  /** In blocks. Lowering it evicts nothing by itself: `trim` does, in slices. */
  get capacity(): number {
    return this.#capacity;
  }

  set capacity(blocks: number) {
    this.#capacity = blocks;
  }

  get sizeBytes(): number {
    return this.#nodes.byteLength + this.#buckets.byteLength;
  }

  /**
   * Makes the block the most recent one and says whether it is new here. A new block is kept under the stamp; the stamp of one that another
   * insertion touches is wiped. `expectNew` only decides where to look first: a prompt's blocks are new from its end up to one point and
   * held before it, so the block before is the guess, and a right guess costs one look-up instead of two.
   */
  touch(low: number, high: number, stamp: number, expectNew: boolean): boolean {
    if ((low | high) === 0) return false;
    const address = addressOf(this.#table.secrets, low, high);
    if (expectNew && this.#table.add(address, low, high, this.holder)) {
      this.#insert(address, low, high, stamp);
      return true;
    }
    const found = this.#find(address, low, high);
    if (found === 0) {
      this.#table.add(address, low, high, this.holder);
      this.#insert(address, low, high, stamp);
      return true;
    }
    const at = found * stride;
    if (this.#nodes[at + STAMP] !== stamp) this.#nodes[at + STAMP] = 0;
    if (this.#nodes[NEXT] !== found) {
      this.#unlink(at);
      this.#linkFirst(found);
    }
    return false;
  }

  /** Makes the block the most recent one under this stamp, new or not. The table's all-zero hash is left out. */
  refresh(low: number, high: number, stamp: number): void {
    if ((low | high) === 0) return;
    const address = addressOf(this.#table.secrets, low, high);
    const found = this.#find(address, low, high);
    if (found === 0) {
      this.#table.add(address, low, high, this.holder);
      this.#insert(address, low, high, stamp);
      return;
    }
    const at = found * stride;
    this.#nodes[at + STAMP] = stamp;
    if (this.#nodes[NEXT] !== found) {
      this.#unlink(at);
      this.#linkFirst(found);
    }
  }

  /** Holds the block as the least recent one, where it is new and there is room. False where there is none. */
  addOldest(low: number, high: number): boolean {
    if (this.#size >= this.#capacity) return false;
    if ((low | high) === 0) return true;
    const address = addressOf(this.#table.secrets, low, high);
    if (this.#find(address, low, high) !== 0) return true;
    this.#table.add(address, low, high, this.holder);
    this.#insert(address, low, high, 0);
    const node = this.#nodes[NEXT]!;
    this.#unlink(node * stride);
    this.#linkLast(node);
    return true;
  }

  /** Hashes of at most `limit` blocks, most recent first, low and high words interleaved. */
  recent(limit: number): Int32Array {
    const words = new Int32Array(2 * Math.min(limit, this.#size));
    let node = this.#nodes[NEXT]!;
    for (let at = 0; at < words.length; at += 2) {
      words[at] = this.#nodes[node * stride + LOW]!;
      words[at + 1] = this.#nodes[node * stride + HIGH]!;
      node = this.#nodes[node * stride + NEXT]!;
    }
    return words;
  }

  /** Stamp of a block that is held; 0 for one that is not. */
  stampOf(low: number, high: number): number {
    const found = this.#find(addressOf(this.#table.secrets, low, high), low, high);
    return found === 0 ? 0 : this.#nodes[found * stride + STAMP]!;
  }

  /** Stamp of the least recent block; 0 when there is none. */
  get oldestStamp(): number {
    return this.#size === 0 ? 0 : this.#nodes[this.#nodes[PREVIOUS]! * stride + STAMP]!;
  }

  /** Removes least recent blocks as long as their stamp is not above `stamp`, at most `limit`; returns how many. */
  expire(stamp: number, limit: number): number {
    let expired = 0;
    for (; expired < limit && this.#size > 0; expired++) {
      const node = this.#nodes[PREVIOUS]!;
      const at = node * stride;
      if (this.#nodes[at + STAMP]! > stamp) break;
      this.#remove(node, addressOf(this.#table.secrets, this.#nodes[at + LOW]!, this.#nodes[at + HIGH]!));
    }
    return expired;
  }

  /** Removes the block if this insertion brought it and no other has touched it since. */
  forget(low: number, high: number, stamp: number): void {
    const address = addressOf(this.#table.secrets, low, high);
    const node = this.#find(address, low, high);
    if (node !== 0 && this.#nodes[node * stride + STAMP] === stamp) this.#remove(node, address);
  }

  /** Evicts the least recent blocks beyond the capacity, at most `limit` of them; gives memory back once well below what was allocated. */
  trim(limit: number): void {
    for (let evicted = 0; evicted < limit && this.#size > this.#capacity; evicted++) {
      const node = this.#nodes[PREVIOUS]!;
      this.#remove(
        node,
        addressOf(this.#table.secrets, this.#nodes[node * stride + LOW]!, this.#nodes[node * stride + HIGH]!),
      );
    }
    const allocated = this.#nodes.length / stride;
    if (this.#size <= this.#capacity && allocated > 2 * this.#capacity + 2 * growthStep) this.#compact();
  }

  #insert(address: number, low: number, high: number, stamp: number): void {
    if (this.#size >= this.#buckets.length) this.#rebucket(this.#bucketBits + 1);
    const node = this.#allocate();
    const nodes = this.#nodes;
    const at = node * stride;
    const bucket = address >>> (32 - this.#bucketBits);
    nodes[at + LOW] = low;
    nodes[at + HIGH] = high;
    nodes[at + CHAIN] = this.#buckets[bucket]!;
    nodes[at + STAMP] = stamp;
    this.#buckets[bucket] = node;
    this.#linkFirst(node);
    this.#size++;
  }

  #find(address: number, low: number, high: number): number {
    const nodes = this.#nodes;
    let node = this.#buckets[address >>> (32 - this.#bucketBits)]!;
    while (node !== 0 && (nodes[node * stride + LOW] !== low || nodes[node * stride + HIGH] !== high)) {
      node = nodes[node * stride + CHAIN]!;
    }
    return node;
  }

  #remove(node: number, address: number): void {
    const nodes = this.#nodes;
    const at = node * stride;
    const bucket = address >>> (32 - this.#bucketBits);
    let before = this.#buckets[bucket]!;
    if (before === node) {
      this.#buckets[bucket] = nodes[at + CHAIN]!;
    } else {
      while (nodes[before * stride + CHAIN] !== node) before = nodes[before * stride + CHAIN]!;
      nodes[before * stride + CHAIN] = nodes[at + CHAIN]!;
    }
    this.#unlink(at);
    nodes[at + CHAIN] = this.#free;
    this.#free = node;
    this.#size--;
    this.#table.remove(address, nodes[at + LOW]!, nodes[at + HIGH]!, this.holder);
  }

  #unlink(at: number): void {
    const nodes = this.#nodes;
    const previous = nodes[at + PREVIOUS]!;
    const next = nodes[at + NEXT]!;
    nodes[previous * stride + NEXT] = next;
    nodes[next * stride + PREVIOUS] = previous;
  }

  #linkFirst(node: number): void {
    const nodes = this.#nodes;
    const first = nodes[NEXT]!;
    nodes[node * stride + PREVIOUS] = 0;
    nodes[node * stride + NEXT] = first;
    nodes[first * stride + PREVIOUS] = node;
    nodes[NEXT] = node;
  }

  #linkLast(node: number): void {
    const nodes = this.#nodes;
    const last = nodes[PREVIOUS]!;
    nodes[node * stride + NEXT] = 0;
    nodes[node * stride + PREVIOUS] = last;
    nodes[last * stride + NEXT] = node;
    nodes[PREVIOUS] = node;
  }

  #allocate(): number {
    if (this.#free !== 0) {
      const node = this.#free;
      this.#free = this.#nodes[node * stride + CHAIN]!;
      return node;
    }
    const allocated = this.#nodes.length / stride;
    if (this.#used === allocated) {
      const room =
        allocated < this.#capacity ? Math.min(2 * allocated, this.#capacity + growthStep) : allocated + growthStep;
      const grown = new Int32Array(room * stride);
      grown.set(this.#nodes);
      this.#nodes = grown;
    }
    return this.#used++;
  }

  #rebucket(bits: number): void {
    const nodes = this.#nodes;
    const buckets = new Int32Array(1 << bits);
    for (let node = nodes[NEXT]!; node !== 0; node = nodes[node * stride + NEXT]!) {
      const at = node * stride;
      const bucket = addressOf(this.#table.secrets, nodes[at + LOW]!, nodes[at + HIGH]!) >>> (32 - bits);
      nodes[at + CHAIN] = buckets[bucket]!;
      buckets[bucket] = node;
    }
    this.#buckets = buckets;
    this.#bucketBits = bits;
  }

  /** Moves the nodes to arrays of their number, least recent first. */
  #compact(): void {
    const old = this.#nodes;
    const nodes = new Int32Array((this.#size + growthStep) * stride);
    this.#nodes = nodes;
    this.#used = 1;
    this.#free = 0;
    for (let node = old[PREVIOUS]!; node !== 0; node = old[node * stride + PREVIOUS]!) {
      const to = this.#used++;
      nodes[to * stride + LOW] = old[node * stride + LOW]!;
      nodes[to * stride + HIGH] = old[node * stride + HIGH]!;
      nodes[to * stride + STAMP] = old[node * stride + STAMP]!;
      this.#linkFirst(to);
    }
    this.#rebucket(Math.max(minBucketBits, 32 - Math.clz32(this.#size)));
  }
}
