/**
 * The workers of a stage: each rank has a slot from when its worker comes until it goes, and with the slot goes what ran there. What is said of a
 * rank before its worker is known (its index holder, a replica's booking) waits for it.
 */
import type { RouterWorker, WorkerRank } from "../contracts.ts";
import { maxSlots } from "./active-blocks.ts";
import type { ActiveSequences, RankBooking } from "./active-sequences.ts";
import type { OverloadWatch } from "./overload.ts";
import { noHolder, type RankColumns } from "./rank-columns.ts";
import { type StageWorker, slotOf } from "./stage-worker.ts";
import { effectiveTaints } from "./taints.ts";

/** Dynamo's bound of one worker's ranks; a card that claims more is not believed beyond it. */
const maxRanksPerWorker = 4096;

/** Bookings of replicas for workers that nobody has announced yet; beyond it they are not counted. */
const maxUnplaced = 16_384;

export class StageWorkers {
  readonly byId = new Map<bigint, StageWorker>();
  /** The same workers, for loops. */
  readonly list: StageWorker[] = [];
  /** As they announced themselves. */
  readonly announced = new Map<bigint, RouterWorker>();
  readonly #columns: RankColumns;
  readonly #overload: OverloadWatch;
  readonly #sequences: ActiveSequences;
  readonly #holdersToCome = new Map<bigint, Map<number, number>>();
  readonly #unplaced = new Map<bigint, Set<RankBooking>>();
  #unplacedCount = 0;

  constructor(columns: RankColumns, overload: OverloadWatch, sequences: ActiveSequences) {
    this.#columns = columns;
    this.#overload = overload;
    this.#sequences = sequences;
  }

  /** −1 for a rank that is not here. */
  slotOf(rank: WorkerRank): number {
    const worker = this.byId.get(rank.workerId);
    return worker === undefined ? -1 : slotOf(worker, rank.dpRank);
  }

  upsert(worker: RouterWorker): void {
    const known = this.byId.get(worker.id);
    const kept = this.#rekeep(known, worker);
    if (known === undefined) {
      const added: StageWorker = { worker, taints: effectiveTaints(worker), slots: kept, isSuspect: false };
      this.byId.set(worker.id, added);
      this.list.push(added);
    } else {
      known.worker = worker;
      known.taints = effectiveTaints(worker);
      known.slots = kept;
      known.isSuspect = false;
    }
    this.announced.set(worker.id, worker);
    for (const slot of kept) this.#overload.setCapacity(slot, worker.totalKvBlocks, worker.maxNumBatchedTokens);
    this.#placeWaiting(worker.id);
  }

  remove(workerId: bigint): void {
    this.#holdersToCome.delete(workerId);
    const waiting = this.#unplaced.get(workerId);
    for (const booking of waiting ?? []) booking.free();
    this.#unplacedCount -= waiting?.size ?? 0;
    this.#unplaced.delete(workerId);
    const known = this.byId.get(workerId);
    if (known === undefined) return;
    this.byId.delete(workerId);
    this.announced.delete(workerId);
    this.list.splice(this.list.indexOf(known), 1);
    for (const slot of known.slots) this.#giveSlot(slot);
  }

  setHolder(rank: WorkerRank, holder: number | undefined): void {
    const slot = this.slotOf(rank);
    if (slot >= 0) {
      this.#columns.holder[slot] = holder ?? noHolder;
      return;
    }
    const toCome = this.#holdersToCome.get(rank.workerId) ?? new Map<number, number>();
    if (holder === undefined) toCome.delete(rank.dpRank);
    else toCome.set(rank.dpRank, holder);
    if (toCome.size === 0) this.#holdersToCome.delete(rank.workerId);
    else this.#holdersToCome.set(rank.workerId, toCome);
  }

  /** Keeps a booking until its rank is here; ends it at once where too many wait. */
  keepUnplaced(booking: RankBooking): void {
    if (this.#unplacedCount >= maxUnplaced) this.forgetEnded();
    if (this.#unplacedCount >= maxUnplaced) {
      booking.free();
      return;
    }
    // The caller's hashes are its own after the call.
    booking.load = { ...booking.load, sequenceHashes: booking.load.sequenceHashes.slice() };
    const waiting = this.#unplaced.get(booking.workerId) ?? new Set<RankBooking>();
    waiting.add(booking);
    this.#unplaced.set(booking.workerId, waiting);
    this.#unplacedCount++;
  }

  /** Drops bookings that ended while they waited. */
  forgetEnded(): void {
    for (const [workerId, waiting] of this.#unplaced) {
      for (const booking of waiting) {
        if (!booking.isOver) continue;
        waiting.delete(booking);
        this.#unplacedCount--;
      }
      if (waiting.size === 0) this.#unplaced.delete(workerId);
    }
  }

  #placeWaiting(workerId: bigint): void {
    const waiting = this.#unplaced.get(workerId);
    for (const booking of waiting ?? []) {
      const slot = this.slotOf(booking);
      if (!booking.isOver && slot < 0) continue;
      if (!booking.isOver) this.#sequences.place(booking, slot);
      waiting?.delete(booking);
      this.#unplacedCount--;
    }
    if (waiting?.size === 0) this.#unplaced.delete(workerId);
    const toCome = this.#holdersToCome.get(workerId);
    for (const [dpRank, holder] of toCome ?? []) {
      const slot = this.slotOf({ workerId, dpRank });
      if (slot < 0) continue;
      this.#columns.holder[slot] = holder;
      toCome?.delete(dpRank);
    }
    if (toCome?.size === 0) this.#holdersToCome.delete(workerId);
  }

  /** The worker's slots: ranks that stay keep theirs and what they run, those that go give theirs back. */
  #rekeep(known: StageWorker | undefined, worker: RouterWorker): Int32Array {
    const places = new Map<number, number>();
    const first = worker.dataParallelStartRank;
    const room = maxSlots - this.#columns.inUse + (known?.slots.length ?? 0);
    const size = Math.min(worker.dataParallelSize, maxRanksPerWorker, room);
    for (const [index, slot] of known?.slots.entries() ?? []) {
      const place = (known?.worker.dataParallelStartRank ?? 0) + index - first;
      if (place >= 0 && place < size) places.set(place, slot);
      else this.#giveSlot(slot);
    }
    return Int32Array.from({ length: size }, (_, place) => places.get(place) ?? this.#takeSlot(first + place));
  }

  #takeSlot(dpRank: number): number {
    const slot = this.#columns.take(dpRank);
    this.#sequences.blocks.reserveSlots(this.#columns.count);
    this.#overload.reserveSlots(this.#columns.size);
    this.#overload.clear(slot);
    return slot;
  }

  #giveSlot(slot: number): void {
    this.#sequences.endAll(slot);
    this.#columns.give(slot);
  }
}
