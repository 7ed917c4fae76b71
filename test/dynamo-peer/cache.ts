/**
 * The KV cache of one (worker, rank) as its events tell of it, and its local indexer: every change is numbered, logged and handed to whoever
 * publishes; what was not heard can be asked for. Blocks go by names of the engine's own, which are no hashes that a router knows.
 */
import { encode } from "@msgpack/msgpack";
import { createTokenHasher } from "../../src/tokens/block-hash.ts";
import { blockSize } from "./card.ts";

interface Block {
  readonly engineHash: bigint;
  readonly tokensHash: bigint;
  readonly parent: bigint | null;
}

interface LoggedEvent {
  readonly eventId: number;
  readonly data: unknown;
}

export interface CacheIdentity {
  readonly workerId: bigint;
  readonly dpRank: number;
}

/** Older events are forgotten: who asks for them is given everything. */
const loggedEvents = 8;
/** Makes of a sequence hash a name that only this engine uses. */
const engineSalt = 0x5a5a_a5a5_0f0f_f0f0n;

export class PeerCache {
  readonly #identity: CacheIdentity;
  readonly #hasher = createTokenHasher();
  /** By engine hash, parents before children. */
  readonly #blocks = new Map<bigint, Block>();
  readonly #log: LoggedEvent[] = [];
  readonly #publish: (payload: Uint8Array) => void;
  /** As Dynamo counts: from 1. */
  #nextEventId = 1;
  /** While set, events happen and are not heard, as when the network loses them. */
  isMute = false;

  constructor(identity: CacheIdentity, publish: (payload: Uint8Array) => void) {
    this.#identity = identity;
    this.#publish = publish;
  }

  /** Blocks that it holds. */
  get size(): number {
    return this.#blocks.size;
  }

  /** Holds all whole blocks of these tokens from now on; tells of those that are new. */
  store(tokens: readonly number[]): void {
    const wanted = this.#blocksOf(tokens);
    const fresh = wanted.filter(({ engineHash }) => !this.#blocks.has(engineHash));
    for (const block of fresh) this.#blocks.set(block.engineHash, block);
    if (fresh.length > 0) this.#happened(storedData(fresh));
  }

  /** Drops the blocks of these tokens, the first `kept` of them apart. */
  evict(tokens: readonly number[], kept = 0): void {
    const gone = this.#blocksOf(tokens)
      .slice(kept)
      .map(({ engineHash }) => engineHash)
      .filter((engineHash) => this.#blocks.delete(engineHash));
    if (gone.length > 0) this.#happened({ removed: { block_hashes: gone.toReversed() } });
  }

  clear(): void {
    this.#blocks.clear();
    this.#happened("cleared");
  }

  /** WorkerKvQueryResponse: what is newer than `startEventId`, or all there is. */
  answer(startEventId: number | undefined): unknown {
    const lastEventId = this.#nextEventId - 1;
    if (startEventId !== undefined && startEventId > lastEventId) {
      return {
        TooNew: { requested_start: startEventId, requested_end: null, newest_available: lastEventId },
      };
    }
    const oldest = this.#log[0]?.eventId ?? Number.POSITIVE_INFINITY;
    if (startEventId !== undefined && startEventId >= oldest) {
      const events = this.#log.filter(({ eventId }) => eventId >= startEventId);
      return { Events: { events: events.map((event) => this.#wire(event)), last_event_id: lastEventId } };
    }
    const events = [...this.#blocks.values()].map((block, index) =>
      this.#wire({ eventId: index, data: storedData([block]) }),
    );
    return { TreeDump: { events, last_event_id: lastEventId, reset_scope: "all" } };
  }

  #happened(data: unknown): void {
    const event = { eventId: this.#nextEventId++, data };
    this.#log.push(event);
    if (this.#log.length > loggedEvents) this.#log.shift();
    if (!this.isMute) this.#publish(encode([this.#wire(event)], { useBigInt64: true }));
  }

  #wire({ eventId, data }: LoggedEvent): unknown {
    const { workerId, dpRank } = this.#identity;
    return {
      worker_id: workerId,
      storage_tier: "device",
      event: { event_id: eventId, data, dp_rank: dpRank },
      residency_domain: "worker",
    };
  }

  #blocksOf(tokens: readonly number[]): Block[] {
    const { blockHashes, sequenceHashes } = this.#hasher.hash(Uint32Array.from(tokens), { blockSize });
    const blocks: Block[] = [];
    for (let index = 0; 2 * index < blockHashes.length; index++) {
      const parent = blocks.at(-1)?.engineHash ?? null;
      blocks.push({
        engineHash: wordsAt(sequenceHashes, index) ^ engineSalt,
        tokensHash: wordsAt(blockHashes, index),
        parent,
      });
    }
    return blocks;
  }
}

/** A run of blocks, each the child of the one before. */
function storedData(blocks: readonly Block[]): unknown {
  return {
    stored: {
      parent_hash: blocks[0]?.parent ?? null,
      blocks: blocks.map(({ engineHash, tokensHash }) => ({
        block_hash: engineHash,
        tokens_hash: tokensHash,
        mm_extra_info: null,
      })),
    },
  };
}

function wordsAt(words: Uint32Array, index: number): bigint {
  return ((BigInt(words[2 * index + 1] ?? 0) << 32n) | BigInt(words[2 * index] ?? 0)) & 0xffff_ffff_ffff_ffffn;
}
