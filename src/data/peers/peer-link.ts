/**
 * One address that a peer may be at: called for as long as it is listed, heard for as long as it speaks. A peer that is silent for three
 * heartbeats counts no more, connected or not; one that ends in good order counts no more at once.
 */
import { connect, type Socket } from "node:net";
import { connect as connectSecurely } from "node:tls";
import type { Logger } from "../../telemetry/log.ts";
import type { PeerAddress } from "./peer-addresses.ts";
import type { PeerCounters } from "./peer-counters.ts";
import { PeerFeed, type PeerFeedInit } from "./peer-feed.ts";
import type { PeerSecret } from "./peer-secret.ts";

export interface PeerLinkInit extends PeerFeedInit {
  readonly address: PeerAddress;
  readonly secret: PeerSecret | undefined;
  readonly log: Logger;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** Nothing is heard here any more, and nothing will be tried. */
  readonly over: (link: PeerLink) => void;
}

const connectTimeoutMs = 5000;
const firstRetryMs = 100;
const longestRetryMs = 5000;

export class PeerLink {
  readonly address: PeerAddress;
  readonly feed: PeerFeed;
  readonly #init: PeerLinkInit;
  readonly #counters: PeerCounters;
  #socket: Socket | undefined;
  #retry: NodeJS.Timeout | undefined;
  #watchdog: NodeJS.Timeout | undefined;
  #watchedAtMs = 0;
  #failures = 0;
  #isListed = true;
  #isClosed = false;
  #lastError: string | undefined;
  #isTold = false;
  #attempted: () => void = () => {};
  /** Resolves when the first call has come to something or to nothing. */
  readonly firstAttempt: Promise<void>;

  constructor(init: PeerLinkInit) {
    this.#init = init;
    this.address = init.address;
    this.#counters = init.counters;
    this.feed = new PeerFeed(init);
    this.firstAttempt = new Promise((resolve) => {
      this.#attempted = resolve;
    });
    this.#call();
  }

  get lastError(): string | undefined {
    return this.#lastError;
  }

  /** Nothing is heard here, and nothing will be tried. */
  get isOver(): boolean {
    return this.#isClosed || (!this.#isListed && this.#socket === undefined && this.feed.peer === undefined);
  }

  /** The address is listed no more: what speaks there may finish, and is not called again. */
  unlist(): void {
    this.#isListed = false;
    if (this.#socket !== undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    if (this.isOver) this.#init.over(this);
  }

  list(): void {
    if (this.#isListed) return;
    this.#isListed = true;
    if (this.#socket === undefined && this.#retry === undefined) this.#call();
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#retry);
    clearTimeout(this.#watchdog);
    this.#socket?.destroy();
    this.#attempted();
    this.feed.drop();
  }

  #call(): void {
    this.#retry = undefined;
    const { address, secret } = this.#init;
    const socket =
      secret === undefined
        ? connect({ host: address.host, port: address.port, noDelay: true })
        : connectSecurely({ host: address.host, port: address.port, ...secret.clientOptions() });
    this.#socket = socket;
    this.#watch();
    const late = setTimeout(
      () => socket.destroy(new Error(`no greeting within ${connectTimeoutMs} ms`)),
      connectTimeoutMs,
    );
    socket.setNoDelay(true);
    socket.once(secret === undefined ? "connect" : "secureConnect", () => socket.write(this.feed.begin()));
    socket.on("data", (chunk: Buffer) => {
      this.#heard(socket, chunk);
      if (this.feed.isWelcome) clearTimeout(late);
    });
    socket.on("error", (error) => {
      this.#lastError = error.message;
    });
    socket.once("close", () => {
      clearTimeout(late);
      this.#ended();
    });
  }

  #heard(socket: Socket, chunk: Buffer): void {
    const { feed } = this;
    const wasWelcome = feed.isWelcome;
    try {
      feed.receive(chunk);
    } catch (error) {
      this.#counters.refused++;
      this.#lastError = error instanceof Error ? error.message : String(error);
      socket.destroy();
      return;
    }
    if (feed.useless !== undefined) {
      this.#lastError = feed.refusal ?? feed.useless;
      socket.destroy();
      return;
    }
    if (feed.isSettled) this.#attempted();
    if (feed.isWelcome && !wasWelcome) {
      this.#failures = 0;
      this.#isTold = false;
      this.#lastError = undefined;
      this.#init.log.info({ ...this.address, peer: feed.peer }, "a replica of this picker is heard");
      this.#watch();
    }
  }

  #ended(): void {
    this.#socket = undefined;
    this.#attempted();
    if (this.#isClosed) return;
    const { log, random } = this.#init;
    const { useless, refusal, peer } = this.feed;
    this.feed.ended();
    if (!this.#isTold && (useless === "refused" || useless === undefined)) {
      this.#isTold = true;
      const fields = { ...this.address, peer, error: refusal ?? this.#lastError };
      if (useless === "refused") log.warn(fields, "a replica does not take this picker for one of its own");
      else if (peer !== undefined) log.info(fields, "a replica of this picker is heard no more; called again");
      else log.debug(fields, "no replica answers here yet");
    }
    if (!this.#isListed) {
      if (this.isOver) this.#init.over(this);
      return;
    }
    this.#failures = useless === undefined ? this.#failures + 1 : Number.POSITIVE_INFINITY;
    const delayMs = Math.min(firstRetryMs * 2 ** (this.#failures - 1), longestRetryMs);
    this.#retry = setTimeout(() => this.#call(), delayMs * (0.5 + random() / 2));
    this.#retry.unref();
  }

  /** Looks once a heartbeat for as long as there is somebody to look for. */
  #watch(): void {
    clearTimeout(this.#watchdog);
    const everyMs = this.feed.heartbeatMs;
    this.#watchedAtMs = this.#init.now();
    this.#watchdog = setTimeout(() => {
      // A process that was itself held up may have words of the peer still unread.
      const isLate = this.#init.now() - this.#watchedAtMs > 2 * everyMs;
      if (!isLate) this.#check();
      if (this.#socket !== undefined || this.feed.peer !== undefined) this.#watch();
    }, everyMs);
    this.#watchdog.unref();
  }

  #check(): void {
    const { feed } = this;
    if (feed.isWelcome) this.#socket?.write(feed.progress());
    if (!feed.isSilent || feed.peer === undefined) return;
    this.#counters.silent++;
    this.#init.log.warn(
      { ...this.address, peer: feed.peer, silentMs: feed.silentMs },
      "a replica is silent: its load counts no more",
    );
    feed.drop();
    this.#socket?.destroy();
    if (this.isOver) this.#init.over(this);
  }
}
