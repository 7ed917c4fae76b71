/** Headers that plugins set, in the order they were first set; a later value of the same name replaces the earlier. */
import type { HeaderSink } from "../data/producer.ts";
import type { Header } from "./contracts.ts";

const none: readonly Header[] = Object.freeze([]);

/** The picker's own: what a plugin sets must neither move the request nor break its framing. */
const reserved: ReadonlySet<string> = new Set([
  "x-gateway-destination-endpoint",
  "content-length",
  "transfer-encoding",
  "host",
]);

export class HeaderList implements HeaderSink {
  #headers: Header[] | undefined;

  /** Throws where the plugin may not set the header, or what it hands in is no header; the caller isolates plugins. */
  set(name: string, value: string): void {
    if (typeof name !== "string" || typeof value !== "string") throw new TypeError("a header is a name and a string");
    if (name === "" || name.startsWith(":") || reserved.has(name))
      throw new RangeError(`a plugin cannot set "${name}"`);
    this.#headers ??= [];
    const at = this.#headers.findIndex((header) => header[0] === name);
    if (at < 0) this.#headers.push([name, value]);
    else this.#headers[at] = [name, value];
  }

  toHeaders(): readonly Header[] {
    return this.#headers ?? none;
  }
}
