/**
 * The index as the pickers of the same engines share it: one that starts takes over what another knows, and answers those that start later. Nobody
 * waits for long: where no picker has an index, or none gives it in time, this one begins with an empty index and says so.
 */
import { setTimeout as rest } from "node:timers/promises";
import type { PeerAddress } from "../../data/peers/peer-addresses.ts";
import type { Logger } from "../../telemetry/log.ts";
import { DumpRefused, fetchDump } from "../service/recovery.ts";
import { type IndexServer, startIndexServer } from "./index-server.ts";

export interface IndexPeersInit {
  /** Bound by this picker and by every peer. */
  readonly port: number;
  /** HTTP URLs of peers; undefined: those that `found` tells, at the same port. */
  readonly urls: readonly string[] | undefined;
  /** Pieces of this picker's own dump. */
  readonly dump: () => AsyncIterable<string>;
  /** Puts a peer's dump into the index; resolves with the blocks taken. Throws on what is no dump. */
  readonly takeOver: (dump: Uint8Array) => Promise<number>;
  /** The engines are known, so that what is told of them can be placed. */
  readonly isPrepared: () => boolean;
  readonly log: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly random: () => number;
  /** Longest wait for an index; tests shorten it. */
  readonly withinMs?: number;
}

export type Recovery =
  | "running"
  /** A peer's index was taken over. */
  | "recovered"
  /** There was none to be had. */
  | "empty";

const defaultWithinMs = 10_000;
const lookMs = 50;
const firstRetryMs = 250;
const longestRetryMs = 4_000;
/** Rounds in which nobody has an index before none is waited for: pickers that start together have none. */
const fruitlessRounds = 2;

export class IndexPeers {
  readonly #init: IndexPeersInit;
  readonly #closing = new AbortController();
  #found: readonly PeerAddress[] | undefined;
  #server: IndexServer | undefined;
  #tasks: readonly Promise<void>[] = [];
  #failure: string | undefined;
  #recovery: Recovery = "running";
  #blocks = 0;

  constructor(init: IndexPeersInit) {
    this.#init = init;
  }

  begin(): void {
    this.#tasks = [this.#serve(), this.#recover()];
  }

  /** All peers there are now. */
  found(addresses: readonly PeerAddress[]): void {
    this.#found = addresses;
  }

  get isRecovering(): boolean {
    return this.#recovery === "running";
  }

  /** Port that is bound; undefined until it is. */
  get port(): number | undefined {
    return this.#server?.port;
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return {
      recovery: this.#recovery,
      takenOverBlocks: this.#blocks,
      port: this.#server?.port ?? null,
      failure: this.#failure ?? null,
    };
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#tasks);
    await this.#server?.close();
  }

  /** Never rejects. A port that is taken is tried again: a configuration that is replaced keeps it until its last request has ended. */
  async #serve(): Promise<void> {
    const { port, dump, log } = this.#init;
    const { signal } = this.#closing;
    for (let retryMs = firstRetryMs; !signal.aborted; retryMs = Math.min(2 * retryMs, longestRetryMs)) {
      try {
        this.#server = await startIndexServer({
          port,
          dump: () => (this.isRecovering ? undefined : dump()),
          onError: (error) => log.warn({ error }, "a peer's question for the index could not be answered"),
        });
        this.#failure = undefined;
        return;
      } catch (error) {
        if (this.#failure === undefined)
          log.error({ error, retryMs }, "the index cannot be served to other pickers; tried again");
        this.#failure = error instanceof Error ? error.message : String(error);
        await this.#rest(retryMs);
      }
    }
  }

  /** Never rejects. */
  async #recover(): Promise<void> {
    const { isPrepared, log, now, withinMs = defaultWithinMs } = this.#init;
    const { signal } = this.#closing;
    const endMs = now() + withinMs;
    while (!signal.aborted && now() < endMs && (this.#peers() === undefined || !isPrepared())) await this.#rest(lookMs);
    let fruitless = 0;
    for (let retryMs = firstRetryMs; !signal.aborted; retryMs = Math.min(2 * retryMs, longestRetryMs)) {
      const peers = this.#peers() ?? [];
      fruitless += 1;
      const isRecovered = await this.#askAll(peers, endMs, () => {
        fruitless = 0;
      });
      if (isRecovered) return;
      if (signal.aborted) return;
      if (peers.length === 0 || fruitless >= fruitlessRounds || now() + retryMs > endMs) {
        this.#recovery = "empty";
        log.warn(
          { peers: peers.length },
          "no other picker gave its index: this one begins with an empty one, as a first picker does",
        );
        return;
      }
      await this.#rest(retryMs);
    }
  }

  /** True once one of them gave its index. `mayHave` is called of each that has one or may have, but did not give it. */
  async #askAll(peers: readonly string[], endMs: number, mayHave: () => void): Promise<boolean> {
    const { log, now, random, takeOver } = this.#init;
    const left = [...peers];
    let hasHope = false;
    while (left.length > 0 && now() < endMs && !this.#closing.signal.aborted) {
      const [peer = ""] = left.splice(Math.floor(random() * left.length), 1);
      try {
        const signal = AbortSignal.any([this.#closing.signal, AbortSignal.timeout(Math.ceil(endMs - now()))]);
        this.#blocks = await takeOver(await fetchDump(peer, signal));
        this.#recovery = "recovered";
        log.info({ peer, blocks: this.#blocks }, "took a peer's index over");
        return true;
      } catch (error) {
        if (this.#closing.signal.aborted) return false;
        hasHope ||= !hasNone(error);
        log.info({ peer, error: String(error) }, "a peer's index cannot be had; the next one is asked");
      }
    }
    if (hasHope) mayHave();
    return false;
  }

  #peers(): readonly string[] | undefined {
    const { urls, port } = this.#init;
    return (
      urls ??
      this.#found?.map(({ host }) => (host.includes(":") ? `http://[${host}]:${port}` : `http://${host}:${port}`))
    );
  }

  async #rest(ms: number): Promise<void> {
    await rest(ms, undefined, { signal: this.#closing.signal }).catch(() => undefined);
  }
}

/** One that listens to nobody yet, or has not recovered itself. */
function hasNone(error: unknown): boolean {
  if (error instanceof DumpRefused) return error.status === 503;
  const { cause } = error as { readonly cause?: { readonly code?: unknown } };
  return cause?.code === "ECONNREFUSED";
}
