/** The contract of the exact index of KV blocks: which worker rank holds which blocks on which tier, fed by the engines' own events. */

/** Where a block lies, fastest first. */
export const storageTiers = ["device", "host_pinned", "disk", "external"] as const;
export type StorageTier = 0 | 1 | 2 | 3;

/** Dense small integer for one (worker, data-parallel rank): index into depth columns. Reused only after its blocks are gone. */
export type Holder = number;

export type StoreOutcome = "applied" | "unknown-parent" | "full";

/** Matches of one query: index by holder. Owned by the caller and reused. */
export interface KvMatches {
  /** Longest contiguous match in blocks on the device. */
  readonly device: Int32Array;
  /** Blocks that continue the device match on host memory, and those that continue both on disk. */
  readonly host: Int32Array;
  readonly disk: Int32Array;
}

/**
 * Hashes are u64 as pairs of u32, low word first: 2 × n words for n blocks. `engineHashes` are the engine's own, opaque; `tokensHashes`
 * are XXH3 of the block's tokens (tokens/block-hash.ts). A block is found by its position in the chain of tokensHashes; the engine's hash
 * only names it in later events of the same holder.
 */
export interface KvIndex {
  attach(): Holder;
  /** The holder is gone. Its blocks are removed in slices; it matches nothing from now on. */
  detach(holder: Holder): void;
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
  /** Everything of this holder, all tiers. */
  cleared(holder: Holder): void;
  /** `sequenceHashes` are the rolling hashes of the prompt's complete blocks. Overwrites `matches` for every attached holder. */
  match(sequenceHashes: Uint32Array, matches: KvMatches): void;
  /** A matches object large enough for every holder attached now. */
  createMatches(): KvMatches;
  /** Distinct blocks, and blocks summed over holders. */
  readonly blocks: number;
  readonly heldBlocks: number;
  readonly sizeBytes: number;
}
