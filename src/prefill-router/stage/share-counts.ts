/**
 * How many bookings of one rank share a block, where that is more than one: (block, rank slot) → count by open addressing. Deletion shifts
 * the run back, so there are no tombstones and a look-up ends at the first free entry. 64 tables grow and shrink on their own.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep

// An entry's words. NODE is the block's number plus one; 0 marks a free entry.
const NODE = 0;
const SLOT = 1;
const COUNT = 2;
const stride = 3;

const shardBits = 6;
const minBits = 3;
const maxLoad = 0.6;
const minLoad = 0.1;

export class ShareCounts {
  readonly #tables = Array.from({ length: 1 << shardBits }, () => new ShareTable());

  get sizeBytes(): number {
    return this.#tables.reduce((sum, table) => sum + table.sizeBytes, 0);
  }

  /** One more booking holds the block that at least one held before. */
  increment(node: number, slot: number): void {
    const mixed = mix(node, slot);
    this.#tables[mixed & ((1 << shardBits) - 1)]!.increment(mixed, node, slot);
  }

  /** One booking less; false when the block was held once only, which is then not counted here. */
  decrement(node: number, slot: number): boolean {
    const mixed = mix(node, slot);
    return this.#tables[mixed & ((1 << shardBits) - 1)]!.decrement(mixed, node, slot);
  }

  isShared(node: number, slot: number): boolean {
    const mixed = mix(node, slot);
    return this.#tables[mixed & ((1 << shardBits) - 1)]!.has(mixed, node, slot);
  }
}

/** The shard is in the low bits, the place in its table in the high ones. */
function mix(node: number, slot: number): number {
  let mixed = Math.imul(node, 0x9e3779b1) ^ Math.imul(slot + 1, 0x85ebca77);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x2c1b3c6d);
  return mixed ^ (mixed >>> 13);
}

class ShareTable {
  #entries = new Int32Array(stride << minBits);
  #bits = minBits;
  #size = 0;

  get sizeBytes(): number {
    return this.#entries.byteLength;
  }

  increment(mixed: number, node: number, slot: number): void {
    let at = this.#find(mixed, node, slot);
    if (this.#entries[at + NODE] !== 0) {
      this.#entries[at + COUNT]!++;
      return;
    }
    if (this.#size + 1 > maxLoad * (1 << this.#bits)) {
      this.#resize(this.#bits + 1);
      at = this.#find(mixed, node, slot);
    }
    this.#entries[at + NODE] = node + 1;
    this.#entries[at + SLOT] = slot;
    this.#entries[at + COUNT] = 2;
    this.#size++;
  }

  decrement(mixed: number, node: number, slot: number): boolean {
    if (this.#size === 0) return false;
    const at = this.#find(mixed, node, slot);
    if (this.#entries[at + NODE] === 0) return false;
    if (--this.#entries[at + COUNT]! === 1) this.#remove(at);
    return true;
  }

  has(mixed: number, node: number, slot: number): boolean {
    return this.#size !== 0 && this.#entries[this.#find(mixed, node, slot) + NODE] !== 0;
  }

  /** Offset of the entry, or of the free one where it would go. */
  #find(mixed: number, node: number, slot: number): number {
    const entries = this.#entries;
    const mask = (1 << this.#bits) - 1;
    let index = mixed >>> (32 - this.#bits);
    for (;;) {
      const at = index * stride;
      const key = entries[at + NODE]!;
      if (key === 0 || (key === node + 1 && entries[at + SLOT] === slot)) return at;
      index = (index + 1) & mask;
    }
  }

  #remove(at: number): void {
    const entries = this.#entries;
    const mask = (1 << this.#bits) - 1;
    let hole = at / stride;
    let index = hole;
    for (;;) {
      index = (index + 1) & mask;
      const next = index * stride;
      const key = entries[next + NODE]!;
      if (key === 0) break;
      const home = mix(key - 1, entries[next + SLOT]!) >>> (32 - this.#bits);
      // An entry may move into the hole unless its home lies between the hole and itself.
      if (((index - home) & mask) < ((index - hole) & mask)) continue;
      entries.copyWithin(hole * stride, next, next + stride);
      hole = index;
    }
    entries[hole * stride + NODE] = 0;
    this.#size--;
    if (this.#bits > minBits && this.#size < minLoad * (1 << this.#bits)) this.#resize(this.#bits - 1);
  }

  #resize(bits: number): void {
    const old = this.#entries;
    this.#entries = new Int32Array(stride << bits);
    this.#bits = bits;
    for (let at = 0; at < old.length; at += stride) {
      if (old[at + NODE] === 0) continue;
      const node = old[at + NODE]! - 1;
      const to = this.#find(mix(node, old[at + SLOT]!), node, old[at + SLOT]!);
      this.#entries[to + NODE] = old[at + NODE]!;
      this.#entries[to + SLOT] = old[at + SLOT]!;
      this.#entries[to + COUNT] = old[at + COUNT]!;
    }
  }
}
