/** The contract of the exact index of KV blocks: which worker rank holds which blocks on which tier, fed by the engines' own events. */

/** Where a block lies, fastest first. */
export const storageTiers = ["device", "host_pinned", "disk", "external"] as const;
export type StorageTier = 0 | 1 | 2 | 3;

/**
 * Dense small integer for one (worker, data-parallel rank): index into depth columns. The number of a detached holder may be given to the next
 * that attaches, which inherits nothing of it.
 */
export type Holder = number;

/**
 * "unknown-parent": a device block must continue a block that the holder has on its device (other tiers may be told child first). "invalid": a block
 * that is its own parent. "full": the index is at its bound. Nothing of such an event is applied.
 */
export type StoreOutcome = "applied" | "unknown-parent" | "invalid" | "full";

/** Matches of one query: index by holder. Owned by the caller and reused. */
export interface KvMatches {
  /** Longest contiguous match in blocks on the device. */
  readonly device: Int32Array;
  /** Blocks that continue the device match on host memory; where the device has none, they begin at the root. */
  readonly host: Int32Array;
  /** Blocks that continue both on disk, and those that continue all three on external memory: Dynamo's scheduler counts these as one. */
  readonly disk: Int32Array;
}

/** Events that were not applied, since the index was made. */
export interface KvIndexRefusals {
  readonly unknownParent: number;
  readonly invalid: number;
  readonly full: number;
}

/** What every index of KV blocks answers, whether events or routing decisions feed it. */
export interface KvMatcher {
  attach(): Holder;
  /** The holder is gone. Its blocks are removed in slices; it matches nothing from now on. */
  detach(holder: Holder): void;
  /** Everything of this holder, all tiers; removed in slices, and it matches none of it from now on. */
  cleared(holder: Holder): void;
  /**
   * `sequenceHashes` are the rolling hashes of the prompt's complete blocks, u64 as pairs of u32, low word first. Overwrites `matches` for every
   * attached holder it has room for; numbers that are not attached get 0. `nowMs` matters where entries expire.
   */
  match(sequenceHashes: Uint32Array, matches: KvMatches, nowMs: number): void;
  /** A matches object large enough for every holder attached now. */
  createMatches(): KvMatches;
  /** The length that the columns of a matches object need: one more than the highest holder. */
  readonly holderCount: number;
  /** Blocks of one holder, a block on two tiers counted twice. */
  blocksOf(holder: Holder): number;
  /** A bounded slice of the work put off by detach, cleared and expiry (events and decisions do some, too); true while more is left. */
  upkeep(nowMs: number): boolean;
  /** Distinct blocks of each tier, and blocks summed over holders and tiers. */
  readonly blocks: number;
  readonly heldBlocks: number;
  readonly sizeBytes: number;
}

/**
 * Hashes are u64 as pairs of u32, low word first: 2 × n words for n blocks. `engineHashes` are the engine's own, opaque; `tokensHashes`
 * are XXH3 of the block's tokens (tokens/block-hash.ts). A block is found by its position in the chain of tokensHashes; the engine's hash
 * only names it in later events of the same holder.
 *
 * Holding is a set: a block stored twice and removed once is gone. Dynamo's workers count references before they publish; events taken raw
 * from an engine are counted in data/kv-events/.
 */
export interface KvIndex extends KvMatcher {
  /** Appends blocks after the one the engine calls parent (both words), or at the root when there is none. */
  stored(
    holder: Holder,
    tier: StorageTier,
    parentLow: number,
    parentHigh: number,
    hasParent: boolean,
    engineHashes: Uint32Array,
    tokensHashes: Uint32Array,
    first: number,
    count: number,
  ): StoreOutcome;
  /** Unknown hashes are ignored. */
  removed(holder: Holder, tier: StorageTier, engineHashes: Uint32Array, first: number, count: number): void;
  /** Nothing expires by itself, so the time may be left out. */
  match(sequenceHashes: Uint32Array, matches: KvMatches, nowMs?: number): void;
  upkeep(nowMs?: number): boolean;
  readonly refusals: KvIndexRefusals;
}

/** An index that learns from routing decisions: the rank that gets a request will hold the blocks of its prompt. */
export interface RoutedKvMatcher extends KvMatcher {
  /** The holder was given a prompt with these rolling hashes at this time; what it is already believed to hold is refreshed. */
  routed(holder: Holder, sequenceHashes: Uint32Array, nowMs: number): void;
}

export function createKvMatches(holders: number): KvMatches {
  const length = Math.max(16, holders);
  return { device: new Int32Array(length), host: new Int32Array(length), disk: new Int32Array(length) };
}
