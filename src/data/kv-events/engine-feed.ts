/**
 * The events of one publisher of one endpoint, in order, into its ranks: each rank it speaks for has a holder in the index. The feed owns its ranks
 * and whatever it asks a replay from.
 */
import type { TokenHasher } from "../../tokens/block-hash.ts";
import type { Holder, KvIndex } from "../prefix-index/kv-index.ts";
import { BatchOrder } from "./batch-order.ts";
import { EngineRank } from "./engine-rank.ts";
import { type BatchHead, createBatchDecoder } from "./event-batch-decoder.ts";
import type { EventCounters } from "./event-counters.ts";
import { ReplayClient } from "./replay-client.ts";

export interface EngineFeedOptions {
  readonly index: KvIndex;
  readonly hasher: TokenHasher;
  readonly blockSize: number;
  readonly maxBlocksPerRank: number;
  readonly counters: EventCounters;
  readonly adapters: Set<string>;
  /** Where past batches can be had; undefined where nowhere. */
  readonly replayEndpoint: string | undefined;
  readonly now: () => number;
  /** The rank of batches that do not say theirs; 0 unless set. */
  readonly rank?: number;
  /** A holder that already stands for a rank, e.g. with blocks heard of elsewhere; the rank takes it over. */
  readonly holderOf?: (rank: number) => Holder | undefined;
  readonly onBlockSize: (reported: number) => void;
  /** Told of each rank that begins and of each that ends. */
  readonly onRank: (rank: number, holder: Holder, isThere: boolean) => void;
}

/** Ranks one publisher may speak for. */
const maxRanks = 256;

/** Events are decoded one batch after the other on one thread: one decoder serves all feeds. */
const decoder = createBatchDecoder({ extraKeys: "bare" });

export class EngineFeed {
  readonly #options: EngineFeedOptions;
  readonly #ranks = new Map<number, EngineRank>();
  readonly #order: BatchOrder;
  readonly #replay: ReplayClient | undefined;
  #isClosed = false;

  constructor(options: EngineFeedOptions) {
    this.#options = options;
    const { replayEndpoint, counters, now } = options;
    if (replayEndpoint !== undefined) {
      this.#replay = new ReplayClient(
        replayEndpoint,
        {
          replayed: (sequence, payload) => this.#order.replayed(sequence, payload),
          replayEnded: (isComplete) => this.#order.replayEnded(isComplete),
        },
        now,
      );
    }
    const receiver = {
      batch: (payload: Buffer) => this.#apply(payload),
      timestampOf: (payload: Buffer) => decoder.open(payload)?.timestamp,
      restarted: () => {
        for (const rank of this.#ranks.values()) rank.clear();
      },
    };
    this.#order = new BatchOrder(receiver, this.#replay, counters);
  }

  /** The rank a batch speaks for; 0 for one that cannot be read. */
  static rankOf(payload: Buffer): number {
    return decoder.open(payload)?.rank ?? 0;
  }

  message(sequence: number, payload: Buffer): void {
    if (!this.#isClosed) this.#order.live(sequence, payload);
  }

  /** Asks for what the engine has published so far, where that can be had. */
  catchUp(): void {
    if (!this.#isClosed) this.#order.catchUp();
  }

  /** Of a rank that has spoken. */
  holderOf(rank: number): Holder | undefined {
    return this.#ranks.get(rank)?.holder;
  }

  *ranks(): IterableIterator<readonly [rank: number, holder: Holder]> {
    for (const [number, { holder }] of this.#ranks) yield [number, holder];
  }

  get isReplaying(): boolean {
    return this.#order.isReplaying;
  }

  disconnected(): void {
    this.#order.disconnected();
  }

  /** Blocks the engine's ranks hold, summed. */
  get blocks(): number {
    let sum = 0;
    for (const rank of this.#ranks.values()) sum += rank.blocks;
    return sum;
  }

  get sizeBytes(): number {
    let sum = 0;
    for (const rank of this.#ranks.values()) sum += rank.sizeBytes;
    return sum;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#order.close();
    for (const [number, rank] of this.#ranks) {
      rank.close();
      this.#options.onRank(number, rank.holder, false);
    }
    this.#ranks.clear();
    await this.#replay?.close();
  }

  #apply(payload: Buffer): number | undefined {
    const { counters } = this.#options;
    const head = decoder.open(payload);
    const rank = head === undefined ? undefined : this.#rank(head);
    if (rank === undefined) {
      counters.malformed += 1;
      return head?.timestamp;
    }
    counters.malformed += decoder.decode((event) => rank.apply(event));
    return head?.timestamp;
  }

  #rank(head: BatchHead): EngineRank | undefined {
    const number = head.saysRank ? head.rank : (this.#options.rank ?? 0);
    let rank = this.#ranks.get(number);
    if (rank === undefined && this.#ranks.size < maxRanks) {
      const holder = this.#options.holderOf?.(number);
      const { index, hasher, blockSize, maxBlocksPerRank, counters, adapters, onBlockSize, onRank } = this.#options;
      const maxBlocks = maxBlocksPerRank;
      rank = new EngineRank({ index, holder, hasher, blockSize, maxBlocks, counters, adapters, onBlockSize });
      this.#ranks.set(number, rank);
      onRank(number, rank.holder, true);
    }
    return rank;
  }
}
