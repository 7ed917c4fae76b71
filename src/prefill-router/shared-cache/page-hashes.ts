/**
 * SGLang's hash of each whole page of a prompt: SHA-256 over the hash of the page before and the page's tokens, little-endian, or its token pairs where
 * the engine decodes with EAGLE (SGLang: mem_cache/hicache_storage.py, get_hash_str).
 */
import { hash } from "node:crypto";

const hashBytes = 32;
const hashWords = hashBytes / 4;

/** Scratch of its own, used within one call. */
export class PageHasher {
  readonly #pageSize: number;
  readonly #isEagle: boolean;
  readonly #words: Uint32Array;
  readonly #bytes: Buffer;
  readonly #first: Buffer;

  /** `pageSize` in tokens, at least 1. */
  constructor(pageSize: number, isEagle: boolean) {
    this.#pageSize = pageSize;
    this.#isEagle = isEagle;
    this.#words = new Uint32Array(hashWords + (isEagle ? 2 : 1) * pageSize);
    this.#bytes = Buffer.from(this.#words.buffer);
    // The first page has none before it.
    this.#first = this.#bytes.subarray(hashBytes);
  }

  /** Whole pages of so many tokens: a pair needs the token after it. */
  pagesOf(tokens: number): number {
    return Math.max(0, Math.floor((this.#isEagle ? tokens - 1 : tokens) / this.#pageSize));
  }

  /** Calls back for each whole page in order, with its hash as a latin-1 string of 32 characters. */
  hash(tokens: Uint32Array, page: (hash: string, index: number) => void): void {
    const pages = this.pagesOf(tokens.length);
    for (let index = 0; index < pages; index++) {
      this.#fill(tokens, index * this.#pageSize);
      // A string costs a third of a Buffer here, and is what the pages are kept by.
      const digest = hash("sha256", index === 0 ? this.#first : this.#bytes, "binary");
      this.#bytes.write(digest, 0, hashBytes, "latin1");
      page(digest, index);
    }
  }

  #fill(tokens: Uint32Array, from: number): void {
    const words = this.#words;
    if (!this.#isEagle) {
      words.set(tokens.subarray(from, from + this.#pageSize), hashWords);
      return;
    }
    for (let index = 0; index < this.#pageSize; index++) {
      words[hashWords + 2 * index] = tokens[from + index] ?? 0;
      words[hashWords + 2 * index + 1] = tokens[from + index + 1] ?? 0;
    }
  }
}
