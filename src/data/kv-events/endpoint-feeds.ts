/**
 * Engine events of every endpoint in the store: an endpoint that comes gets a feed, one that goes takes its blocks along. Events are fetched from a
 * port of each endpoint, or come to one bound endpoint with the publisher's name in the topic (`kv@<ip:port>@<model>`), or both.
 */

import type { Logger } from "../../telemetry/log.ts";
import { createTokenHasher } from "../../tokens/block-hash.ts";
import type { Endpoint } from "../endpoint.ts";
import { hostPortOf } from "../endpoint.ts";
import type { Holder, KvIndex } from "../prefix-index/kv-index.ts";
import type { EndpointStoreView } from "../store-view.ts";
import { EngineFeed } from "./engine-feed.ts";
import { createEventCounters, type EventCounters } from "./event-counters.ts";
import { type MessageSource, openMessageSource } from "./message-source.ts";

/** Labels that name an endpoint's own ports, where several share an address. */
export const eventPortLabel = "signalbox/kv-events-port";
export const replayPortLabel = "signalbox/kv-replay-port";

export interface EndpointFeedsOptions {
  readonly index: KvIndex;
  readonly endpoints: EndpointStoreView;
  readonly blockSize: number;
  readonly topicFilter: string;
  /** Connects to each endpoint; undefined where publishers connect to us. */
  readonly perEndpoint:
    | {
        readonly port: number;
        readonly replayPort: number | undefined;
        /** Endpoints that publish. */
        readonly selects: (endpoint: Endpoint) => boolean;
      }
    | undefined;
  /** Bound for publishers that connect to us, e.g. "tcp://*:5557". */
  readonly boundEndpoint: string | undefined;
  readonly maxBlocksPerRank: number;
  /** Asks each endpoint for its past at once, not only when something of it is missing. */
  readonly catchesUp?: boolean;
  readonly log: Logger;
  readonly now: () => number;
  /** Told of each rank of an endpoint that begins to hold blocks, and of each that ends. */
  readonly onRank?: (endpoint: Endpoint, rank: number, holder: Holder, isThere: boolean) => void;
}

interface Seat {
  readonly endpoint: Endpoint;
  readonly holders: Holder[];
  /** One for the endpoint's own port; for a bound socket one a topic. */
  readonly feeds: Map<string, EngineFeed>;
  source: MessageSource | undefined;
  /** Holders of ranks that somebody else told of and that have not spoken themselves. */
  readonly foretold: Map<number, Holder>;
  /** Its past will be asked for once its socket is open. */
  willCatchUp: boolean;
}

/** Topics of one endpoint: one a model, and a few for restarts under other names. */
const maxTopics = 16;
/** Ranks of one endpoint that may be foretold. */
const maxForetold = 256;
/** Unknown publishers that are named in the log. */
const maxNamed = 32;

export class EndpointFeeds {
  readonly counters: EventCounters = createEventCounters();
  /** Adapters that engines named in their events. */
  readonly adapters = new Set<string>();
  readonly #options: EndpointFeedsOptions;
  readonly #hasher = createTokenHasher();
  /** By slot. */
  readonly #seats: (Seat | undefined)[] = [];
  /** By every name a topic may give an endpoint; a name that two have tells neither. */
  readonly #byName = new Map<string, Seat[]>();
  readonly #strangers = new Set<string>();
  readonly #sizesSeen = new Set<number>();
  readonly #closing = new Set<Promise<unknown>>();
  readonly #unsubscribe: () => void;
  #upkeep: NodeJS.Immediate | undefined;
  readonly #bound: MessageSource | undefined;

  constructor(options: EndpointFeedsOptions) {
    this.#options = options;
    const { endpoints, boundEndpoint, topicFilter, log } = options;
    this.#unsubscribe = endpoints.subscribe({
      added: (endpoint) => this.#add(endpoint),
      removed: (endpoint) => this.#remove(endpoint),
    });
    for (const endpoint of endpoints.snapshot()) this.#add(endpoint);
    if (boundEndpoint !== undefined) {
      const handler = {
        message: (topic: Buffer, sequence: number, payload: Buffer) => this.#fromTopic(topic, sequence, payload),
        disconnected: () => {},
      };
      this.#bound = openMessageSource({ endpoint: boundEndpoint, binds: true, topicFilter, handler, log });
    }
  }

  /** As bound, once it is; undefined where nothing is bound. */
  get boundEndpoint(): string | undefined {
    return this.#bound?.boundEndpoint;
  }

  /** Resolves when every socket that is wanted now is open. */
  async opened(): Promise<void> {
    await this.#bound?.opened;
    for (const seat of this.#seats) await seat?.source?.opened;
  }

  /** Holders of the endpoint's ranks in the index; none for one whose engine has said nothing. Read during the caller's turn only. */
  holdersOf(endpoint: Endpoint): readonly Holder[] {
    const seat = this.#seats[endpoint.slot];
    return seat !== undefined && seat.endpoint.generation === endpoint.generation ? seat.holders : noHolders;
  }

  /** The holder of a rank that somebody else tells of, for blocks that it has heard of; undefined for an endpoint that has no feed. */
  foretell(endpoint: Endpoint, rank: number): Holder | undefined {
    const seat = this.#seats[endpoint.slot];
    if (seat === undefined || seat.endpoint.generation !== endpoint.generation) return undefined;
    for (const feed of seat.feeds.values()) {
      const spoken = feed.holderOf(rank);
      if (spoken !== undefined) return spoken;
    }
    let holder = seat.foretold.get(rank);
    if (holder === undefined) {
      if (seat.feeds.size === 0 || seat.foretold.size >= maxForetold) return undefined;
      holder = this.#options.index.attach();
      seat.foretold.set(rank, holder);
      seat.holders.push(holder);
      this.#options.onRank?.(endpoint, rank, holder, true);
    }
    return holder;
  }

  /** Every rank that has blocks, spoken for or foretold. */
  *ranksOf(endpoint: Endpoint): IterableIterator<readonly [rank: number, holder: Holder]> {
    const seat = this.#seats[endpoint.slot];
    if (seat === undefined || seat.endpoint.generation !== endpoint.generation) return;
    for (const feed of seat.feeds.values()) yield* feed.ranks();
    yield* seat.foretold;
  }

  /** An endpoint's past has been asked for, or is about to be, and is not in yet. */
  get isReplaying(): boolean {
    for (const seat of this.#seats) {
      if (seat === undefined) continue;
      if (seat.willCatchUp) return true;
      for (const feed of seat.feeds.values()) if (feed.isReplaying) return true;
    }
    return false;
  }

  /** Blocks an endpoint's engine says it holds. */
  blocksOf(endpoint: Endpoint): number {
    const seat = this.#seats[endpoint.slot];
    if (seat === undefined || seat.endpoint.generation !== endpoint.generation) return 0;
    let sum = 0;
    for (const feed of seat.feeds.values()) sum += feed.blocks;
    return sum;
  }

  /** Memory beside the index. */
  get sizeBytes(): number {
    let sum = 0;
    for (const seat of this.#seats) {
      if (seat !== undefined) for (const feed of seat.feeds.values()) sum += feed.sizeBytes;
    }
    return sum;
  }

  async close(): Promise<void> {
    this.#unsubscribe();
    for (const seat of this.#seats) if (seat !== undefined) this.#drop(seat);
    clearImmediate(this.#upkeep);
    this.#upkeep = undefined;
    if (this.#bound !== undefined) this.#closing.add(this.#bound.close());
    await Promise.all(this.#closing);
  }

  #add(endpoint: Endpoint): void {
    const { perEndpoint, topicFilter, log } = this.#options;
    const known = this.#seats[endpoint.slot];
    if (known !== undefined) {
      if (known.endpoint.generation === endpoint.generation) return;
      this.#drop(known);
    }
    const seat: Seat = {
      endpoint,
      holders: [],
      feeds: new Map(),
      source: undefined,
      foretold: new Map(),
      willCatchUp: false,
    };
    this.#seats[endpoint.slot] = seat;
    for (const name of namesOf(endpoint)) this.#byName.set(name, [...(this.#byName.get(name) ?? []), seat]);
    if (perEndpoint?.selects(endpoint) !== true) return;
    const rank = rankOf(endpoint);
    const port = portLabel(endpoint, eventPortLabel) ?? perEndpoint.port + rank;
    const replayPort = portLabel(endpoint, replayPortLabel) ?? offset(perEndpoint.replayPort, rank);
    const feed = this.#feed(seat, replayPort === undefined ? undefined : tcp(endpoint, replayPort));
    seat.feeds.set("", feed);
    seat.source = openMessageSource({
      endpoint: tcp(endpoint, port),
      binds: false,
      topicFilter,
      handler: {
        message: (_topic, sequence, payload) => feed.message(sequence, payload),
        disconnected: () => feed.disconnected(),
      },
      log,
    });
    // The sooner it listens, the less is missing after the past.
    if (this.#options.catchesUp !== true) return;
    seat.willCatchUp = true;
    void seat.source.opened.then(() => {
      seat.willCatchUp = false;
      feed.catchUp();
    });
  }

  #remove(endpoint: Endpoint): void {
    const seat = this.#seats[endpoint.slot];
    if (seat?.endpoint.generation === endpoint.generation) this.#drop(seat);
  }

  /** Its blocks are forgotten at once; its sockets close in their own time. */
  #drop(seat: Seat): void {
    this.#seats[seat.endpoint.slot] = undefined;
    for (const name of namesOf(seat.endpoint)) {
      const others = (this.#byName.get(name) ?? []).filter((other) => other !== seat);
      if (others.length > 0) this.#byName.set(name, others);
      else this.#byName.delete(name);
    }
    for (const [rank, holder] of seat.foretold) {
      this.#options.index.detach(holder);
      this.#options.onRank?.(seat.endpoint, rank, holder, false);
    }
    seat.foretold.clear();
    const closing = Promise.all([seat.source?.close(), ...[...seat.feeds.values()].map((feed) => feed.close())]);
    this.#closing.add(closing);
    closing.finally(() => this.#closing.delete(closing)).catch(() => {});
    this.#keepUp();
  }

  /** What a gone endpoint held leaves the index in slices, one a turn. */
  #keepUp(): void {
    this.#upkeep ??= setImmediate(() => {
      this.#upkeep = undefined;
      if (this.#options.index.upkeep()) this.#keepUp();
    });
  }

  #feed(seat: Seat, replayEndpoint: string | undefined): EngineFeed {
    const { index, blockSize, maxBlocksPerRank, now, onRank } = this.#options;
    return new EngineFeed({
      index,
      hasher: this.#hasher,
      blockSize,
      maxBlocksPerRank,
      counters: this.counters,
      adapters: this.adapters,
      replayEndpoint,
      now,
      holderOf: (rank) => {
        const holder = seat.foretold.get(rank);
        seat.foretold.delete(rank);
        return holder;
      },
      onBlockSize: (reported) => this.#warnOfBlockSize(seat.endpoint, reported),
      onRank: (rank, holder, isThere) => {
        if (isThere && !seat.holders.includes(holder)) seat.holders.push(holder);
        if (!isThere) seat.holders.splice(seat.holders.indexOf(holder), 1);
        onRank?.(seat.endpoint, rank, holder, isThere);
      },
    });
  }

  /** A message at the bound socket: whose it is stands in its topic. */
  #fromTopic(topicBytes: Buffer, sequence: number, payload: Buffer): void {
    const topic = topicBytes.toString("utf8");
    const publisher = publisherOf(topic);
    const [seat, ...others] = this.#byName.get(publisher) ?? [];
    if (seat === undefined || others.length > 0) {
      this.counters.unknownPublisher += 1;
      this.#warnOfStranger(publisher, topic);
      return;
    }
    // Ranks of one engine publish under one topic, each counting its own batches.
    const key = `${topic}#${EngineFeed.rankOf(payload)}`;
    let feed = seat.feeds.get(key);
    if (feed === undefined) {
      if (seat.feeds.size >= maxTopics) return;
      feed = this.#feed(seat, undefined);
      seat.feeds.set(key, feed);
    }
    feed.message(sequence, payload);
  }

  #warnOfStranger(publisher: string, topic: string): void {
    if (this.#strangers.has(publisher) || this.#strangers.size >= maxNamed) return;
    this.#strangers.add(publisher);
    this.#options.log.warn(
      { publisher, topic },
      "engine events of a publisher that is no endpoint: its topic should be kv@<ip>:<port>@<model>",
    );
  }

  #warnOfBlockSize(endpoint: Endpoint, reported: number): void {
    if (this.#sizesSeen.has(reported) || this.#sizesSeen.size >= maxNamed) return;
    this.#sizesSeen.add(reported);
    this.#options.log.warn(
      { endpoint: endpoint.name, reported, expected: this.#options.blockSize },
      "an engine's blocks have another size: set blockSizeTokens to it, or nothing of it is matched",
    );
  }
}

const noHolders: readonly Holder[] = [];

/** "<ip:port>", or the address or the pod's name alone, which some deployments put into their topics. */
function namesOf(endpoint: Endpoint): readonly string[] {
  const name = endpoint.name.slice(endpoint.namespace.length + 1);
  return [endpoint.hostPort, endpoint.name, name, endpoint.address];
}

/** Between the first and the last @ of a topic; a model's name may hold one too, so the second one ends the publisher. */
function publisherOf(topic: string): string {
  const from = topic.indexOf("@") + 1;
  const to = topic.indexOf("@", from);
  return topic.slice(from, to < 0 ? topic.length : to);
}

/** The number in "<pod>-rank-<n>": engines publish each rank on a port of its own, counting from the first. */
export function rankOf(endpoint: Endpoint): number {
  return Number(/-rank-(\d{1,4})$/.exec(endpoint.name)?.[1] ?? 0);
}

function portLabel(endpoint: Endpoint, label: string): number | undefined {
  const port = Number(endpoint.labels.get(label));
  return Number.isInteger(port) && port > 0 && port < 65_536 ? port : undefined;
}

function offset(port: number | undefined, rank: number): number | undefined {
  return port === undefined ? undefined : port + rank;
}

function tcp(endpoint: Endpoint, port: number): string {
  return `tcp://${hostPortOf(endpoint.address, port)}`;
}
