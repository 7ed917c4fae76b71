// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
/**
 * Byte-pair merges of one word: always the pair of lowest rank, the leftmost of equals, until no pair merges. Short words are scanned, long ones
 * keep a heap, so a megabyte without a space costs n log n.
 */
import { type BpeTables, pairAt, tokenOfWord } from "./bpe-tables.ts";

const scannedSymbols = 48;
/** A heap key is rank · positions + position, exact in a double. */
const positions = 2 ** 27;

/** A word that no tokenizer is to be asked for: its tables would take half a gigabyte. */
export const maxWordBytes = 8 * 1024 * 1024;

export class WordMerger {
  readonly #tables: BpeTables;
  #bytes = new Uint8Array(256);
  /** Symbol ids by position; a merged-away one is −1. */
  #symbols = new Int32Array(256);
  #ranks = new Int32Array(256);
  #previous = new Int32Array(0);
  #next = new Int32Array(0);
  #heap = new Float64Array(0);
  #heapSize = 0;

  constructor(tables: BpeTables) {
    this.#tables = tables;
  }

  /** Token ids of the word [start, end) of `units`: a view, valid until the next call. */
  merge(units: Uint16Array, start: number, end: number): Int32Array {
    const length = this.#encodeUtf8(units, start, end);
    const symbols = this.#symbols;
    if (this.#tables.words.length > 0) {
      const whole = tokenOfWord(this.#tables, this.#bytes, length);
      if (whole >= 0) {
        symbols[0] = whole;
        return symbols.subarray(0, 1);
      }
    }
    const { byteIds } = this.#tables;
    for (let at = 0; at < length; at++) symbols[at] = byteIds[this.#bytes[at]!]!;
    const count = length <= scannedSymbols ? this.#mergeByScan(length) : this.#mergeByHeap(length);
    return symbols.subarray(0, count);
  }

  #encodeUtf8(units: Uint16Array, start: number, end: number): number {
    const most = (end - start) * 3;
    if (this.#bytes.length < most) {
      this.#bytes = new Uint8Array(most);
      this.#symbols = new Int32Array(most);
    } else if (this.#bytes.length > 1 << 20 && most < 1 << 16) {
      this.#shrink();
    }
    const bytes = this.#bytes;
    let to = 0;
    for (let at = start; at < end; at++) {
      const unit = units[at]!;
      if (unit < 0x80) {
        bytes[to++] = unit;
      } else if (unit < 0x800) {
        bytes[to++] = 0xc0 | (unit >> 6);
        bytes[to++] = 0x80 | (unit & 0x3f);
      } else {
        let codePoint = unit;
        if ((unit & 0xf800) === 0xd800) {
          const low = at + 1 < end && unit < 0xdc00 ? units[at + 1]! : 0;
          if ((low & 0xfc00) === 0xdc00) {
            codePoint = ((unit - 0xd800) << 10) + (low - 0xdc00) + 0x10000;
            at++;
          } else {
            codePoint = 0xfffd;
          }
        }
        if (codePoint < 0x10000) {
          bytes[to++] = 0xe0 | (codePoint >> 12);
        } else {
          bytes[to++] = 0xf0 | (codePoint >> 18);
          bytes[to++] = 0x80 | ((codePoint >> 12) & 0x3f);
        }
        bytes[to++] = 0x80 | ((codePoint >> 6) & 0x3f);
        bytes[to++] = 0x80 | (codePoint & 0x3f);
      }
    }
    return to;
  }

  /** What one huge word needed is not kept for the words after it. */
  #shrink(): void {
    this.#bytes = new Uint8Array(1 << 16);
    this.#symbols = new Int32Array(1 << 16);
    this.#previous = new Int32Array(0);
    this.#next = new Int32Array(0);
    this.#heap = new Float64Array(0);
  }

  #mergeByScan(length: number): number {
    const symbols = this.#symbols;
    const ranks = this.#ranks;
    const { pairs } = this.#tables;
    let count = length;
    for (let at = 0; at + 1 < count; at++) ranks[at] = this.#rankOf(symbols[at]!, symbols[at + 1]!);
    while (count > 1) {
      let best = 0x7fffffff;
      let bestAt = -1;
      for (let at = 0; at + 1 < count; at++) {
        if (ranks[at]! < best) {
          best = ranks[at]!;
          bestAt = at;
        }
      }
      if (bestAt < 0) break;
      symbols[bestAt] = pairs[pairAt(this.#tables, symbols[bestAt]!, symbols[bestAt + 1]!) + 1]!;
      count--;
      for (let at = bestAt + 1; at < count; at++) {
        symbols[at] = symbols[at + 1]!;
        ranks[at] = ranks[at + 1]!;
      }
      if (bestAt > 0) ranks[bestAt - 1] = this.#rankOf(symbols[bestAt - 1]!, symbols[bestAt]!);
      if (bestAt + 1 < count) ranks[bestAt] = this.#rankOf(symbols[bestAt]!, symbols[bestAt + 1]!);
    }
    return count;
  }

  #rankOf(left: number, right: number): number {
    const found = pairAt(this.#tables, left, right);
    return found < 0 ? 0x7fffffff : this.#tables.pairs[found]!;
  }

  #mergeByHeap(length: number): number {
    const symbols = this.#symbols;
    this.#linkAll(length);
    const previous = this.#previous;
    const next = this.#next;
    const { pairs } = this.#tables;
    for (let at = 0; at + 1 < length; at++) this.#pushPair(at, at + 1);
    while (this.#heapSize > 0) {
      const key = this.#popLeast();
      const rank = Math.floor(key / positions);
      const at = key - rank * positions;
      if (symbols[at]! < 0) continue;
      const right = next[at]!;
      if (right < 0) continue;
      const found = pairAt(this.#tables, symbols[at]!, symbols[right]!);
      if (found < 0 || pairs[found] !== rank) continue;
      symbols[at] = pairs[found + 1]!;
      symbols[right] = -1;
      const after = next[right]!;
      next[at] = after;
      if (after >= 0) {
        previous[after] = at;
        this.#pushPair(at, after);
      }
      if (previous[at]! >= 0) this.#pushPair(previous[at]!, at);
    }
    let count = 0;
    for (let at = 0; at >= 0; at = next[at]!) symbols[count++] = symbols[at]!;
    return count;
  }

  #linkAll(length: number): void {
    if (this.#previous.length < length) {
      this.#previous = new Int32Array(length);
      this.#next = new Int32Array(length);
    }
    if (this.#heap.length < length * 2) this.#heap = new Float64Array(length * 2);
    for (let at = 0; at < length; at++) {
      this.#previous[at] = at - 1;
      this.#next[at] = at + 1;
    }
    this.#next[length - 1] = -1;
    this.#heapSize = 0;
  }

  #pushPair(left: number, right: number): void {
    const found = pairAt(this.#tables, this.#symbols[left]!, this.#symbols[right]!);
    if (found < 0) return;
    const key = this.#tables.pairs[found]! * positions + left;
    if (this.#heapSize === this.#heap.length) {
      const larger = new Float64Array(this.#heap.length * 2);
      larger.set(this.#heap);
      this.#heap = larger;
    }
    const heap = this.#heap;
    let at = this.#heapSize++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (heap[parent]! <= key) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = key;
  }

  #popLeast(): number {
    const heap = this.#heap;
    const least = heap[0]!;
    const size = --this.#heapSize;
    const last = heap[size]!;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= size) break;
      if (child + 1 < size && heap[child + 1]! < heap[child]!) child++;
      if (heap[child]! >= last) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return least;
  }
}
