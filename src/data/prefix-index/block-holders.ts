/**
 * The block → holders table: for each 64-bit block hash who holds it, by open addressing in typed arrays. Key and holders lie side by side, so a
 * probe touches one cache line; deletion shifts the run back, so there are no tombstones. 256 shards grow and shrink on their own, so no call ever
 * rebuilds more than 1/256 of the table.
 *
 *     narrow  ┌─ low ─┬─ high ─┬─ mask 0..31 ──┬─ mask 32..63 ─┐   16 bytes; both key words 0: free
 *     wide    │  low  │  high  │ 1 + id, 1 + id│ 1 + id, 1 + id│   up to four holders of 16 bits each, or
 *             └─ low ─┴─ high ─┴─ row ─────────┴─ −1 ──────────┘   a mask of its own (holder-rows.ts)
 *
 * A shard is narrow until it meets a holder above 63. Words are signed throughout: V8 keeps a 32-bit signed number in a register or a tagged word,
 * an unsigned one above 2^31 on the heap. At the load factors kept (0.35 to 0.7 while growing) an entry costs 23 to 46 bytes a distinct block.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { type AddressSecrets, addressOf } from "./block-address.ts";
import { HolderRows } from "./holder-rows.ts";
import { addWide, hasWide, readWide, removeAllWide, removeWide } from "./wide-entry.ts";

export const shardCount = 256;
/** Holders are numbered below this. */
export const maxHolders = 0xfffe;
const stride = 4;
const minShardBits = 4;
const maxLoad = 0.7;
const minLoad = 0.15;
const narrowHolders = 64;
/**
 * Blocks of a run whose entries are touched before any is worked on. Each lies in a cache line of its own, so one after the other costs a miss
 * of about 100 ns each in a large table; touched together the misses overlap.
 */
const ahead = 32;

export class BlockHolders {
  readonly secrets: AddressSecrets;
  readonly #tables: Int32Array[];
  /** Entries of a shard are 2^bits. */
  readonly #bits: Uint8Array;
  readonly #counts: Uint32Array;
  /** Of wide shards. */
  readonly #rows: (HolderRows | undefined)[];
  #blocks = 0;
  /** Where the blocks touched last lie. */
  readonly #addresses = new Int32Array(ahead);
  #touched = 0;
  /** One entry's holders, while matching in a wide shard. */
  #mask = new Int32Array(2);
  /** By position, the first seat that starts there, and the next by seat: both −1 for none. */
  #startsAt = new Int32Array(0);
  #nextStart = new Int32Array(0);

  constructor(secrets: AddressSecrets) {
    this.secrets = secrets;
    this.#tables = Array.from({ length: shardCount }, () => new Int32Array(stride << minShardBits));
    this.#bits = new Uint8Array(shardCount).fill(minShardBits);
    this.#counts = new Uint32Array(shardCount);
    this.#rows = Array.from({ length: shardCount }, () => undefined);
  }

  /** Distinct blocks held by anyone. */
  get blocks(): number {
    return this.#blocks;
  }

  get sizeBytes(): number {
    let sum = 0;
    for (const table of this.#tables) sum += table.byteLength;
    for (const rows of this.#rows) sum += rows?.sizeBytes ?? 0;
    return sum;
  }

  /** Marks the block as held and says whether it was not before. The all-zero hash must not be added: it marks a free entry. */
  add(address: number, low: number, high: number, holder: number): boolean {
    const shard = address & (shardCount - 1);
    if (holder >= narrowHolders && this.#rows[shard] === undefined) this.#toWide(shard);
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
    const rows = this.#rows[shard];
    if (rows !== undefined) return addWide(this.#tables[shard]!, at, rows, holder);
    const table = this.#tables[shard]!;
    const word = at + 2 + (holder >>> 5);
    const before = table[word]!;
    const after = before | (1 << (holder & 31));
    table[word] = after;
    return before !== after;
  }

  /** Adds a run of blocks, all-zero hashes left out; returns how many the holder did not have. */
  addRun(hashes: Int32Array, from: number, to: number, holder: number): number {
    let added = 0;
    for (let run = from; run < to; run += ahead) {
      const end = Math.min(run + ahead, to);
      this.#touch(hashes, run, end);
      for (let block = run; block < end; block++) {
        const low = hashes[2 * block]!;
        const high = hashes[2 * block + 1]!;
        if ((low | high) === 0) continue;
        if (this.add(this.#addresses[block - run]!, low, high, holder)) added++;
      }
    }
    return added;
  }

  has(address: number, low: number, high: number, holder: number): boolean {
    const shard = address & (shardCount - 1);
    const at = this.#find(shard, address, low, high);
    if (at < 0) return false;
    const table = this.#tables[shard]!;
    const rows = this.#rows[shard];
    if (rows !== undefined) return hasWide(table, at, rows, holder);
    return holder < narrowHolders && ((table[at + 2 + (holder >>> 5)]! >>> (holder & 31)) & 1) !== 0;
  }

  /** Unmarks it and says whether it was marked; the entry goes with its last holder. */
  remove(address: number, low: number, high: number, holder: number): boolean {
    const shard = address & (shardCount - 1);
    const at = this.#find(shard, address, low, high);
    if (at < 0) return false;
    const table = this.#tables[shard]!;
    const rows = this.#rows[shard];
    if (rows !== undefined) {
      if (!removeWide(table, at, rows, holder)) return false;
    } else {
      const word = at + 2 + (holder >>> 5);
      const bit = 1 << (holder & 31);
      if (holder >= narrowHolders || (table[word]! & bit) === 0) return false;
      table[word]! &= ~bit;
    }
    if ((table[at + 2]! | table[at + 3]!) !== 0) return true;
    this.#delete(shard, at);
    const bits = this.#bits[shard]!;
    if (bits > minShardBits && this.#counts[shard]! < minLoad * (1 << bits)) this.#resize(shard, bits - 1);
    return true;
  }

  /** Unmarks in one shard every block of every holder of the mask. Returns the entries looked at. */
  sweep(shard: number, gone: Int32Array): number {
    const table = this.#tables[shard]!;
    const rows = this.#rows[shard];
    let emptied = 0;
    for (let at = 0; at < table.length; at += stride) {
      if ((table[at]! | table[at + 1]!) === 0) continue;
      if (rows !== undefined) {
        removeAllWide(table, at, rows, gone);
      } else {
        table[at + 2]! &= ~gone[0]!;
        if (gone.length > 1) table[at + 3]! &= ~gone[1]!;
      }
      if ((table[at + 2]! | table[at + 3]!) === 0) emptied++;
    }
    if (emptied > 0) {
      this.#counts[shard]! -= emptied;
      this.#blocks -= emptied;
      let bits = this.#bits[shard]!;
      while (bits > minShardBits && this.#counts[shard]! < 2 * minLoad * (1 << bits)) bits--;
      this.#resize(shard, bits);
    }
    return table.length / stride;
  }

  /**
   * Longest contiguous match of the blocks [from, to) for every holder whose bit is set in `alive`: its depth is added to depths[holder].
   * `alive` is used up: on return only the holders of all blocks are left in it.
   */
  match(hashes: Int32Array, from: number, to: number, alive: Int32Array, depths: Int32Array): void {
    const words = alive.length;
    let run = from;
    let touched = from;
    for (let block = from; block < to; block++) {
      if (block === touched) {
        run = block;
        touched = Math.min(block + ahead, to);
        this.#touch(hashes, run, touched);
      }
      const low = hashes[2 * block]!;
      const high = hashes[2 * block + 1]!;
      const address = this.#addresses[block - run]!;
      const shard = address & (shardCount - 1);
      const at = this.#find(shard, address, low, high);
      if (at < 0) {
        creditAll(alive, block - from, depths);
        alive.fill(0);
        return;
      }
      let masks = this.#tables[shard]!;
      let mask = at + 2;
      let maskEnd = at + stride;
      if (this.#rows[shard] !== undefined) {
        masks = this.#readWide(shard, at, words);
        mask = 0;
        maskEnd = words;
      }
      let left = 0;
      for (let word = 0; word < words; word++, mask++) {
        const before = alive[word]!;
        if (before === 0) continue;
        const held = mask < maskEnd ? before & masks[mask]! : 0;
        const fallen = before ^ held;
        if (fallen !== 0) {
          if (block > from) credit(word, fallen, block - from, depths);
          alive[word] = held;
        }
        left |= held;
      }
      if (left === 0) return;
    }
    creditAll(alive, to - from, depths);
  }

  /**
   * As `match`, but each holder goes on from its own position starts[holder], which is moved to where its contiguous blocks end. `alive` is not
   * changed.
   */
  extend(hashes: Int32Array, blocks: number, alive: Int32Array, starts: Int32Array): void {
    let block = this.#queueStarts(blocks, alive, starts);
    const words = alive.length;
    const active = new Int32Array(words);
    for (; block < blocks; block++) {
      for (let holder = this.#startsAt[block]!; holder >= 0; holder = this.#nextStart[holder]!) {
        active[holder >>> 5]! |= 1 << (holder & 31);
      }
      this.#startsAt[block] = -1;
      let any = 0;
      for (let word = 0; word < words; word++) any |= active[word]!;
      if (any === 0) continue;
      const low = hashes[2 * block]!;
      const high = hashes[2 * block + 1]!;
      const address = addressOf(this.secrets, low, high);
      const shard = address & (shardCount - 1);
      const at = this.#find(shard, address, low, high);
      const masks = at < 0 ? undefined : this.#read(shard, at, words);
      for (let word = 0; word < words; word++) {
        const before = active[word]!;
        if (before === 0) continue;
        const held = masks === undefined ? 0 : before & masks[word]!;
        active[word] = held;
        for (let rest = before ^ held; rest !== 0; rest &= rest - 1) {
          starts[32 * word + 31 - Math.clz32(rest & -rest)] = block;
        }
      }
    }
    for (let word = 0; word < words; word++) {
      for (let rest = active[word]!; rest !== 0; rest &= rest - 1) {
        starts[32 * word + 31 - Math.clz32(rest & -rest)] = blocks;
      }
    }
  }

  /** First where they lie, then a look at each: with little between two looks, the processor has many under way at once. */
  #touch(hashes: Int32Array, from: number, to: number): void {
    const { secrets } = this;
    const addresses = this.#addresses;
    const count = to - from;
    for (let index = 0, word = 2 * from; index < count; index++, word += 2) {
      addresses[index] = addressOf(secrets, hashes[word]!, hashes[word + 1]!);
    }
    const tables = this.#tables;
    const bits = this.#bits;
    let sum = this.#touched;
    for (let index = 0; index < count; index++) {
      const address = addresses[index]!;
      const shard = address & (shardCount - 1);
      sum ^= tables[shard]![(address >>> (32 - bits[shard]!)) * stride]!;
    }
    this.#touched = sum;
  }

  /** Lists the holders of `alive` by where they start; returns the first position. */
  #queueStarts(blocks: number, alive: Int32Array, starts: Int32Array): number {
    if (this.#startsAt.length < blocks) this.#startsAt = new Int32Array(2 * blocks).fill(-1);
    if (this.#nextStart.length < 32 * alive.length) this.#nextStart = new Int32Array(32 * alive.length);
    let first = blocks;
    for (let word = 0; word < alive.length; word++) {
      for (let rest = alive[word]!; rest !== 0; rest &= rest - 1) {
        const holder = 32 * word + 31 - Math.clz32(rest & -rest);
        const start = starts[holder]!;
        if (start >= blocks) continue;
        this.#nextStart[holder] = this.#startsAt[start]!;
        this.#startsAt[start] = holder;
        if (start < first) first = start;
      }
    }
    return first;
  }

  #read(shard: number, at: number, words: number): Int32Array {
    if (this.#rows[shard] !== undefined) return this.#readWide(shard, at, words);
    const table = this.#tables[shard]!;
    if (this.#mask.length !== words) this.#mask = new Int32Array(words);
    const mask = this.#mask;
    mask[0] = table[at + 2]!;
    if (words > 1) mask[1] = table[at + 3]!;
    for (let word = 2; word < words; word++) mask[word] = 0;
    return mask;
  }

  #readWide(shard: number, at: number, words: number): Int32Array {
    if (this.#mask.length !== words) this.#mask = new Int32Array(words);
    readWide(this.#tables[shard]!, at, this.#rows[shard]!, this.#mask);
    return this.#mask;
  }

  /** Offset of the entry, or −1 − the offset of the free entry where it belongs. */
  #find(shard: number, address: number, low: number, high: number): number {
    const table = this.#tables[shard]!;
    const bits = this.#bits[shard]!;
    const last = (stride << bits) - stride;
    for (let at = (address >>> (32 - bits)) * stride; ; at = (at + stride) & last) {
      const entryLow = table[at]!;
      const entryHigh = table[at + 1]!;
      if (entryLow === low && entryHigh === high) return at;
      if ((entryLow | entryHigh) === 0) return -1 - at;
    }
  }

  /** Frees the entry and moves later entries of its run back, so that a probe never meets a gap before its key. */
  #delete(shard: number, at: number): void {
    const table = this.#tables[shard]!;
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

  /** Rebuilds the shard with 2^bits entries, without those that nobody holds any more. */
  #resize(shard: number, bits: number): void {
    const old = this.#tables[shard]!;
    const { secrets } = this;
    const fresh = new Int32Array(stride << bits);
    const last = (stride << bits) - stride;
    const shift = 32 - bits;
    for (let from = 0; from < old.length; from += stride) {
      const low = old[from]!;
      const high = old[from + 1]!;
      const word0 = old[from + 2]!;
      const word1 = old[from + 3]!;
      if ((low | high) === 0 || (word0 | word1) === 0) continue;
      let to = (addressOf(secrets, low, high) >>> shift) * stride;
      while ((fresh[to]! | fresh[to + 1]!) !== 0) to = (to + stride) & last;
      fresh[to] = low;
      fresh[to + 1] = high;
      fresh[to + 2] = word0;
      fresh[to + 3] = word1;
    }
    this.#tables[shard] = fresh;
    this.#bits[shard] = bits;
  }

  /** Packs the masks of a shard that meets its first holder above 63. */
  #toWide(shard: number): void {
    const table = this.#tables[shard]!;
    const rows = new HolderRows(4);
    this.#rows[shard] = rows;
    for (let at = 0; at < table.length; at += stride) {
      if ((table[at]! | table[at + 1]!) === 0) continue;
      const masks = [table[at + 2]!, table[at + 3]!];
      table[at + 2] = 0;
      table[at + 3] = 0;
      for (let word = 0; word < 2; word++) {
        for (let rest = masks[word]!; rest !== 0; rest &= rest - 1) {
          addWide(table, at, rows, 32 * word + 31 - Math.clz32(rest & -rest));
        }
      }
    }
  }
}

function creditAll(alive: Int32Array, depth: number, depths: Int32Array): void {
  if (depth === 0) return;
  for (let word = 0; word < alive.length; word++) credit(word, alive[word]!, depth, depths);
}

function credit(word: number, holders: number, depth: number, depths: Int32Array): void {
  for (let rest = holders; rest !== 0; rest &= rest - 1) depths[32 * word + 31 - Math.clz32(rest & -rest)]! += depth;
}
