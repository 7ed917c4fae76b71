/**
 * The index of a router that keeps none: reads what another process said of the prompt, laid over by what was routed here a moment ago where the
 * settings predict. The ranks' numbers are its own, since no events name them.
 */
import { type ApproximateKvIndex, createApproximateKvIndex } from "../../data/prefix-index/approximate-kv-index.ts";
import { createKvMatches, type Holder, type KvMatches } from "../../data/prefix-index/kv-index.ts";
import type { RankOverlap } from "../../dynamo/kv-index/index-answer.ts";
import type { WorkerRank } from "../contracts.ts";
import type { RouterIndex } from "../plan/contracts.ts";

export interface RemoteIndexOptions {
  /** Undefined: nothing is predicted. */
  readonly predictedTtlMs: number | undefined;
  readonly random: () => number;
  /** A request was sent to this rank; undefined where events feed the other's index. */
  readonly record: ((rank: WorkerRank, blockHashes: Uint32Array, sequenceHashes: Uint32Array) => void) | undefined;
}

export interface RemoteIndex extends RouterIndex {
  readonly ownHolders: NonNullable<RouterIndex["ownHolders"]>;
  /** Predictions; undefined where there are none. */
  readonly predicted: ApproximateKvIndex | undefined;
}

export function createRemoteIndex(options: RemoteIndexOptions): RemoteIndex {
  return new AnsweredIndex(options);
}

interface Seat {
  readonly rank: WorkerRank;
  /** Its number among the predictions. */
  readonly side: Holder | undefined;
}

class AnsweredIndex implements RemoteIndex {
  readonly predicted: ApproximateKvIndex | undefined;
  readonly #record: RemoteIndexOptions["record"];
  /** By holder; undefined where the number is free. */
  readonly #seats: (Seat | undefined)[] = [];
  readonly #holders = new Map<bigint, Map<number, Holder>>();
  #sideMatches: KvMatches | undefined;

  constructor({ predictedTtlMs, random, record }: RemoteIndexOptions) {
    this.#record = record;
    this.predicted =
      predictedTtlMs === undefined ? undefined : createApproximateKvIndex({ random, ttlMs: predictedTtlMs });
  }

  get ownHolders(): this {
    return this;
  }

  attach(_capacityBlocks: number | undefined, rank: WorkerRank): Holder {
    let holder = this.#seats.indexOf(undefined);
    if (holder < 0) holder = this.#seats.length;
    this.#seats[holder] = { rank, side: this.predicted?.attach() };
    const ranks = this.#holders.get(rank.workerId) ?? new Map<number, Holder>();
    this.#holders.set(rank.workerId, ranks.set(rank.dpRank, holder));
    return holder;
  }

  detach(holder: Holder): void {
    const seat = this.#seats[holder];
    if (seat === undefined) return;
    this.#seats[holder] = undefined;
    if (seat.side !== undefined) this.predicted?.detach(seat.side);
    const { workerId, dpRank } = seat.rank;
    const ranks = this.#holders.get(workerId);
    if (ranks?.get(dpRank) === holder) ranks.delete(dpRank);
    if (ranks?.size === 0) this.#holders.delete(workerId);
  }

  createMatches(): KvMatches {
    return createKvMatches(this.#seats.length);
  }

  match(
    sequenceHashes: Uint32Array,
    matches: KvMatches,
    nowMs: number,
    overlaps: readonly RankOverlap[] = noOverlaps,
  ): void {
    const { device, host, disk } = matches;
    device.fill(0);
    host.fill(0);
    disk.fill(0);
    const blocks = sequenceHashes.length >> 1;
    for (const overlap of overlaps) {
      // The other may know workers that are not of this set, or not any more.
      const holder = this.#holders.get(overlap.workerId)?.get(overlap.dpRank);
      if (holder === undefined || holder >= device.length) continue;
      // No rank holds more of a prompt than there is.
      const onDevice = Math.min(overlap.device, blocks);
      const onHost = Math.min(overlap.host, blocks - onDevice);
      device[holder] = onDevice;
      host[holder] = onHost;
      disk[holder] = Math.min(overlap.disk, blocks - onDevice - onHost);
    }
    this.#addPredictions(sequenceHashes, device, nowMs);
  }

  routed(holder: Holder, sequenceHashes: Uint32Array, nowMs: number, blockHashes: Uint32Array): void {
    const seat = this.#seats[holder];
    if (seat === undefined) return;
    if (seat.side !== undefined) this.predicted?.routed(seat.side, sequenceHashes, nowMs);
    this.#record?.(seat.rank, blockHashes, sequenceHashes);
  }

  upkeep(nowMs: number): boolean {
    return this.predicted?.upkeep(nowMs) ?? false;
  }

  /** The larger of both counts; lower tiers go on from what the other said alone, as Dynamo's do. */
  #addPredictions(sequenceHashes: Uint32Array, device: Int32Array, nowMs: number): void {
    const { predicted } = this;
    if (predicted === undefined || predicted.blocks === 0) return;
    let side = this.#sideMatches;
    if (side === undefined || side.device.length < predicted.holderCount) {
      side = predicted.createMatches();
      this.#sideMatches = side;
    }
    predicted.match(sequenceHashes, side, nowMs);
    const count = Math.min(device.length, this.#seats.length);
    for (let holder = 0; holder < count; holder++) {
      const seat = this.#seats[holder];
      if (seat?.side === undefined) continue;
      device[holder] = Math.max(device[holder] as number, side.device[seat.side] as number);
    }
  }
}

const noOverlaps: readonly RankOverlap[] = [];
