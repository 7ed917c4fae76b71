/** Numbers for the cache salts of one rank, so that a block remembers its own in two bytes. 0 is no salt. */
import { ambiguousSalt } from "./block-references.ts";

export class CacheSalts {
  readonly #ids = new Map<string, number>();
  readonly #names: string[] = [""];

  /** ambiguousSalt where there are more salts than numbers: what hangs below such a block cannot be told. */
  idOf(name: string): number {
    if (name === "") return 0;
    const known = this.#ids.get(name);
    if (known !== undefined) return known;
    if (this.#names.length >= ambiguousSalt) return ambiguousSalt;
    this.#names.push(name);
    this.#ids.set(name, this.#names.length - 1);
    return this.#names.length - 1;
  }

  /** "" for no salt. */
  nameOf(id: number): string {
    return this.#names[id] ?? "";
  }

  clear(): void {
    this.#ids.clear();
    this.#names.length = 1;
  }
}
