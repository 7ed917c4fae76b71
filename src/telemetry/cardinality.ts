/**
 * Bounds the label values a client can create: the first `limit` distinct names of ordinary length are kept, later and longer ones become
 * "other".
 */

export class LabelLimit {
  readonly #limit: number;
  readonly #seen = new Set<string>();
  readonly #pinned = new Set<string>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Names that never fold, e.g. models named in rewrite rules; they do not count. */
  pin(names: Iterable<string>): void {
    for (const name of names) this.#pinned.add(name);
  }

  isPinned(name: string): boolean {
    return this.#pinned.has(name);
  }

  fold(name: string): string {
    if (this.#seen.has(name) || name === "" || this.#pinned.has(name)) return name;
    if (this.#seen.size >= this.#limit || !isFit(name)) return "other";
    this.#seen.add(name);
    return name;
  }
}

/** A name is repeated on hundreds of lines of a page. */
const maxNameLength = 200;

/** NUL separates label values in keys, and two names with half a surrogate pair would be one on the page. */
function isFit(name: string): boolean {
  return name.length <= maxNameLength && !name.includes("\u0000") && name.isWellFormed();
}
