/** Where peers may be found, from a list of addresses and names: a name stands for every address that DNS gives for it, asked for again and again. */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { parsePort } from "../discovery/endpoint-address.ts";

export interface PeerAddress {
  /** IP literal without brackets. */
  readonly host: string;
  readonly port: number;
}

/** Finds addresses of peers, this replica's own among them or not. */
export interface PeerSource {
  /** Calls `found` with all addresses whenever they may have changed. Resolves after the first time, or when there is nothing yet to be found. */
  start(found: (addresses: readonly PeerAddress[]) => void): Promise<void>;
  close(): Promise<void>;
}

export interface PeerName {
  /** IP literal or DNS name. */
  readonly host: string;
  readonly port: number;
}

/** "host", "host:port", "address", "address:port", "[address]:port"; a fault says what is wrong. */
export function parsePeer(text: string, defaultPort: number): PeerName | { readonly fault: string } {
  if (isIP(text) !== 0) return { host: text, port: defaultPort };
  const colon = text.lastIndexOf(":");
  const host = (colon < 0 ? text : text.slice(0, colon)).replace(/^\[(.*)\]$/, "$1");
  const port = colon < 0 ? defaultPort : parsePort(text.slice(colon + 1));
  if (port === undefined) return { fault: `"${text}": the port must be 1 to 65535` };
  if (isIP(host) === 0 && !/^[a-zA-Z0-9]([a-zA-Z0-9_-]*\.?)*$/.test(host)) {
    return { fault: `"${text}": expected host:port` };
  }
  return { host, port };
}

export interface ListedPeersOptions {
  readonly names: readonly PeerName[];
  /** All addresses of a name; rejects where there are none. */
  readonly resolve?: (name: string) => Promise<readonly string[]>;
  readonly intervalMs?: number;
}

const defaultIntervalMs = 5000;

export function createListedPeers(options: ListedPeersOptions): PeerSource {
  return new ListedPeers(options);
}

class ListedPeers implements PeerSource {
  readonly #names: readonly PeerName[];
  readonly #resolve: (name: string) => Promise<readonly string[]>;
  readonly #intervalMs: number;
  /** The last good answer for each name. */
  readonly #known = new Map<string, readonly string[]>();
  #timer: NodeJS.Timeout | undefined;
  #asking: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor({ names, resolve = everyAddress, intervalMs = defaultIntervalMs }: ListedPeersOptions) {
    this.#names = names;
    this.#resolve = resolve;
    this.#intervalMs = intervalMs;
  }

  async start(found: (addresses: readonly PeerAddress[]) => void): Promise<void> {
    this.#asking = this.#ask(found);
    await this.#asking;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#asking;
  }

  async #ask(found: (addresses: readonly PeerAddress[]) => void): Promise<void> {
    const names = new Set(this.#names.map(({ host }) => host).filter((host) => isIP(host) === 0));
    await Promise.all(
      Array.from(names, async (name) => {
        // Without an answer the last one stands: a peer that is gone is found out by its silence.
        const addresses = await this.#resolve(name).catch(() => undefined);
        if (addresses !== undefined) this.#known.set(name, addresses);
      }),
    );
    if (this.#isClosed) return;
    found(
      this.#names.flatMap(({ host, port }) =>
        (isIP(host) === 0 ? (this.#known.get(host) ?? []) : [host]).map((address) => ({ host: address, port })),
      ),
    );
    if (names.size === 0) return;
    this.#timer = setTimeout(() => {
      this.#asking = this.#ask(found);
    }, this.#intervalMs);
    this.#timer.unref();
  }
}

async function everyAddress(name: string): Promise<readonly string[]> {
  return (await lookup(name, { all: true })).map(({ address }) => address);
}
