/**
 * Collects what one engine step does to the cache and encodes it as vLLM's KVEventBatch: msgpack `[ts, [events], dp_rank]`, each event a
 * positional array that begins with its name. Events keep the order in which they happened: a block is removed before it is stored anew.
 */
import { encode } from "@msgpack/msgpack";
import type { Engine } from "../engine/engine.ts";
import type { EngineRequest, Sequence } from "../engine/sequence.ts";

const medium = "GPU";

/** What a stored event says besides the blocks. */
export interface StoredNames {
  readonly loraName: string | null;
  readonly cacheSalt: string;
}

type StoredEvent = readonly [
  tag: "BlockStored",
  blockHashes: readonly bigint[],
  parentBlockHash: bigint | null,
  tokenIds: readonly number[],
  blockSize: number,
  loraId: null,
  medium: string,
  loraName: string | null,
  extraKeys: readonly (readonly string[] | null)[] | null,
];

type ClearedEvent = readonly [tag: "AllBlocksCleared"];

type RemovedEvent = readonly [tag: "BlockRemoved", blockHashes: bigint[], medium: string];

/** A block's 64-bit hash as it stands on the wire. */
export function hashOfLanes(lo: number, hi: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}

export class KvEventBatch<Owner> {
  readonly #engine: Engine<Owner>;
  readonly #namesOf: (request: EngineRequest<Owner>) => StoredNames;
  #events: (StoredEvent | RemovedEvent | ClearedEvent)[] = [];

  constructor(engine: Engine<Owner>, namesOf: (request: EngineRequest<Owner>) => StoredNames) {
    this.#engine = engine;
    this.#namesOf = namesOf;
  }

  stored(sequence: Sequence<Owner>, firstBlock: number, count: number): void {
    const { blockSize } = this.#engine.config;
    const { hashes } = sequence;
    const tokens = new Uint32Array(count * blockSize);
    const blockHashes: bigint[] = [];
    for (let index = 0; index < count; index++) {
      this.#engine.tokensOfBlock(sequence, firstBlock + index, tokens, index * blockSize);
      blockHashes.push(laneHash(hashes, firstBlock + index));
    }
    const { loraName, cacheSalt } = this.#namesOf(sequence.request);
    this.#events.push([
      "BlockStored",
      blockHashes,
      firstBlock === 0 ? null : laneHash(hashes, firstBlock - 1),
      Array.from(tokens),
      blockSize,
      null,
      medium,
      loraName,
      extraKeysOf(firstBlock, count, loraName, cacheSalt),
    ]);
  }

  removed(hashLo: number, hashHi: number): void {
    const last = this.#events.at(-1);
    if (last?.[0] === "BlockRemoved") last[1].push(hashOfLanes(hashLo, hashHi));
    else this.#events.push(["BlockRemoved", [hashOfLanes(hashLo, hashHi)], medium]);
  }

  cleared(): void {
    this.#events.push(["AllBlocksCleared"]);
  }

  /** The batch so far, encoded, and an empty one begun; undefined when nothing happened. */
  take(nowMs: number): Uint8Array | undefined {
    if (this.#events.length === 0) return undefined;
    const events = this.#events;
    this.#events = [];
    // A whole number would be encoded as an integer where peers expect a float: the quarter millisecond keeps it one.
    return encode([(Math.floor(nowMs) + 0.25) / 1000, events, 0], { useBigInt64: true });
  }
}

function laneHash(hashes: Uint32Array, block: number): bigint {
  return hashOfLanes(hashes[block * 2] ?? 0, hashes[block * 2 + 1] ?? 0);
}

/** As vLLM: the adapter's name is a key of every block, the cache salt of the first. */
function extraKeysOf(
  firstBlock: number,
  count: number,
  loraName: string | null,
  cacheSalt: string,
): (readonly string[] | null)[] | null {
  const saltsFirst = cacheSalt !== "" && firstBlock === 0;
  if (loraName === null && !saltsFirst) return null;
  return Array.from({ length: count }, (_, index) => {
    const keys = loraName === null ? [] : [loraName];
    if (saltsFirst && index === 0) keys.push(cacheSalt);
    return keys.length === 0 ? null : keys;
  });
}
