/**
 * Bit masks of the blocks of one shard that many of more than 64 holders have: rows of a count and as many mask words as the highest holder
 * needs, in one array with a free list. A block of few holders has no row (block-holders.ts packs them).
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep

const initialRows = 8;

export class HolderRows {
  /** Row r is at r × (1 + maskWords): its count, or in a free row −1 − the next free one; then its mask. */
  #words: Int32Array;
  #maskWords: number;
  #used = 0;
  #free = -1;

  constructor(maskWords: number) {
    this.#maskWords = maskWords;
    this.#words = new Int32Array(initialRows * (1 + maskWords));
  }

  get sizeBytes(): number {
    return this.#words.byteLength;
  }

  /** An empty row. */
  allocate(): number {
    const stride = 1 + this.#maskWords;
    if (this.#free >= 0) {
      const row = this.#free;
      this.#free = -1 - this.#words[row * stride]!;
      this.#words.fill(0, row * stride, (row + 1) * stride);
      return row;
    }
    if ((this.#used + 1) * stride > this.#words.length) {
      const grown = new Int32Array(2 * this.#words.length);
      grown.set(this.#words);
      this.#words = grown;
    }
    return this.#used++;
  }

  release(row: number): void {
    this.#words[row * (1 + this.#maskWords)] = -1 - this.#free;
    this.#free = row;
  }

  count(row: number): number {
    return this.#words[row * (1 + this.#maskWords)]!;
  }

  has(row: number, holder: number): boolean {
    const word = holder >>> 5;
    if (word >= this.#maskWords) return false;
    return ((this.#words[row * (1 + this.#maskWords) + 1 + word]! >>> (holder & 31)) & 1) !== 0;
  }

  /** Says whether it was not in the row before. */
  add(row: number, holder: number): boolean {
    const word = holder >>> 5;
    if (word >= this.#maskWords) this.#widen(word + 1);
    const at = row * (1 + this.#maskWords);
    const before = this.#words[at + 1 + word]!;
    const after = before | (1 << (holder & 31));
    if (before === after) return false;
    this.#words[at + 1 + word] = after;
    this.#words[at]!++;
    return true;
  }

  /** Says whether it was in the row. */
  remove(row: number, holder: number): boolean {
    if (!this.has(row, holder)) return false;
    const at = row * (1 + this.#maskWords);
    this.#words[at + 1 + (holder >>> 5)]! &= ~(1 << (holder & 31));
    this.#words[at]!--;
    return true;
  }

  /** Takes every holder of the mask out of the row. */
  removeAll(row: number, mask: Int32Array): void {
    const at = row * (1 + this.#maskWords);
    const words = Math.min(mask.length, this.#maskWords);
    for (let word = 0; word < words; word++) {
      for (let gone = this.#words[at + 1 + word]! & mask[word]!; gone !== 0; gone &= gone - 1) this.#words[at]!--;
      this.#words[at + 1 + word]! &= ~mask[word]!;
    }
  }

  /** The row's mask, as many words as `mask` has. */
  read(row: number, mask: Int32Array): void {
    const at = row * (1 + this.#maskWords) + 1;
    const words = Math.min(mask.length, this.#maskWords);
    for (let word = 0; word < words; word++) mask[word] = this.#words[at + word]!;
    for (let word = words; word < mask.length; word++) mask[word] = 0;
  }

  /** The lowest holder of the row that is `from` or higher; −1 for none. */
  next(row: number, from: number): number {
    const at = row * (1 + this.#maskWords) + 1;
    for (let word = from >>> 5; word < this.#maskWords; word++) {
      const left = this.#words[at + word]! & (word === from >>> 5 ? -1 << (from & 31) : -1);
      if (left !== 0) return 32 * word + 31 - Math.clz32(left & -left);
    }
    return -1;
  }

  #widen(words: number): void {
    let maskWords = this.#maskWords;
    while (maskWords < words) maskWords *= 2;
    const [from, to] = [1 + this.#maskWords, 1 + maskWords];
    const wide = new Int32Array((this.#words.length / from) * to);
    for (let row = 0; row < this.#used; row++) {
      for (let word = 0; word < from; word++) wide[row * to + word] = this.#words[row * from + word]!;
    }
    this.#words = wide;
    this.#maskWords = maskWords;
  }
}
