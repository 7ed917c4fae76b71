/**
 * An exact index with predictions over it (Dynamo's router_predicted_ttl_secs): what was just routed to a rank counts as held there for a few seconds,
 * until the engine's own events say so. By holder the larger of both matches; lower tiers go on from the events' match alone, as Dynamo's do.
 */
import { type ApproximateKvIndex, createApproximateKvIndex } from "./approximate-kv-index.ts";
import type {
  Holder,
  KvIndex,
  KvIndexRefusals,
  KvMatches,
  RoutedKvMatcher,
  StorageTier,
  StoreOutcome,
} from "./kv-index.ts";

export type PredictedKvIndex = KvIndex & RoutedKvMatcher;

export interface PredictedKvIndexOptions {
  readonly random: () => number;
  readonly ttlMs: number;
}

/** `primary` belongs to the new index from now on: events and holders go through it. */
export function createPredictedKvIndex(primary: KvIndex, options: PredictedKvIndexOptions): PredictedKvIndex {
  return new EventsAndPredictions(primary, createApproximateKvIndex(options));
}

class EventsAndPredictions implements PredictedKvIndex {
  readonly #primary: KvIndex;
  readonly #side: ApproximateKvIndex;
  /** By holder of the primary, the side's. */
  readonly #sideOf: (Holder | undefined)[] = [];
  #matches: KvMatches;
  /** The latest time told: where one is left out, it is this. */
  #nowMs = 0;

  constructor(primary: KvIndex, side: ApproximateKvIndex) {
    this.#primary = primary;
    this.#side = side;
    this.#matches = side.createMatches();
  }

  get holderCount(): number {
    return this.#primary.holderCount;
  }

  get blocks(): number {
    return this.#primary.blocks;
  }

  get heldBlocks(): number {
    return this.#primary.heldBlocks;
  }

  get sizeBytes(): number {
    return this.#primary.sizeBytes + this.#side.sizeBytes;
  }

  get refusals(): KvIndexRefusals {
    return this.#primary.refusals;
  }

  attach(): Holder {
    const holder = this.#primary.attach();
    this.#sideOf[holder] = this.#side.attach();
    return holder;
  }

  detach(holder: Holder): void {
    const side = this.#sideOf[holder];
    this.#primary.detach(holder);
    if (side === undefined) return;
    this.#side.detach(side);
    this.#sideOf[holder] = undefined;
  }

  cleared(holder: Holder): void {
    this.#primary.cleared(holder);
  }

  blocksOf(holder: Holder): number {
    return this.#primary.blocksOf(holder);
  }

  createMatches(): KvMatches {
    return this.#primary.createMatches();
  }

  upkeep(nowMs = this.#nowMs): boolean {
    const isPrimaryLeft = this.#primary.upkeep(nowMs);
    return (this.#nowMs > 0 && this.#side.upkeep(nowMs)) || isPrimaryLeft;
  }

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
  ): StoreOutcome {
    return this.#primary.stored(
      holder,
      tier,
      parentLow,
      parentHigh,
      hasParent,
      engineHashes,
      tokensHashes,
      first,
      count,
    );
  }

  removed(holder: Holder, tier: StorageTier, engineHashes: Uint32Array, first: number, count: number): void {
    this.#primary.removed(holder, tier, engineHashes, first, count);
  }

  routed(holder: Holder, sequenceHashes: Uint32Array, nowMs: number): void {
    this.#nowMs = nowMs;
    const side = this.#sideOf[holder];
    if (side !== undefined) this.#side.routed(side, sequenceHashes, nowMs);
  }

  match(sequenceHashes: Uint32Array, matches: KvMatches, nowMs = this.#nowMs): void {
    this.#primary.match(sequenceHashes, matches, nowMs);
    if (this.#side.blocks === 0) return;
    if (this.#matches.device.length < this.#side.holderCount) this.#matches = this.#side.createMatches();
    this.#side.match(sequenceHashes, this.#matches, nowMs);
    const { device } = matches;
    const count = Math.min(device.length, this.#sideOf.length);
    for (let holder = 0; holder < count; holder++) {
      const side = this.#sideOf[holder];
      if (side === undefined) continue;
      const predicted = this.#matches.device[side] as number;
      if (predicted > (device[holder] as number)) device[holder] = predicted;
    }
  }
}
