/** The LoRA adapters a worker serves. The engine knows an adapter by its index, which stays its own after an unload: requests may still run. */

export class AdapterNames {
  readonly #names: string[];
  readonly #served: Set<string>;

  constructor(names: readonly string[]) {
    this.#names = [...new Set(names)];
    this.#served = new Set(names);
  }

  /** Served now, in the order of loading. */
  get served(): readonly string[] {
    return this.#names.filter((name) => this.#served.has(name));
  }

  /** Index of a served adapter, -1 for any other name. */
  indexOf(name: string): number {
    return this.#served.has(name) ? this.#names.indexOf(name) : -1;
  }

  /** Name of an index, served or not; undefined for the base model. */
  nameOf(index: number): string | undefined {
    return this.#names[index];
  }

  /** False when it was served already. */
  load(name: string): boolean {
    if (this.#served.has(name)) return false;
    this.#served.add(name);
    if (!this.#names.includes(name)) this.#names.push(name);
    return true;
  }

  /** False when it was not served. */
  unload(name: string): boolean {
    return this.#served.delete(name);
  }
}
