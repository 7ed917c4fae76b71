// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
/**
 * Words already merged and their token ids, keyed by the word's own characters, in flat tables of a fixed size. A full cache starts over: what is
 * in use comes back within a few prompts. It pins no text: keys are copied.
 *
 *     slot, 4 words:  hash │ start of the characters │ start of the ids │ characters · 256 + ids      (empty = 0 in the last)
 */
import type { IdBuffer } from "../id-buffer.ts";

const slots = 1 << 16;
const maxEntries = (slots * 3) / 5;
/** Rules, indents and padding come again; longer words seldom do. */
export const maxCachedUnits = 512;
const maxCachedIds = 255;

export class WordCache {
  readonly #table = new Int32Array(slots * 4);
  readonly #units = new Uint16Array(maxEntries * 16);
  readonly #ids = new Uint32Array(maxEntries * 6);
  #unitCount = 0;
  #idCount = 0;
  #entries = 0;
  #lastHash = 0;

  /** Appends the ids of the word [start, end) of `units`; false when they are not known. */
  find(units: Uint16Array, start: number, end: number, into: IdBuffer): boolean {
    const length = end - start;
    let hash = length;
    for (let at = start; at < end; at++) hash = Math.imul(hash ^ units[at]!, 0x9e3779b1) ^ (hash >>> 15);
    this.#lastHash = hash;
    const table = this.#table;
    for (let slot = hash & (slots - 1); ; slot = (slot + 1) & (slots - 1)) {
      const sizes = table[slot * 4 + 3]!;
      if (sizes === 0) return false;
      if (table[slot * 4] !== hash || sizes >>> 8 !== length) continue;
      const key = table[slot * 4 + 1]!;
      let at = 0;
      while (at < length && this.#units[key + at] === units[start + at]!) at++;
      if (at < length) continue;
      const ids = table[slot * 4 + 2]!;
      const count = sizes & 0xff;
      if (count === 1) into.push(this.#ids[ids]!);
      else into.pushRange(this.#ids, ids, ids + count);
      return true;
    }
  }

  /** Stores the word that `find` has just not found. */
  add(units: Uint16Array, start: number, end: number, ids: Int32Array): void {
    const length = end - start;
    if (ids.length > maxCachedIds) return;
    if (
      this.#entries === maxEntries ||
      this.#unitCount + length > this.#units.length ||
      this.#idCount + ids.length > this.#ids.length
    ) {
      this.#table.fill(0);
      this.#entries = 0;
      this.#unitCount = 0;
      this.#idCount = 0;
    }
    const table = this.#table;
    let slot = this.#lastHash & (slots - 1);
    while (table[slot * 4 + 3] !== 0) slot = (slot + 1) & (slots - 1);
    table[slot * 4] = this.#lastHash;
    table[slot * 4 + 1] = this.#unitCount;
    table[slot * 4 + 2] = this.#idCount;
    table[slot * 4 + 3] = (length << 8) | ids.length;
    for (let at = start; at < end; at++) this.#units[this.#unitCount++] = units[at]!;
    for (let at = 0; at < ids.length; at++) this.#ids[this.#idCount++] = ids[at]!;
    this.#entries++;
  }
}
