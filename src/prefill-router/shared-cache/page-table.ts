/**
 * The pages a store has, and which parts of each: a bit a part, in as many words a page as its layout needs. Pages of which nothing is left are gone;
 * more than `maxPages` are never held.
 */
// biome-ignore-all lint/style/noNonNullAssertion: typed arrays, whose bounds the rows keep
const firstRows = 1024;

export class PageTable {
  readonly #wordsPerPage: number;
  /** A whole page's words. */
  readonly #whole: Uint32Array;
  readonly #maxPages: number;
  readonly #rows = new Map<string, number>();
  readonly #freeRows: number[] = [];
  #parts: Uint32Array;
  #usedRows = 0;

  constructor(partsPerPage: number, maxPages: number) {
    this.#wordsPerPage = Math.ceil(partsPerPage / 32);
    this.#whole = new Uint32Array(this.#wordsPerPage);
    for (let part = 0; part < partsPerPage; part++) this.#whole[part >>> 5]! |= 1 << (part & 31);
    this.#maxPages = maxPages;
    this.#parts = new Uint32Array(firstRows * this.#wordsPerPage);
  }

  /** Pages of which at least one part is there. */
  get size(): number {
    return this.#rows.size;
  }

  /** False where the page is new and there is no room for one more. */
  add(page: string, part: number): boolean {
    let row = this.#rows.get(page);
    if (row === undefined) {
      if (this.#rows.size >= this.#maxPages) return false;
      row = this.#newRow();
      this.#rows.set(page, row);
    }
    this.#parts[row * this.#wordsPerPage + (part >>> 5)]! |= 1 << (part & 31);
    return true;
  }

  remove(page: string, part: number): void {
    const row = this.#rows.get(page);
    if (row === undefined) return;
    const from = row * this.#wordsPerPage;
    this.#parts[from + (part >>> 5)]! &= ~(1 << (part & 31));
    for (let word = 0; word < this.#wordsPerPage; word++) if (this.#parts[from + word] !== 0) return;
    this.#rows.delete(page);
    this.#freeRows.push(row);
  }

  /** Whether every part of the page is there. */
  has(page: string): boolean {
    const row = this.#rows.get(page);
    if (row === undefined) return false;
    const from = row * this.#wordsPerPage;
    for (let word = 0; word < this.#wordsPerPage; word++) {
      if (this.#parts[from + word] !== this.#whole[word]) return false;
    }
    return true;
  }

  /** Gives the memory back. */
  clear(): void {
    this.#rows.clear();
    this.#freeRows.length = 0;
    this.#usedRows = 0;
    this.#parts = new Uint32Array(firstRows * this.#wordsPerPage);
  }

  /** Zeroed: a row is given up once its last bit has gone. */
  #newRow(): number {
    const free = this.#freeRows.pop();
    if (free !== undefined) return free;
    const row = this.#usedRows++;
    if ((row + 1) * this.#wordsPerPage > this.#parts.length) {
      const grown = new Uint32Array(2 * this.#parts.length);
      grown.set(this.#parts);
      this.#parts = grown;
    }
    return row;
  }
}
