/**
 * The block → holders table: for each 64-bit block hash a bit mask of who holds it, by open addressing in typed arrays. Key and mask lie side by
 * side, so a probe touches one cache line; deletion shifts the run back, so there are no tombstones. 256 shards grow, shrink and widen
 * on their own, so no call ever rebuilds more than 1/256 of the table.
 *
 *     shard   ┌─ low ─┬─ high ─┬─ mask 0 ─┬─ mask 1 ─┬ … ┐   one entry: 8 + 4 bytes a 32 holders (at least 64)
 *             └───────┴────────┴──────────┴──────────┴───┘   both key words 0: free
 *
 * Words are signed throughout: V8 keeps a 32-bit signed number in a register or a tagged word, an unsigned one above 2^31 on the heap.
 *
 * With up to 64 holders an entry is 16 bytes; at the load factors kept (0.35 to 0.7 while growing) that is 23 to 46 bytes a distinct block.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { type AddressSecrets, addressOf } from "./block-address.ts";

const shardCount = 256;
const minShardBits = 4;
const maxLoad = 0.7;
const minLoad = 0.15;
const minMaskWords = 2;

export class BlockHolders {
  readonly secrets: AddressSecrets;
  readonly #tables: Int32Array[];
  /** Entries of a shard are 2^bits. */
  readonly #bits: Uint8Array;
  readonly #strides: Uint16Array;
  readonly #counts: Uint32Array;
  #blocks = 0;

  constructor(secrets: AddressSecrets) {
    this.secrets = secrets;
    const stride = 2 + minMaskWords;
    this.#tables = Array.from({ length: shardCount }, () => new Int32Array(stride << minShardBits));
    this.#bits = new Uint8Array(shardCount).fill(minShardBits);
    this.#strides = new Uint16Array(shardCount).fill(stride);
    this.#counts = new Uint32Array(shardCount);
  }

  /** Distinct blocks held by anyone. */
  get blocks(): number {
    return this.#blocks;
  }

  get sizeBytes(): number {
    return this.#tables.reduce((sum, table) => sum + table.byteLength, 0);
  }

  /** Marks the block as held and says whether it was not before. The all-zero hash must not be added: it marks a free entry. */
  add(address: number, low: number, high: number, holder: number): boolean {
    const shard = address & (shardCount - 1);
    const word = 2 + (holder >>> 5);
    if (word >= this.#strides[shard]!) this.#widen(shard, word + 1);
    let at = this.#find(shard, address, low, high);
    if (at < 0) {
      if (this.#counts[shard]! + 1 > maxLoad * (1 << this.#bits[shard]!)) {
        this.#resize(shard, this.#bits[shard]! + 1);
        at = this.#find(shard, address, low, high);
      }
      at = -1 - at;
      const table = this.#tables[shard]!;
      table[at] = low;
      table[at + 1] = high;
      this.#counts[shard]!++;
      this.#blocks++;
    }
    const table = this.#tables[shard]!;
    const before = table[at + word]!;
    const after = before | (1 << (holder & 31));
    table[at + word] = after;
    return before !== after;
  }

  /** Unmarks it; the entry goes with its last holder. */
  remove(address: number, low: number, high: number, holder: number): void {
    const shard = address & (shardCount - 1);
    const at = this.#find(shard, address, low, high);
    const word = 2 + (holder >>> 5);
    const stride = this.#strides[shard]!;
    if (at < 0 || word >= stride) return;
    const table = this.#tables[shard]!;
    table[at + word]! &= ~(1 << (holder & 31));
    for (let mask = at + 2; mask < at + stride; mask++) if (table[mask] !== 0) return;
    this.#delete(shard, at);
    const bits = this.#bits[shard]!;
    if (bits > minShardBits && this.#counts[shard]! < minLoad * (1 << bits)) this.#resize(shard, bits - 1);
  }

  /**
   * Longest contiguous match of the blocks [from, to) for every holder whose bit is set in `alive`: its depth is added to depths[holder].
   * `alive` is used up: on return only the holders of all blocks are left in it.
   */
  match(hashes: Int32Array, from: number, to: number, alive: Int32Array, depths: Int32Array): void {
    const words = alive.length;
    for (let block = from; block < to; block++) {
      const low = hashes[2 * block]!;
      const high = hashes[2 * block + 1]!;
      const address = addressOf(this.secrets, low, high);
      const shard = address & (shardCount - 1);
      const at = this.#find(shard, address, low, high);
      if (at < 0) {
        creditAll(alive, block - from, depths);
        alive.fill(0);
        return;
      }
      const table = this.#tables[shard]!;
      const maskWords = this.#strides[shard]! - 2;
      let left = 0;
      for (let word = 0; word < words; word++) {
        const before = alive[word]!;
        if (before === 0) continue;
        const mask = word < maskWords ? table[at + 2 + word]! : 0;
        const fallen = before & ~mask;
        if (fallen !== 0) {
          if (block > from) credit(word, fallen, block - from, depths);
          alive[word] = before & mask;
        }
        left |= before & mask;
      }
      if (left === 0) return;
    }
    creditAll(alive, to - from, depths);
  }

  /** Offset of the entry, or −1 − the offset of the free entry where it belongs. */
  #find(shard: number, address: number, low: number, high: number): number {
    const table = this.#tables[shard]!;
    const stride = this.#strides[shard]!;
    const bits = this.#bits[shard]!;
    const last = (1 << bits) - 1;
    for (let slot = address >>> (32 - bits); ; slot = (slot + 1) & last) {
      const at = slot * stride;
      const entryLow = table[at]!;
      const entryHigh = table[at + 1]!;
      if ((entryLow | entryHigh) === 0) return -1 - at;
      if (entryLow === low && entryHigh === high) return at;
    }
  }

  /** Frees the entry and moves later entries of its run back, so that a probe never meets a gap before its key. */
  #delete(shard: number, at: number): void {
    const table = this.#tables[shard]!;
    const stride = this.#strides[shard]!;
    const bits = this.#bits[shard]!;
    const last = (1 << bits) - 1;
    let hole = at / stride;
    for (let slot = (hole + 1) & last; ; slot = (slot + 1) & last) {
      const from = slot * stride;
      const low = table[from]!;
      const high = table[from + 1]!;
      if ((low | high) === 0) break;
      const home = addressOf(this.secrets, low, high) >>> (32 - bits);
      if (((slot - home) & last) < ((slot - hole) & last)) continue;
      for (let word = 0, to = hole * stride; word < stride; word++) table[to + word] = table[from + word]!;
      hole = slot;
    }
    for (let word = 0, to = hole * stride; word < stride; word++) table[to + word] = 0;
    this.#counts[shard]!--;
    this.#blocks--;
  }

  #resize(shard: number, bits: number): void {
    const old = this.#tables[shard]!;
    const stride = this.#strides[shard]!;
    const fresh = new Int32Array(stride << bits);
    const last = (1 << bits) - 1;
    for (let from = 0; from < old.length; from += stride) {
      const low = old[from]!;
      const high = old[from + 1]!;
      if ((low | high) === 0) continue;
      let slot = addressOf(this.secrets, low, high) >>> (32 - bits);
      while ((fresh[slot * stride]! | fresh[slot * stride + 1]!) !== 0) slot = (slot + 1) & last;
      for (let word = 0; word < stride; word++) fresh[slot * stride + word] = old[from + word]!;
    }
    this.#tables[shard] = fresh;
    this.#bits[shard] = bits;
  }

  /** Doubles the mask until an entry has `stride` words; entries keep their places. */
  #widen(shard: number, stride: number): void {
    const old = this.#tables[shard]!;
    const oldStride = this.#strides[shard]!;
    let words = oldStride - 2;
    while (2 + words < stride) words *= 2;
    const fresh = new Int32Array((2 + words) << this.#bits[shard]!);
    for (let from = 0, to = 0; from < old.length; from += oldStride, to += 2 + words) {
      for (let word = 0; word < oldStride; word++) fresh[to + word] = old[from + word]!;
    }
    this.#tables[shard] = fresh;
    this.#strides[shard] = 2 + words;
  }
}

function creditAll(alive: Int32Array, depth: number, depths: Int32Array): void {
  if (depth === 0) return;
  for (let word = 0; word < alive.length; word++) credit(word, alive[word]!, depth, depths);
}

function credit(word: number, holders: number, depth: number, depths: Int32Array): void {
  for (let rest = holders; rest !== 0; rest &= rest - 1) depths[32 * word + 31 - Math.clz32(rest & -rest)]! += depth;
}
