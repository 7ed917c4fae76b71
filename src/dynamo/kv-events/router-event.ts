/**
 * One KV event of a worker as the reader hands it on: one object, overwritten by every event, its hashes in arrays that only grow. What a
 * consumer wants to keep it copies.
 */

export const eventKinds = { stored: 0, removed: 1, cleared: 2 } as const;
export type EventKind = (typeof eventKinds)[keyof typeof eventKinds];

/** Who holds the blocks: a worker (what releases up to 1.5 leave out), or a cache owner or something newer that no router of workers may apply. */
export const domains = { unsaid: 0, worker: 1, other: 2 } as const;
export type Domain = (typeof domains)[keyof typeof domains];

/** More blocks in one event than any context has: 4 M tokens at 16 a block. */
export const maxBlocksPerEvent = 1 << 18;

const initialBlocks = 1024;

export class RouterEvent {
  workerLow: number;
  workerHigh: number;
  dpRank: number;
  /** Counts up per worker and rank; at most 2^53. */
  eventId: number;
  kind: EventKind;
  domain: Domain;
  /** Index into storageTiers; -1 for a tier that is not known. */
  tier: number;
  hasParent: boolean;
  parentLow: number;
  parentHigh: number;
  /** Where the first block stands in its sequence, when said; -1 when not. */
  startPosition: number;
  /** Blocks in the arrays below: 2 × count words each, low word first. `tokensHashes` only for stored ones. */
  count: number;
  engineHashes: Uint32Array;
  tokensHashes: Uint32Array;

  constructor() {
    this.workerLow = 0;
    this.workerHigh = 0;
    this.dpRank = 0;
    this.eventId = 0;
    this.kind = eventKinds.cleared;
    this.domain = domains.unsaid;
    this.tier = 0;
    this.hasParent = false;
    this.parentLow = 0;
    this.parentHigh = 0;
    this.startPosition = -1;
    this.count = 0;
    this.engineHashes = new Uint32Array(2 * initialBlocks);
    this.tokensHashes = new Uint32Array(2 * initialBlocks);
  }

  /** Makes room for `count` blocks; what the arrays hold is kept. */
  reserve(count: number): void {
    if (2 * count <= this.engineHashes.length) return;
    const words = 2 * Math.min(maxBlocksPerEvent, Math.max(count, this.engineHashes.length));
    const engineHashes = new Uint32Array(words);
    const tokensHashes = new Uint32Array(words);
    engineHashes.set(this.engineHashes);
    tokensHashes.set(this.tokensHashes);
    this.engineHashes = engineHashes;
    this.tokensHashes = tokensHashes;
  }
}
