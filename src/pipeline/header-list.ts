/** Headers that plugins set, in the order they were first set; a later value of the same name replaces the earlier. */
import type { HeaderSink } from "../data/producer.ts";
import type { Header } from "./contracts.ts";

const none: readonly Header[] = Object.freeze([]);

export class HeaderList implements HeaderSink {
  #headers: Header[] | undefined;

  set(name: string, value: string): void {
    this.#headers ??= [];
    const at = this.#headers.findIndex((header) => header[0] === name);
    if (at < 0) this.#headers.push([name, value]);
    else this.#headers[at] = [name, value];
  }

  toHeaders(): readonly Header[] {
    return this.#headers ?? none;
  }
}
