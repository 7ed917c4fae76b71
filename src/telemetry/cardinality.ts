/** Bounds the label values a client can create: the first `limit` distinct names are kept, later ones become "other". */
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

  fold(name: string): string {
    if (this.#seen.has(name) || name === "" || this.#pinned.has(name)) return name;
    if (this.#seen.size >= this.#limit) return "other";
    this.#seen.add(name);
    return name;
  }
}
