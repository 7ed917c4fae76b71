/**
 * One stage of routing: its workers, what runs on them and the choice among them. Selecting changes nothing; booking what was selected in the
 * same turn is the atomic step. All state that a selection needs is in columns by rank slot, and its scratch is reused.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { createAddressSecrets } from "../../data/prefix-index/block-address.ts";
import type { RouterWorker, Stage, WorkerRank } from "../contracts.ts";
import type {
  RankExplanation,
  RankLoad,
  Selected,
  Selection,
  StageBooking,
  StageObserver,
  StageRequest,
  WorkerStage,
} from "../stage.ts";
import { ActiveSequences, type BookedLoad, type BookingEvents, RankBooking } from "./active-sequences.ts";
import { chooseCost } from "./choice.ts";
import { CostFunction, cachedTokensOf } from "./cost.ts";
import { Eligibility, verdictText } from "./eligibility.ts";
import { assumedMaxBatchedTokens, type BusyThresholds, OverloadWatch, type ReportedLoad } from "./overload.ts";
import { noHolder, RankColumns } from "./rank-columns.ts";
import { type StageWorker, slotOf } from "./stage-worker.ts";
import { effectiveTaints, taintMultiplier } from "./taints.ts";

export interface WorkerStageOptions {
  readonly stage: Stage;
  /** Tokens of one KV block. */
  readonly blockSize: number;
  readonly busyThresholds?: BusyThresholds | undefined;
  /** A queue is in use: workers that do not tell maxNumBatchedTokens are out of the choice, as in Dynamo's selection service. */
  readonly needsBatchedTokens?: boolean;
  /** For the block table's secrets; uniform in [0, 1). */
  readonly random?: () => number;
}

/** Bookings of replicas for workers that nobody has announced yet; beyond it they are not counted. */
const maxUnplaced = 16_384;

const noThresholds: BusyThresholds = {
  activeDecodeBlocks: undefined,
  activePrefillTokens: undefined,
  activePrefillTokensFraction: undefined,
};

const noHashes = new Uint32Array(0);

export function createWorkerStage(options: WorkerStageOptions): WorkerStage {
  return new RankedStage(options);
}

class RankedStage implements WorkerStage {
  readonly stage: Stage;
  readonly workers = new Map<bigint, RouterWorker>();
  readonly #blockSize: number;
  readonly #byId = new Map<bigint, StageWorker>();
  readonly #list: StageWorker[] = [];
  readonly #columns = new RankColumns();
  readonly #overload: OverloadWatch;
  readonly #sequences: ActiveSequences;
  readonly #eligibility: Eligibility;
  readonly #function = new CostFunction();
  readonly #observers = new Set<StageObserver>();
  readonly #events: BookingEvents;
  /** Holders and bookings of workers that are not here yet. */
  readonly #holdersToCome = new Map<bigint, Map<number, number>>();
  readonly #unplaced = new Map<bigint, Set<RankBooking>>();
  #unplacedCount = 0;
  #depths = new Int32Array(0);
  #costs = new Float64Array(0);
  #weights = new Float64Array(0);

  constructor(options: WorkerStageOptions) {
    this.stage = options.stage;
    this.#blockSize = options.blockSize;
    this.#overload = new OverloadWatch(options.busyThresholds ?? noThresholds);
    this.#sequences = new ActiveSequences(
      this.#columns,
      this.#overload,
      createAddressSecrets(options.random ?? Math.random),
    );
    const needsBatchedTokens = options.needsBatchedTokens ?? false;
    this.#eligibility = new Eligibility({ stage: options.stage, needsBatchedTokens }, this.#overload);
    this.#events = {
      prefillCompleted: (booking) => {
        for (const observer of this.#observers) observer.prefillCompleted?.(booking.id, booking);
      },
      freed: (booking) => {
        for (const observer of this.#observers) observer.freed?.(booking.id, booking);
      },
    };
  }

  get activeBookings(): number {
    return this.#sequences.size;
  }

  get sizeBytes(): number {
    return this.#sequences.blocks.sizeBytes;
  }

  get busyThresholds(): BusyThresholds {
    return this.#overload.thresholds;
  }

  setBusyThresholds(thresholds: BusyThresholds): void {
    this.#overload.setThresholds(thresholds);
  }

  select(request: StageRequest, _nowMs: number, random: () => number): Selection {
    const eligible = this.#eligibility;
    const refusal = eligible.gather(this.#list, this.#byId, request, false);
    if (refusal !== undefined) return refusal;
    this.#prepare(request);
    const count = eligible.count;
    for (let index = 0; index < count; index++) this.#costs[index] = this.#costOf(index, request);
    const chosen =
      count === 1 ? 0 : chooseCost(this.#costs, count, request.settings.temperature, random, this.#weights);
    return this.#selected(chosen, request);
  }

  explain(request: StageRequest, _nowMs: number): readonly RankExplanation[] {
    const explanations: RankExplanation[] = [];
    const eligible = this.#eligibility;
    const refusal = eligible.gather(this.#list, this.#byId, request, false);
    const candidates = new Map<number, number>();
    if (refusal === undefined) {
      this.#prepare(request);
      for (let index = 0; index < eligible.count; index++) candidates.set(eligible.slots[index]!, index);
    }
    const needsAdapter = eligible.adapterNarrows(this.#list, request);
    for (const worker of this.#list) {
      for (const slot of worker.slots) {
        const rank = { workerId: worker.worker.id, dpRank: this.#columns.dpRank[slot]! };
        const index = candidates.get(slot);
        if (index === undefined) {
          const verdict = eligible.verdict(worker, request, needsAdapter);
          const excluded = verdict === "eligible" ? "another worker is pinned or preferred" : verdictText[verdict];
          explanations.push({ ...rank, excluded, cost: undefined, terms: {} });
          continue;
        }
        const cost = this.#costOf(index, request);
        explanations.push({ ...rank, excluded: undefined, cost, terms: this.#function.terms() });
      }
    }
    return explanations;
  }

  book(id: string, selected: Selected, request: StageRequest, nowMs: number): StageBooking {
    const { isl, sequenceHashes, settings } = request;
    const isShared = settings.trackActiveBlocks && settings.assumeKvReuse;
    const prefillTokens = settings.trackPrefillTokens ? isl - Math.min(selected.cachedTokens, isl) : 0;
    const load: BookedLoad = {
      sequenceHashes: isShared ? sequenceHashes : noHashes,
      privateBlocks: settings.trackActiveBlocks && !isShared ? sequenceHashes.length >>> 1 : 0,
      prefillTokens,
    };
    const booking = this.#newBooking(
      id,
      { workerId: selected.worker.id, dpRank: selected.dpRank },
      load,
      nowMs,
      this.#events,
    );
    if (booking.slot < 0) booking.free();
    else for (const observer of this.#observers) observer.booked?.(booking, booking, request, prefillTokens);
    return booking;
  }

  bookRemote(
    id: string,
    rank: WorkerRank,
    sequenceHashes: Uint32Array,
    prefillTokens: number,
    _expectedOutputTokens: number | undefined,
    nowMs: number,
  ): StageBooking {
    const known = this.#sequences.get(id);
    if (known !== undefined) return known;
    const load: BookedLoad = { sequenceHashes, privateBlocks: 0, prefillTokens };
    const booking = this.#newBooking(id, rank, load, nowMs, undefined);
    if (booking.slot < 0) this.#keepUnplaced(booking);
    return booking;
  }

  isSaturated(request: StageRequest, threshold: number, thresholdTokens: number = Number.POSITIVE_INFINITY): boolean {
    const eligible = this.#eligibility;
    if (eligible.gather(this.#list, this.#byId, request, true) !== undefined) return false;
    for (let index = 0; index < eligible.count; index++) {
      const active = this.#columns.prefillTokens[eligible.slots[index]!]!;
      const capacity = eligible.workers[index]!.worker.maxNumBatchedTokens ?? assumedMaxBatchedTokens;
      // An infinite share of no tokens is not a number, and compares false as infinity does.
      if (!(active > thresholdTokens || active > threshold * capacity)) return false;
    }
    return true;
  }

  bestCachedTokens(request: StageRequest): number {
    const eligible = this.#eligibility;
    if (request.matches === undefined) return 0;
    if (eligible.gather(this.#list, this.#byId, request, true) !== undefined) return 0;
    let best = 0;
    for (let index = 0; index < eligible.count; index++) {
      best = Math.max(best, this.#cachedTokens(eligible.slots[index]!, request));
    }
    return best;
  }

  upsertWorker(worker: RouterWorker): void {
    const known = this.#byId.get(worker.id);
    if (known === undefined) {
      const added: StageWorker = {
        worker,
        taints: effectiveTaints(worker),
        slots: this.#takeSlots(worker),
        isSuspect: false,
      };
      this.#byId.set(worker.id, added);
      this.#list.push(added);
    } else {
      const before = known.worker;
      known.isSuspect = false;
      known.taints = effectiveTaints(worker);
      known.worker = worker;
      const isSame =
        before.dataParallelStartRank === worker.dataParallelStartRank &&
        before.dataParallelSize === worker.dataParallelSize;
      if (!isSame) known.slots = this.#retakeSlots(known.slots, before, worker);
    }
    this.workers.set(worker.id, worker);
    for (const slot of this.#byId.get(worker.id)?.slots ?? []) {
      this.#overload.setCapacity(slot, worker.totalKvBlocks, worker.maxNumBatchedTokens);
    }
    this.#placeWaiting(worker.id);
  }

  removeWorker(workerId: bigint): void {
    this.#holdersToCome.delete(workerId);
    const waiting = this.#unplaced.get(workerId);
    for (const booking of waiting ?? []) booking.free();
    this.#unplacedCount -= waiting?.size ?? 0;
    this.#unplaced.delete(workerId);
    const known = this.#byId.get(workerId);
    if (known === undefined) return;
    this.#byId.delete(workerId);
    this.workers.delete(workerId);
    this.#list.splice(this.#list.indexOf(known), 1);
    // What a selection left behind must not keep the worker alive.
    this.#eligibility.workers.length = 0;
    for (const slot of known.slots) this.#giveSlot(slot);
  }

  setSuspect(workerId: bigint, isSuspect: boolean): void {
    const known = this.#byId.get(workerId);
    if (known !== undefined) known.isSuspect = isSuspect;
  }

  setHolder(rank: WorkerRank, holder: number | undefined): void {
    const known = this.#byId.get(rank.workerId);
    const slot = known === undefined ? -1 : slotOf(known, rank.dpRank);
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

  setReportedLoad(rank: WorkerRank, load: ReportedLoad): void {
    const known = this.#byId.get(rank.workerId);
    const slot = known === undefined ? -1 : slotOf(known, rank.dpRank);
    if (slot >= 0) this.#overload.reported(slot, load);
  }

  reap(nowMs: number, maxAgeMs: number): number {
    const reaped = this.#sequences.endOlder(nowMs - maxAgeMs);
    if (reaped > 0) this.#forgetEndedUnplaced();
    return reaped;
  }

  loads(): readonly RankLoad[] {
    const loads: RankLoad[] = [];
    for (const worker of this.#list) {
      for (const slot of worker.slots) {
        loads.push({
          workerId: worker.worker.id,
          dpRank: this.#columns.dpRank[slot]!,
          activePrefillTokens: this.#columns.prefillTokens[slot]!,
          activeDecodeBlocks: this.#columns.activeBlocks(slot),
          activeRequests: this.#columns.requests[slot]!,
        });
      }
    }
    return loads;
  }

  potentialLoads(request: StageRequest): readonly RankLoad[] {
    this.#prepareDepths(request);
    const { isl, settings } = request;
    return this.loads().map((load) => {
      const slot = slotOf(this.#byId.get(load.workerId)!, load.dpRank);
      const added = settings.trackPrefillTokens ? isl - Math.min(isl, this.#cachedTokens(slot, request)) : 0;
      return {
        ...load,
        activePrefillTokens: load.activePrefillTokens + added,
        activeDecodeBlocks: this.#potentialBlocks(slot, request),
      };
    });
  }

  observe(observer: StageObserver): () => void {
    this.#observers.add(observer);
    return () => {
      this.#observers.delete(observer);
    };
  }

  #prepare(request: StageRequest): void {
    const { settings, isl, sharedHits } = request;
    this.#function.prepare(settings, this.stage === "decode", this.#blockSize, isl, sharedHits);
    this.#prepareDepths(request);
    if (!this.#function.decays) return;
    const { slots, count } = this.#eligibility;
    let least = Number.POSITIVE_INFINITY;
    for (let index = 0; index < count; index++) {
      least = Math.min(least, this.#columns.prefillTokens[slots[index]!]!);
    }
    this.#function.leastActiveTokens = least;
  }

  #prepareDepths(request: StageRequest): void {
    const { settings, sequenceHashes } = request;
    if (!settings.trackActiveBlocks) return;
    const blocks = settings.assumeKvReuse ? sequenceHashes.length >>> 1 : 0;
    this.#sequences.blocks.match(sequenceHashes, blocks, this.#depths);
  }

  #potentialBlocks(slot: number, request: StageRequest): number {
    const active = this.#columns.activeBlocks(slot);
    if (!request.settings.trackActiveBlocks) return active;
    return active + (request.sequenceHashes.length >>> 1) - this.#depths[slot]!;
  }

  #cachedTokens(slot: number, request: StageRequest): number {
    const matches = request.matches;
    const holder = this.#columns.holder[slot]!;
    if (matches === undefined || holder < 0) return 0;
    return cachedTokensOf(
      request.settings,
      this.#blockSize,
      matches.device[holder] ?? 0,
      matches.host[holder] ?? 0,
      matches.disk[holder] ?? 0,
    );
  }

  #costOf(index: number, request: StageRequest): number {
    const { settings, matches, constraints } = request;
    const slot = this.#eligibility.slots[index]!;
    const holder = this.#columns.holder[slot]!;
    let device = 0;
    let host = 0;
    let disk = 0;
    let cached = 0;
    if (matches !== undefined && holder >= 0) {
      device = matches.device[holder] ?? 0;
      host = matches.host[holder] ?? 0;
      disk = matches.disk[holder] ?? 0;
      cached = cachedTokensOf(settings, this.#blockSize, device, host, disk);
    }
    const multiplier =
      constraints === undefined || this.#eligibility.isPinned
        ? 1
        : taintMultiplier(constraints, this.#eligibility.workers[index]!.taints);
    return this.#function.cost(
      this.#columns.prefillTokens[slot]!,
      this.#potentialBlocks(slot, request),
      this.#columns.requests[slot]!,
      device,
      host,
      disk,
      cached,
      multiplier,
    );
  }

  #selected(index: number, request: StageRequest): Selected {
    const { isl, matches, sequenceHashes, settings } = request;
    const slot = this.#eligibility.slots[index]!;
    const holder = this.#columns.holder[slot]!;
    const tracked = settings.trackActiveBlocks ? sequenceHashes.length >>> 1 : 0;
    const untracked = Math.max(0, Math.ceil(isl / this.#blockSize) - tracked);
    return {
      kind: "selected",
      worker: this.#eligibility.workers[index]!.worker,
      dpRank: this.#columns.dpRank[slot]!,
      slot,
      cost: this.#costs[index]!,
      deviceBlocks: matches?.device[holder] ?? 0,
      hostBlocks: matches?.host[holder] ?? 0,
      diskBlocks: matches?.disk[holder] ?? 0,
      cachedTokens: this.#cachedTokens(slot, request),
      potentialDecodeBlocks: this.#potentialBlocks(slot, request) + untracked,
      activePrefillTokens: this.#columns.prefillTokens[slot]!,
    };
  }

  #newBooking(
    id: string,
    rank: WorkerRank,
    load: BookedLoad,
    nowMs: number,
    events: BookingEvents | undefined,
  ): RankBooking {
    if (this.#sequences.get(id) !== undefined) throw new RangeError(`a booking with the id ${id} is active`);
    const known = this.#byId.get(rank.workerId);
    const slot = known === undefined ? -1 : slotOf(known, rank.dpRank);
    const booking = new RankBooking(this.#sequences, id, rank.workerId, rank.dpRank, load, nowMs, events);
    this.#sequences.add(booking);
    if (slot >= 0) this.#sequences.place(booking, slot);
    return booking;
  }

  #keepUnplaced(booking: RankBooking): void {
    if (this.#unplacedCount >= maxUnplaced) this.#forgetEndedUnplaced();
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

  #forgetEndedUnplaced(): void {
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
    const known = this.#byId.get(workerId);
    const waiting = this.#unplaced.get(workerId);
    if (known === undefined) return;
    for (const booking of waiting ?? []) {
      const slot = slotOf(known, booking.dpRank);
      if (!booking.isOver && slot < 0) continue;
      if (!booking.isOver) this.#sequences.place(booking, slot);
      waiting?.delete(booking);
      this.#unplacedCount--;
    }
    if (waiting?.size === 0) this.#unplaced.delete(workerId);
    const toCome = this.#holdersToCome.get(workerId);
    for (const [dpRank, holder] of toCome ?? []) {
      const slot = slotOf(known, dpRank);
      if (slot < 0) continue;
      this.#columns.holder[slot] = holder;
      toCome?.delete(dpRank);
    }
    if (toCome?.size === 0) this.#holdersToCome.delete(workerId);
  }

  #takeSlots(worker: RouterWorker): Int32Array {
    return Int32Array.from({ length: worker.dataParallelSize }, (_, rank) =>
      this.#takeSlot(worker.dataParallelStartRank + rank),
    );
  }

  /** Ranks that stay keep their slots and what they run. */
  #retakeSlots(slots: Int32Array, before: RouterWorker, worker: RouterWorker): Int32Array {
    const kept = new Map<number, number>();
    for (const [index, slot] of slots.entries()) {
      const dpRank = before.dataParallelStartRank + index;
      const place = dpRank - worker.dataParallelStartRank;
      if (place >= 0 && place < worker.dataParallelSize) kept.set(place, slot);
      else this.#giveSlot(slot);
    }
    return Int32Array.from(
      { length: worker.dataParallelSize },
      (_, place) => kept.get(place) ?? this.#takeSlot(worker.dataParallelStartRank + place),
    );
  }

  #takeSlot(dpRank: number): number {
    const slot = this.#columns.take(dpRank);
    const count = this.#columns.count;
    this.#sequences.blocks.reserveSlots(count);
    if (count > this.#depths.length) {
      // Whole words of a mask: a depth may be written for each of its bits.
      const size = Math.max(32, 2 ** Math.ceil(Math.log2(count)));
      this.#depths = new Int32Array(size);
      this.#costs = new Float64Array(size);
      this.#weights = new Float64Array(size);
      this.#overload.reserveSlots(size);
    }
    this.#overload.clear(slot);
    return slot;
  }

  #giveSlot(slot: number): void {
    this.#sequences.endAll(slot);
    this.#columns.give(slot);
  }
}
