/**
 * The engine events of a partition's workers: one socket and one feed for each rank that names an endpoint. A registration that says the same of a
 * rank leaves its feed alone; one that says otherwise begins anew. Everything a feed holds goes with it.
 */
import { EngineFeed } from "../../data/kv-events/engine-feed.ts";
import type { EventCounters } from "../../data/kv-events/event-counters.ts";
import { type MessageSource, openMessageSource } from "../../data/kv-events/message-source.ts";
import type { Holder, KvIndex } from "../../data/prefix-index/kv-index.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { TokenHasher } from "../../tokens/block-hash.ts";
import type { WorkerRank } from "../contracts.ts";
import { eventEndpointsOf, hasRank, type WorkerRecord } from "./worker-record.ts";

export interface WorkerFeedsOptions {
  readonly index: KvIndex;
  readonly blockSize: number;
  readonly hasher: TokenHasher;
  readonly counters: EventCounters;
  readonly log: Logger;
  readonly now: () => number;
  readonly holderChanged: (rank: WorkerRank, holder: Holder | undefined) => void;
}

interface RankFeed {
  readonly endpoint: string;
  readonly replayEndpoint: string | undefined;
  readonly feed: EngineFeed;
  readonly source: MessageSource;
}

/** Distinct blocks of one rank: an engine's own capacity many times over. */
const maxBlocksPerRank = 4_194_304;

export class WorkerFeeds {
  readonly #options: WorkerFeedsOptions;
  readonly #feeds = new Map<bigint, Map<number, RankFeed>>();
  /** Holders of ranks whose engine has said nothing yet: a peer may have told of their blocks. */
  readonly #orphans = new Map<bigint, Map<number, Holder>>();
  readonly #holders = new Map<bigint, Map<number, Holder>>();
  readonly #adapters = new Set<string>();
  readonly #closing = new Set<Promise<unknown>>();

  constructor(options: WorkerFeedsOptions) {
    this.#options = options;
  }

  /** Everything known of ranks, also of those whose worker is not registered. */
  *holders(): IterableIterator<{ readonly rank: WorkerRank; readonly holder: Holder }> {
    for (const ranks of [this.#holders, this.#orphans]) {
      for (const [workerId, holders] of ranks) {
        for (const [dpRank, holder] of holders) yield { rank: { workerId, dpRank }, holder };
      }
    }
  }

  /** The holder of a rank that a peer tells of. */
  holderOf(rank: WorkerRank): Holder {
    const known = this.#holders.get(rank.workerId)?.get(rank.dpRank);
    if (known !== undefined) return known;
    let ranks = this.#orphans.get(rank.workerId);
    if (ranks === undefined) {
      ranks = new Map();
      this.#orphans.set(rank.workerId, ranks);
    }
    let holder = ranks.get(rank.dpRank);
    if (holder === undefined) {
      holder = this.#options.index.attach();
      ranks.set(rank.dpRank, holder);
      this.#options.holderChanged(rank, holder);
    }
    return holder;
  }

  /** Resolves once the sockets that are new are connecting. */
  async follow(record: WorkerRecord): Promise<void> {
    const endpoints = eventEndpointsOf(record);
    const known = this.#feeds.get(record.workerId) ?? new Map<number, RankFeed>();
    for (const [dpRank, feed] of known) {
      const isSame = feed.endpoint === endpoints.get(dpRank) && feed.replayEndpoint === record.replayEndpoint;
      if (!hasRank(record, dpRank) || !isSame) this.#drop(record.workerId, dpRank, feed);
    }
    const opened: Promise<void>[] = [];
    for (const [dpRank, endpoint] of endpoints) {
      if (!hasRank(record, dpRank) || this.#feeds.get(record.workerId)?.has(dpRank) === true) continue;
      opened.push(this.#open({ workerId: record.workerId, dpRank }, endpoint, record.replayEndpoint));
    }
    await Promise.all(opened);
  }

  forget(workerId: bigint): void {
    for (const [dpRank, feed] of this.#feeds.get(workerId) ?? []) this.#drop(workerId, dpRank, feed);
    for (const dpRank of this.#orphans.get(workerId)?.keys() ?? []) this.#dropOrphan({ workerId, dpRank });
  }

  async close(): Promise<void> {
    for (const workerId of [...this.#feeds.keys(), ...this.#orphans.keys()]) this.forget(workerId);
    await Promise.all(this.#closing);
  }

  async #open(rank: WorkerRank, endpoint: string, replayEndpoint: string | undefined): Promise<void> {
    const { index, blockSize, hasher, counters, log, now } = this.#options;
    const { workerId } = rank;
    const feed = new EngineFeed({
      index,
      hasher,
      blockSize,
      maxBlocksPerRank,
      counters,
      adapters: this.#adapters,
      replayEndpoint,
      now,
      rank: rank.dpRank,
      holderOf: (dpRank) => this.#adopt({ workerId, dpRank }),
      onBlockSize: () => {},
      onRank: (dpRank, holder, isThere) => this.#note({ workerId, dpRank }, holder, isThere),
    });
    const source = openMessageSource({
      endpoint,
      binds: false,
      topicFilter: "",
      handler: {
        message: (_topic, sequence, payload) => feed.message(sequence, payload),
        disconnected: () => feed.disconnected(),
      },
      log,
    });
    let feeds = this.#feeds.get(workerId);
    if (feeds === undefined) {
      feeds = new Map();
      this.#feeds.set(workerId, feeds);
    }
    feeds.set(rank.dpRank, { endpoint, replayEndpoint, feed, source });
    // Decisions may be noted of the rank before its engine has said anything.
    this.holderOf(rank);
    await source.opened;
  }

  #adopt({ workerId, dpRank }: WorkerRank): Holder | undefined {
    const ranks = this.#orphans.get(workerId);
    const holder = ranks?.get(dpRank);
    ranks?.delete(dpRank);
    if (ranks?.size === 0) this.#orphans.delete(workerId);
    return holder;
  }

  #dropOrphan(rank: WorkerRank): void {
    const holder = this.#adopt(rank);
    if (holder === undefined) return;
    this.#options.index.detach(holder);
    this.#options.holderChanged(rank, undefined);
  }

  #note(rank: WorkerRank, holder: Holder, isThere: boolean): void {
    let ranks = this.#holders.get(rank.workerId);
    if (isThere) {
      if (ranks === undefined) {
        ranks = new Map();
        this.#holders.set(rank.workerId, ranks);
      }
      ranks.set(rank.dpRank, holder);
      this.#options.holderChanged(rank, holder);
      return;
    }
    // Another feed may speak for the rank by now.
    if (ranks?.get(rank.dpRank) !== holder) return;
    ranks.delete(rank.dpRank);
    if (ranks.size === 0) this.#holders.delete(rank.workerId);
    this.#options.holderChanged(rank, undefined);
  }

  /** What it held is forgotten at once; its sockets close in their own time. */
  #drop(workerId: bigint, dpRank: number, { feed, source }: RankFeed): void {
    const feeds = this.#feeds.get(workerId);
    feeds?.delete(dpRank);
    if (feeds?.size === 0) this.#feeds.delete(workerId);
    this.#dropOrphan({ workerId, dpRank });
    const closing = Promise.all([feed.close(), source.close()]);
    this.#closing.add(closing);
    closing
      .catch((error: unknown) => this.#options.log.error({ error }, "an engine's events could not be closed"))
      .finally(() => this.#closing.delete(closing));
  }
}
