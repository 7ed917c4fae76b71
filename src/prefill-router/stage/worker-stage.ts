/**
 * One stage of routing: its workers, what runs on them and the choice among them. Selecting changes nothing; booking what was selected in the
 * same turn is the atomic step.
 */
import { createAddressSecrets } from "../../data/prefix-index/block-address.ts";
import type { RouterWorker, Stage, WorkerRank } from "../contracts.ts";
import type {
  PrefillLoad,
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
import { Eligibility, verdictText } from "./eligibility.ts";
import { assumedMaxBatchedTokens, type BusyThresholds, OverloadWatch, type ReportedLoad } from "./overload.ts";
import { RankColumns } from "./rank-columns.ts";
import { RankCosts } from "./rank-costs.ts";
import type { StageWorker } from "./stage-worker.ts";
import { StageWorkers } from "./stage-workers.ts";

export interface WorkerStageOptions {
  readonly stage: Stage;
  /** Tokens of one KV block. */
  readonly blockSize: number;
  readonly busyThresholds?: BusyThresholds | undefined;
  /** A queue is in use: workers that do not tell maxNumBatchedTokens are out of the choice, as in Dynamo's selection service. */
  readonly needsBatchedTokens?: boolean;
  /** How long prefills take; undefined: prompt tokens count in full until their prefill is said to be over. */
  readonly prefillLoad?: PrefillLoadEstimator | undefined;
  /** Monotonic milliseconds, as `nowMs` of all that is asked. */
  readonly now?: () => number;
  /** For the block table's secrets; uniform in [0, 1). */
  readonly random?: () => number;
}

export interface PrefillLoadEstimator {
  /** Milliseconds to compute `tokens` (at least 1) after `prefixTokens` that are cached, alone on a rank; undefined where it cannot say. */
  predictMs(tokens: number, prefixTokens: number): number | undefined;
}

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
  readonly #workers: StageWorkers;
  readonly #columns = new RankColumns();
  readonly #overload: OverloadWatch;
  readonly #sequences: ActiveSequences;
  readonly #eligible: Eligibility;
  readonly #costs: RankCosts;
  readonly #observers = new Set<StageObserver>();
  readonly #events: BookingEvents;
  readonly #prefillLoad: PrefillLoadEstimator | undefined;

  constructor(options: WorkerStageOptions) {
    this.stage = options.stage;
    this.#prefillLoad = options.prefillLoad;
    this.#overload = new OverloadWatch(options.busyThresholds ?? noThresholds);
    const secrets = createAddressSecrets(options.random ?? Math.random);
    const now = options.now ?? (() => performance.now());
    this.#sequences = new ActiveSequences(this.#columns, this.#overload, secrets, now);
    this.#workers = new StageWorkers(this.#columns, this.#overload, this.#sequences);
    const needsBatchedTokens = options.needsBatchedTokens ?? false;
    this.#eligible = new Eligibility({ stage: options.stage, needsBatchedTokens }, this.#overload);
    const isDecode = options.stage === "decode";
    this.#costs = new RankCosts(this.#columns, this.#sequences.blocks, this.#eligible, options.blockSize, isDecode);
    this.#events = {
      prefillCompleted: (booking) => {
        for (const observer of this.#observers) observer.prefillCompleted?.(booking.id, booking);
      },
      freed: (booking) => {
        for (const observer of this.#observers) observer.freed?.(booking.id, booking);
      },
    };
  }

  get workers(): ReadonlyMap<bigint, RouterWorker> {
    return this.#workers.announced;
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

  select(request: StageRequest, nowMs: number, random: () => number): Selection {
    const eligible = this.#eligible;
    const costs = this.#costs;
    const refusal = eligible.gather(this.#workers.list, this.#workers.byId, request, false);
    if (refusal !== undefined) return refusal;
    this.#sequences.refreshPrefills(nowMs);
    costs.prepare(request);
    costs.costAll(request);
    const count = eligible.count;
    if (count === 1) return costs.selected(0, request);
    const ties = { values: this.#columns.computed, slots: eligible.slots };
    const { temperature } = request.settings;
    const chosen = chooseCost(costs.costs, count, temperature, ties, random, costs.scratch);
    return costs.selected(chosen, request);
  }

  explain(request: StageRequest, nowMs: number): readonly RankExplanation[] {
    this.#sequences.refreshPrefills(nowMs);
    const { list, byId } = this.#workers;
    const eligible = this.#eligible;
    const candidates = new Map<number, number>();
    if (eligible.gather(list, byId, request, false) === undefined) {
      this.#costs.prepare(request);
      for (const [index, slot] of eligible.slots.subarray(0, eligible.count).entries()) candidates.set(slot, index);
    }
    const needsAdapter = eligible.adapterNarrows(list, request);
    return list.flatMap((worker) =>
      Array.from(worker.slots, (slot) => this.#explainRank(worker, slot, candidates.get(slot), request, needsAdapter)),
    );
  }

  book(id: string, selected: Selected, request: StageRequest, nowMs: number): StageBooking {
    const { isl, sequenceHashes, settings } = request;
    const isShared = settings.trackActiveBlocks && settings.assumeKvReuse;
    const prefillTokens = settings.trackPrefillTokens ? isl - Math.min(selected.cachedTokens, isl) : 0;
    const expectedPrefillMs =
      prefillTokens > 0 ? this.#prefillLoad?.predictMs(prefillTokens, isl - prefillTokens) : undefined;
    const load: BookedLoad = {
      sequenceHashes: isShared ? sequenceHashes : noHashes,
      privateBlocks: settings.trackActiveBlocks && !isShared ? sequenceHashes.length >>> 1 : 0,
      prefillTokens,
      expectedPrefillMs,
    };
    const rank = { workerId: selected.worker.id, dpRank: selected.dpRank };
    const booking = this.#newBooking(id, rank, load, nowMs, this.#events);
    // The worker left between selection and booking.
    if (booking.slot < 0) booking.free();
    else for (const observer of this.#observers) observer.booked?.(booking, booking, request, load);
    return booking;
  }

  bookRemote(
    id: string,
    rank: WorkerRank,
    sequenceHashes: Uint32Array,
    { prefillTokens, expectedPrefillMs }: PrefillLoad,
    _expectedOutputTokens: number | undefined,
    nowMs: number,
  ): StageBooking {
    const known = this.#sequences.get(id);
    if (known !== undefined) return known;
    const load: BookedLoad = { sequenceHashes, privateBlocks: 0, prefillTokens, expectedPrefillMs };
    const booking = this.#newBooking(id, rank, load, nowMs, undefined);
    if (booking.slot < 0) this.#workers.keepUnplaced(booking);
    return booking;
  }

  isSaturated(request: StageRequest, threshold: number, thresholdTokens: number = Number.POSITIVE_INFINITY): boolean {
    const eligible = this.#eligible;
    if (eligible.gather(this.#workers.list, this.#workers.byId, request, true) !== undefined) return false;
    this.#sequences.refreshPrefills();
    for (let index = 0; index < eligible.count; index++) {
      const active = this.#columns.prefillTokens[eligible.slots[index] ?? 0] ?? 0;
      const capacity = eligible.workers[index]?.worker.maxNumBatchedTokens ?? assumedMaxBatchedTokens;
      // An infinite share of no tokens is not a number, and compares false as infinity does.
      if (!(active > thresholdTokens || active > threshold * capacity)) return false;
    }
    return true;
  }

  bestCachedTokens(request: StageRequest): number {
    const eligible = this.#eligible;
    if (request.matches === undefined) return 0;
    if (eligible.gather(this.#workers.list, this.#workers.byId, request, true) !== undefined) return 0;
    let best = 0;
    for (let index = 0; index < eligible.count; index++) {
      best = Math.max(best, this.#costs.cachedTokens(eligible.slots[index] ?? 0, request));
    }
    return best;
  }

  upsertWorker(worker: RouterWorker): void {
    this.#workers.upsert(worker);
  }

  removeWorker(workerId: bigint): void {
    this.#workers.remove(workerId);
    // What a selection left behind must not keep the worker alive.
    this.#eligible.workers.length = 0;
  }

  setSuspect(workerId: bigint, isSuspect: boolean): void {
    const known = this.#workers.byId.get(workerId);
    if (known !== undefined) known.isSuspect = isSuspect;
  }

  setHolder(rank: WorkerRank, holder: number | undefined): void {
    this.#workers.setHolder(rank, holder);
  }

  setReportedLoad(rank: WorkerRank, load: ReportedLoad): void {
    const slot = this.#workers.slotOf(rank);
    if (slot >= 0) this.#overload.reported(slot, load);
  }

  reap(nowMs: number, maxAgeMs: number): number {
    const reaped = this.#sequences.endOlder(nowMs - maxAgeMs);
    if (reaped > 0) this.#workers.forgetEnded();
    return reaped;
  }

  loads(): readonly RankLoad[] {
    return this.#loads(
      (slot) => this.#columns.activeBlocks(slot),
      () => 0,
    );
  }

  potentialLoads(request: StageRequest): readonly RankLoad[] {
    const { isl, settings } = request;
    this.#costs.prepareDepths(request);
    return this.#loads(
      (slot) => this.#costs.potentialBlocks(slot, request),
      (slot) => (settings.trackPrefillTokens ? isl - Math.min(isl, this.#costs.cachedTokens(slot, request)) : 0),
    );
  }

  observe(observer: StageObserver): () => void {
    this.#observers.add(observer);
    return () => {
      this.#observers.delete(observer);
    };
  }

  #loads(blocksOf: (slot: number) => number, addedTokensOf: (slot: number) => number): readonly RankLoad[] {
    const columns = this.#columns;
    this.#sequences.refreshPrefills();
    return this.#workers.list.flatMap(({ worker, slots }) =>
      Array.from(slots, (slot) => ({
        workerId: worker.id,
        dpRank: columns.dpRank[slot] ?? 0,
        activePrefillTokens: (columns.prefillTokens[slot] ?? 0) + addedTokensOf(slot),
        activeDecodeBlocks: blocksOf(slot),
        activeRequests: columns.requests[slot] ?? 0,
      })),
    );
  }

  #explainRank(
    worker: StageWorker,
    slot: number,
    candidate: number | undefined,
    request: StageRequest,
    needsAdapter: boolean,
  ): RankExplanation {
    const rank = { workerId: worker.worker.id, dpRank: this.#columns.dpRank[slot] ?? 0 };
    if (candidate === undefined) {
      const verdict = this.#eligible.verdict(worker, request, needsAdapter);
      const excluded = verdict === "eligible" ? "another worker is pinned or preferred" : verdictText[verdict];
      return { ...rank, excluded, cost: undefined, terms: {} };
    }
    const cost = this.#costs.costOf(candidate, request);
    return { ...rank, excluded: undefined, cost, terms: this.#costs.terms() };
  }

  #newBooking(
    id: string,
    rank: WorkerRank,
    load: BookedLoad,
    nowMs: number,
    events: BookingEvents | undefined,
  ): RankBooking {
    if (this.#sequences.get(id) !== undefined) throw new RangeError(`a booking with the id ${id} is active`);
    const slot = this.#workers.slotOf(rank);
    const booking = new RankBooking(this.#sequences, id, rank.workerId, rank.dpRank, load, nowMs, events);
    this.#sequences.add(booking);
    if (slot >= 0) this.#sequences.place(booking, slot);
    return booking;
  }
}
