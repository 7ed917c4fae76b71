/**
 * The replicas of one picker as one: what each has in flight and what each has learnt is told to all others within milliseconds. Everybody calls
 * everybody and listens; who is called only tells. So nobody can say anything to a replica that it has not called itself.
 */
import { randomBytes } from "node:crypto";
import type { Logger } from "../../telemetry/log.ts";
import type { PeerId, SharedState } from "../shared-state.ts";
import { ChangeLog } from "./change-log.ts";
import type { PeerAddress, PeerSource } from "./peer-addresses.ts";
import { createPeerCounters, type PeerCounters } from "./peer-counters.ts";
import type { PeerClaims } from "./peer-feed.ts";
import { type PeerIdentity, peerIdOf } from "./peer-greeting.ts";
import { PeerLink } from "./peer-link.ts";
import type { PeerSecret } from "./peer-secret.ts";
import { PeerServer } from "./peer-server.ts";
import { SharedTopics } from "./shared-topics.ts";

export interface PeerExchangeOptions {
  /** Bound address of the port. */
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  /** Whose replicas these are. */
  readonly scope: string;
  readonly source: PeerSource;
  /** Undefined: whoever reaches the port may listen, and what is said can be read on the way. */
  readonly secret: PeerSecret | undefined;
  readonly log: Logger;
  readonly now: () => number;
  readonly random: () => number;
  readonly heartbeatMs?: number;
  /** Least time between two messages to a peer. */
  readonly intervalMs?: number;
}

/** Addresses that are called at once; more of them are left out. */
const mostPeers = 64;
const defaultHeartbeatMs = 1000;
const defaultIntervalMs = 5;
/** How long a start waits for the peers' present state. */
const startPatienceMs = 1000;

export class PeerExchange {
  readonly counters: PeerCounters = createPeerCounters();
  readonly #options: PeerExchangeOptions;
  readonly #identity: PeerIdentity;
  readonly #changes = new ChangeLog();
  readonly #topics: SharedTopics;
  readonly #server: PeerServer;
  readonly #links = new Map<string, PeerLink>();
  readonly #claimed = new Map<PeerId, unknown>();
  /** By pool. */
  readonly #states = new Map<string, readonly SharedState[]>();
  #flushTimer: NodeJS.Timeout | undefined;
  #flushSoon: NodeJS.Immediate | undefined;
  #flushedAtMs = Number.NEGATIVE_INFINITY;
  #isClosed = false;

  constructor(options: PeerExchangeOptions) {
    this.#options = options;
    const { scope, heartbeatMs = defaultHeartbeatMs, now } = options;
    this.#identity = { id: peerIdOf(randomBytes(8)), scope, heartbeatMs };
    this.#topics = new SharedTopics(this.#changes, this.counters, () => this.#wanted());
    this.#server = new PeerServer({
      host: options.host,
      port: options.port,
      secret: options.secret,
      identity: this.#identity,
      changes: this.#changes,
      topics: this.#topics,
      counters: this.counters,
      now,
      log: options.log,
      wanted: () => this.#wanted(),
    });
  }

  get port(): number {
    return this.#server.port;
  }

  get id(): PeerId {
    return this.#identity.id;
  }

  /** Peers that are heard and whose whole state is counted. */
  get heard(): number {
    let heard = 0;
    for (const { feed } of this.#links.values()) if (feed.isSettled) heard++;
    return heard;
  }

  /** Peers that listen, and bytes that the slowest of them has yet to take. */
  get listening(): { readonly peers: number; readonly lagBytes: number } {
    const { outputs } = this.#server;
    return { peers: outputs.length, lagBytes: Math.max(0, ...outputs.map(({ lagBytes }) => lagBytes)) };
  }

  /**
   * Binds the port, finds the peers and has their present state, or was not answered within a second. Rejects with the system's error where
   * the port cannot be had.
   */
  async start(): Promise<void> {
    await this.#server.listen();
    await this.#options.source.start((addresses) => this.#listed(addresses));
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, startPatienceMs);
    });
    await Promise.race([patience, Promise.all(Array.from(this.#links.values(), (link) => link.firstAttempt))]);
    clearTimeout(timer);
  }

  /** Shares exactly these of a pool from now on. Its load is to be among them every time: peers say it only once. */
  share(pool: string, states: readonly SharedState[]): void {
    if (this.#isClosed) return;
    this.#states.set(pool, states);
    const byName = new Map<string, SharedState>();
    for (const [name, shared] of this.#states) {
      for (const state of shared) byName.set(`${name}/${state.topic}`, state);
    }
    this.#topics.share(byName);
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    this.#topics.collect();
    return {
      id: this.#identity.id,
      port: this.port,
      scope: this.#identity.scope,
      topics: this.#topics.names,
      head: this.#changes.head,
      peers: Array.from(this.#links.values(), ({ address, feed, lastError }) => ({
        address: `${address.host} ${address.port}`,
        peer: feed.peer ?? null,
        state: feed.isSettled ? "heard" : (feed.useless ?? (feed.isWelcome ? "settling" : "called")),
        read: feed.offset ?? null,
        hasKnown: feed.hasKnown,
        silentMs: feed.peer === undefined ? null : Math.round(feed.silentMs),
        counted: feed.peer === undefined ? [] : this.#topics.describe(feed.peer),
        error: lastError ?? null,
      })),
      listeners: this.#server.state(),
      counters: this.counters,
    };
  }

  /** Tells the peers that nothing more comes. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#flushTimer);
    clearImmediate(this.#flushSoon);
    await this.#options.source.close();
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
    await this.#server.close();
    this.#topics.share(new Map());
  }

  #listed(addresses: readonly PeerAddress[]): void {
    if (this.#isClosed) return;
    const listed = new Map(addresses.map((address) => [`${address.host} ${address.port}`, address]));
    for (const [key, link] of this.#links) if (!listed.has(key)) link.unlist();
    for (const [key, address] of listed) {
      const known = this.#links.get(key);
      if (known !== undefined) known.list();
      else if (this.#links.size < mostPeers) this.#links.set(key, this.#linkTo(key, address));
    }
  }

  #linkTo(key: string, address: PeerAddress): PeerLink {
    const { secret, log, now, random } = this.#options;
    return new PeerLink({
      address,
      identity: this.#identity,
      topics: this.#topics,
      claims: this.#claims,
      counters: this.counters,
      secret,
      log,
      now,
      random,
      over: (link) => {
        link.close();
        if (this.#links.get(key) === link) this.#links.delete(key);
      },
    });
  }

  readonly #claims: PeerClaims = {
    claim: (peer, feed) => {
      const holder = this.#claimed.get(peer);
      if (holder !== undefined && holder !== feed) return false;
      this.#claimed.set(peer, feed);
      return true;
    },
    release: (peer, feed) => {
      if (this.#claimed.get(peer) === feed) this.#claimed.delete(peer);
    },
  };

  /** At once after a rest; else when the interval since the last message is over. */
  #wanted(): void {
    if (this.#isClosed || this.#flushTimer !== undefined || this.#flushSoon !== undefined) return;
    const { now, intervalMs = defaultIntervalMs } = this.#options;
    const waitMs = this.#flushedAtMs + intervalMs - now();
    if (waitMs <= 0) this.#flushSoon = setImmediate(() => this.#flush());
    else this.#flushTimer = setTimeout(() => this.#flush(), waitMs);
  }

  #flush(): void {
    this.#flushSoon = undefined;
    this.#flushTimer = undefined;
    this.#flushedAtMs = this.#options.now();
    // Without listeners there is nobody to tell; who comes is told everything.
    const { outputs } = this.#server;
    if (outputs.length === 0) return;
    this.#topics.collect();
    this.#server.pump();
    if (outputs.some(({ hasMore }) => hasMore)) this.#wanted();
  }
}
