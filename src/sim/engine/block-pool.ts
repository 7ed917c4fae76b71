// biome-ignore-all lint/style/noNonNullAssertion: indices stay inside arrays sized at construction; these reads run for every block of every prompt.
/**
 * The paged KV cache: a fixed set of blocks, each free, in use (reference count above zero) or free but still cached under
 * its hash. Free blocks form one LRU list; taking one evicts whatever it cached. Every block is in exactly one of the two
 * states "on the free list" and "referenced".
 */

export class BlockPool {
  readonly size: number;
  /** Blocks on the free list, cached ones included. */
  free: number;
  /** Grows whenever a block becomes free: a waiting request that did not fit need not be tried again before it does. */
  releases = 0;
  readonly #onEvicted: (hashLo: number, hashHi: number) => void;
  readonly #references: Int32Array;
  readonly #previous: Int32Array;
  readonly #next: Int32Array;
  readonly #lo: Uint32Array;
  readonly #hi: Uint32Array;
  readonly #isHashed: Uint8Array;
  readonly #table: Int32Array;
  readonly #mask: number;

  constructor(size: number, onEvicted: (hashLo: number, hashHi: number) => void) {
    this.size = size;
    this.free = size;
    this.#onEvicted = onEvicted;
    this.#references = new Int32Array(size);
    this.#previous = new Int32Array(size + 1);
    this.#next = new Int32Array(size + 1);
    this.#lo = new Uint32Array(size);
    this.#hi = new Uint32Array(size);
    this.#isHashed = new Uint8Array(size);
    let capacity = 8;
    while (capacity < size * 2) capacity *= 2;
    this.#table = new Int32Array(capacity).fill(-1);
    this.#mask = capacity - 1;
    // The sentinel at index `size` closes the ring: its next is the block evicted first.
    for (let block = 0; block <= size; block++) {
      this.#previous[block] = block === 0 ? size : block - 1;
      this.#next[block] = block === size ? 0 : block + 1;
    }
  }

  /** The block cached under this hash, or -1. */
  find(hashLo: number, hashHi: number): number {
    let slot = hashLo & this.#mask;
    for (;;) {
      const block = this.#table[slot]!;
      if (block < 0) return -1;
      if (this.#lo[block] === hashLo && this.#hi[block] === hashHi) return block;
      slot = (slot + 1) & this.#mask;
    }
  }

  isReferenced(block: number): boolean {
    return this.#references[block]! > 0;
  }

  /** Takes the least recently used free block, evicting what it cached. The caller has checked `free`. */
  take(): number {
    const block = this.#next[this.size]!;
    if (block === this.size) throw new Error("block pool: take() with no free block");
    this.#unlink(block);
    if (this.#isHashed[block] === 1) this.#forget(block);
    this.#references[block] = 1;
    return block;
  }

  /** Adds a reference to a block that `find` returned. */
  retain(block: number): void {
    if (this.#references[block] === 0) this.#unlink(block);
    this.#references[block] = this.#references[block]! + 1;
  }

  /** Drops a reference; at zero a cached block is the most recently used free one, an uncached block is reused first. */
  release(block: number): void {
    const references = this.#references[block]! - 1;
    if (references < 0) throw new Error(`block pool: block ${block} released twice`);
    this.#references[block] = references;
    if (references > 0) return;
    const before = this.#isHashed[block] === 1 ? this.#previous[this.size]! : this.size;
    const after = this.#next[before]!;
    this.#next[before] = block;
    this.#previous[block] = before;
    this.#next[block] = after;
    this.#previous[after] = block;
    this.free++;
    this.releases++;
  }

  /** Caches a referenced block under its hash. False when another block already holds that content. */
  cache(block: number, hashLo: number, hashHi: number): boolean {
    if (this.#isHashed[block] === 1 || this.find(hashLo, hashHi) >= 0) return false;
    this.#lo[block] = hashLo;
    this.#hi[block] = hashHi;
    this.#isHashed[block] = 1;
    let slot = hashLo & this.#mask;
    while (this.#table[slot]! >= 0) slot = (slot + 1) & this.#mask;
    this.#table[slot] = block;
    return true;
  }

  /** Forgets all cached content, without telling of each block. False, and nothing done, while a block is referenced. */
  forgetAll(): boolean {
    if (this.free < this.size) return false;
    this.#table.fill(-1);
    this.#isHashed.fill(0);
    return true;
  }

  /** Blocks that hold reusable content, in use or not. */
  cachedBlocks(): number {
    let count = 0;
    for (let block = 0; block < this.size; block++) count += this.#isHashed[block]!;
    return count;
  }

  #unlink(block: number): void {
    const before = this.#previous[block]!;
    const after = this.#next[block]!;
    this.#next[before] = after;
    this.#previous[after] = before;
    this.free--;
  }

  #forget(block: number): void {
    let hole = this.#lo[block]! & this.#mask;
    while (this.#table[hole] !== block) hole = (hole + 1) & this.#mask;
    // Backward shift: every later entry of the run that may not stay behind a hole moves into it, so no tombstones build up.
    let slot = hole;
    for (;;) {
      slot = (slot + 1) & this.#mask;
      const moving = this.#table[slot]!;
      if (moving < 0) break;
      const home = this.#lo[moving]! & this.#mask;
      if (((slot - home) & this.#mask) < ((slot - hole) & this.#mask)) continue;
      this.#table[hole] = moving;
      hole = slot;
    }
    this.#table[hole] = -1;
    this.#isHashed[block] = 0;
    this.#onEvicted(this.#lo[block]!, this.#hi[block]!);
  }
}
