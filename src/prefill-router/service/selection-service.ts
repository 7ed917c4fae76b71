/**
 * Dynamo's select service over our router: selections, reservations by id, loads. It sends no request anywhere: its callers do, and tell it what
 * became of them. Whatever is wrong with a request is thrown as BadRequest with its status.
 */
import { randomUUID } from "node:crypto";
import type { RouterConfigOverride } from "../config.ts";
import type { Plan, PlanOutcome, PlanRequest, RouterWorker } from "../contracts.ts";
import { BadRequest } from "./body.ts";
import { Catalogue, type CatalogueOptions, keyOf } from "./catalogue.ts";
import { loadsAnswer, overlapScores, potentialLoads } from "./load-answers.ts";
import type { Partition, RankOverlap } from "./partition.ts";
import { type PendingBounds, PendingSelections } from "./pending-selections.ts";
import { type HashedPrompt, hashBooking, hashPrompt } from "./prompt.ts";
import { refusalOf } from "./refusals.ts";
import type { PartitionRequest, ReservationRequest, SelectionRequest } from "./requests.ts";
import { Reservations } from "./reservations.ts";
import { effectivePrefillTokens, selectionAnswer } from "./selection-answer.ts";
import { steering } from "./steering.ts";
import { hasRank, shownWorker, type WorkerRecord } from "./worker-record.ts";

export interface SelectionServiceOptions extends CatalogueOptions {
  readonly pending: PendingBounds;
}

export type Answer = Readonly<Record<string, unknown>>;

const nothingBooked = { id: "", prefillCompleted: () => {}, outputBlock: () => {}, free: () => {} };

export class SelectionService {
  readonly catalogue: Catalogue;
  readonly reservations = new Reservations();
  readonly pending: PendingSelections;
  readonly #options: SelectionServiceOptions;
  #isClosed = false;

  constructor(options: SelectionServiceOptions) {
    this.#options = options;
    this.pending = new PendingSelections(options.pending);
    this.catalogue = new Catalogue({
      ...options,
      partitionMade: (partition) => {
        const key = keyOf(partition.modelName, partition.routingGroup);
        partition.decode.observe({ freed: (id) => this.reservations.ended(id, key) });
        options.partitionMade(partition);
      },
    });
  }

  /** Resolves with the answer; cancelled by the signal while it waits in a queue. */
  async select(request: SelectionRequest, policyClass: string | undefined, signal: AbortSignal): Promise<Answer> {
    this.#checkOpen();
    const partition = this.#ready(request);
    const hashed = hashPrompt(request.prompt, partition.scope);
    const planRequest = this.#planRequest(request, hashed, partition, policyClass, request.selectionId ?? "", true);
    const { plan, overlaps } = request.isAdvisory
      ? this.#preview(partition, planRequest, hashed)
      : await this.#plan(partition, planRequest, hashed, signal);
    const { selectionId } = request;
    if (selectionId !== undefined) {
      const key = this.#pendingKey(partition, selectionId);
      this.pending.set(key, { request: planRequest, plan }, this.#options.now());
    }
    return this.#answer(partition, request, { plan, request: planRequest, overlaps, selectionId, isBooked: false });
  }

  async selectAndReserve(
    request: SelectionRequest,
    policyClass: string | undefined,
    signal: AbortSignal,
  ): Promise<Answer> {
    this.#checkOpen();
    const partition = this.#ready(request);
    const selectionId = request.selectionId ?? randomUUID();
    const hashed = hashPrompt(request.prompt, partition.scope);
    const planRequest = this.#planRequest(request, hashed, partition, policyClass, selectionId, false);
    const claim = this.#claim(selectionId, partition);
    try {
      const { plan, overlaps } = await this.#plan(partition, planRequest, hashed, signal);
      claim.install(plan.booking);
      return this.#answer(partition, request, { plan, request: planRequest, overlaps, selectionId, isBooked: true });
    } finally {
      claim.release();
    }
  }

  /** Books what was selected under the id before, or on the worker that is named. */
  reserve(request: ReservationRequest): Answer {
    this.#checkOpen();
    const { modelName, routingGroup, selectionId, workerId } = request;
    const label = `model=${modelName} routing_group=${routingGroup}`;
    const key = JSON.stringify([modelName, routingGroup, selectionId]);
    if (workerId !== undefined) {
      this.pending.delete(key);
      return this.#reserveOn(request, workerId);
    }
    const selection = this.pending.get(key, this.#options.now());
    if (selection === undefined) {
      const why = "(expired, already used, or never selected)";
      throw new BadRequest(404, `no pending selection ${selectionId} for ${label} ${why}`);
    }
    const partition = this.#ready(request);
    for (const leg of [selection.plan.decode, selection.plan.prefill]) {
      if (leg !== undefined) this.#endpoint(partition, leg.worker.id, leg.dpRank);
    }
    const booked = { ...selection.request, isQuery: false, bookingId: selectionId };
    let answer: Answer;
    try {
      answer = this.#place(partition, booked, selection.plan, selectionId);
    } catch (error) {
      // The session has moved: the worker can never be booked for it.
      if (error instanceof BadRequest && error.status === 400) this.pending.used(key, selection);
      throw error;
    }
    this.pending.used(key, selection);
    return answer;
  }

  prefillComplete(selectionId: string): void {
    this.#reserved(selectionId).prefillCompleted();
  }

  outputBlock(selectionId: string, decay: number | undefined): void {
    if (decay !== undefined && !(decay >= 0 && decay <= 1)) {
      throw new BadRequest(400, "decay_fraction must be between 0.0 and 1.0");
    }
    this.#reserved(selectionId).outputBlock(decay);
  }

  free(selectionId: string): void {
    const reserved = this.#reserved(selectionId);
    // An answer came, whether or not its first byte was told: the session stays with its worker.
    reserved.prefillCompleted();
    reserved.free();
  }

  ready(): { readonly isReady: boolean; readonly answer: Answer } {
    const schedulable = this.catalogue.schedulable;
    const isReady = !this.#isClosed && schedulable > 0;
    const workers = this.catalogue.list().map(shownWorker);
    return { isReady, answer: { ready: isReady, schedulable_workers: schedulable, workers } };
  }

  loads(modelName: string | undefined, routingGroup: string | undefined): readonly Answer[] {
    return this.catalogue
      .partitions()
      .filter((partition) => partition.isSettled)
      .filter((partition) => modelName === undefined || partition.modelName === modelName)
      .filter((partition) => routingGroup === undefined || partition.routingGroup === routingGroup)
      .map(loadsAnswer);
  }

  potentialLoads(request: PartitionRequest): readonly Answer[] {
    const settings = this.#options.settings.settingsOf("aggregated", request.override);
    return potentialLoads(this.#ready(request), request, settings);
  }

  overlapScores(request: PartitionRequest): Answer {
    return overlapScores(this.#ready(request), request);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.catalogue.close();
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new BadRequest(503, "selection service is shutting down");
  }

  #ready({ modelName, routingGroup }: Pick<PartitionRequest, "modelName" | "routingGroup">): Partition {
    const partition = this.catalogue.partition(modelName, routingGroup);
    if (partition !== undefined && partition.decode.workers.size + partition.prefill.workers.size > 0) return partition;
    if (this.catalogue.schedulable === 0) throw new BadRequest(503, "no schedulable workers are available");
    throw new BadRequest(503, `no schedulable workers for model=${modelName} routing_group=${routingGroup}`);
  }

  #claim(selectionId: string, partition: Partition) {
    const claim = this.reservations.claim(selectionId, keyOf(partition.modelName, partition.routingGroup));
    if (claim !== undefined) return claim;
    throw new BadRequest(409, `selection ${selectionId} is already reserved or being reserved`);
  }

  #reserved(selectionId: string) {
    const reserved = this.reservations.get(selectionId);
    if (reserved === undefined) throw new BadRequest(404, `reservation ${selectionId} not found`);
    return reserved;
  }

  #pendingKey(partition: Partition, selectionId: string): string {
    return JSON.stringify([partition.modelName, partition.routingGroup, selectionId]);
  }

  #planRequest(
    request: SelectionRequest,
    hashed: HashedPrompt,
    partition: Partition,
    policyClass: string | undefined,
    id: string,
    isQuery: boolean,
  ): PlanRequest {
    const { allowed, constraints, affinityTarget } = request;
    const { pinned, preferred } = steering(request, partition, allowed);
    const isSteered = request.pinned !== undefined || affinityTarget !== undefined;
    return {
      requestId: id,
      isl: hashed.isl,
      blockHashes: hashed.blockHashes,
      sequenceHashes: hashed.chain,
      trackingHashes: hashed.tracking,
      loraName: request.prompt.loraName,
      expectedOutputTokens: request.expectedOutputTokens,
      bookingId: isQuery ? undefined : id,
      isQuery,
      priorityJump: request.priorityJump,
      strictPriority: request.strictPriority,
      policyClass,
      allowed: { prefill: allowed, decode: allowed },
      ...(pinned === undefined ? {} : { pinned }),
      ...(preferred === undefined ? {} : { preferred }),
      sessionId: isSteered ? undefined : request.sessionId,
      isSessionFinal: request.isSessionFinal,
      override: request.override,
      ...(constraints === undefined ? {} : { constraints }),
    };
  }

  #plan(
    partition: Partition,
    request: PlanRequest,
    { chain }: HashedPrompt,
    signal: AbortSignal,
  ): Promise<{ readonly plan: Plan; readonly overlaps: readonly RankOverlap[] }> {
    // Before the plan, which may teach the index that the chosen rank will hold all of it.
    let { matches, number } = partition.match(chain);
    return new Promise((resolve, reject) => {
      const pending = partition.router.plan(request, (outcome) => {
        signal.removeEventListener("abort", leave);
        if (outcome.kind === "refused") {
          reject(refusalOf(outcome.refusal));
          return;
        }
        const { plan } = outcome;
        if (partition.matchNumber !== number) ({ matches, number } = partition.match(chain));
        resolve({ plan, overlaps: partition.overlaps(workersOf(plan), matches) });
      });
      function leave(): void {
        pending.cancel();
        reject(new BadRequest(499, "the client has gone"));
      }
      signal.addEventListener("abort", leave, { once: true });
      if (signal.aborted) leave();
    });
  }

  #preview(partition: Partition, request: PlanRequest, { chain }: HashedPrompt) {
    const { matches } = partition.match(chain);
    const preview = partition.router.preview(request);
    if (preview.kind === "refused") throw refusalOf(preview.refusal);
    const { prefill, decode } = preview;
    const plan: Plan =
      prefill === undefined
        ? { mode: "aggregated", prefill, decode, booking: nothingBooked }
        : { mode: "disaggregated", prefill, decode, booking: nothingBooked };
    return { plan, overlaps: partition.overlaps(workersOf(plan), matches) };
  }

  #answer(
    partition: Partition,
    { override, isAdvisory }: SelectionRequest,
    selection: Pick<
      Parameters<typeof selectionAnswer>[0],
      "plan" | "request" | "overlaps" | "selectionId" | "isBooked"
    >,
  ): Answer {
    const { config, settingsOf } = this.#options.settings;
    const tracksPrefillTokens = settingsOf("aggregated", override).trackPrefillTokens;
    return selectionAnswer(
      { ...selection, tracksPrefillTokens, isAdvisory: isAdvisory && !selection.isBooked },
      {
        modelName: partition.modelName,
        routingGroup: partition.routingGroup,
        blockSize: partition.blockSize,
        prefillBusyThreshold: config.conditionalDisaggPrefillBusyThreshold,
        decodeBusyThreshold: config.conditionalDisaggDecodeBusyThreshold,
        endpointOf: (workerId) => this.catalogue.schedulableIn(partition, workerId)?.endpoint ?? "",
      },
    );
  }

  #reserveOn(request: ReservationRequest, workerId: bigint): Answer {
    const partition = this.#ready(request);
    const hashed = hashBooking(request.prompt, partition.scope);
    const { isl } = hashed;
    const effective = request.effectivePrefillTokens;
    if (effective !== undefined && effective > isl) {
      throw new BadRequest(400, `effective_prefill_tokens (${effective}) must not exceed isl_tokens (${isl})`);
    }
    this.#endpoint(partition, workerId, undefined);
    const tracks = request.tracksPrefillTokens ?? (effective === undefined ? undefined : true);
    const override: RouterConfigOverride = {
      ...request.override,
      ...(tracks === undefined ? {} : { trackPrefillTokens: tracks }),
    };
    const { selectionId, expectedOutputTokens } = request;
    const planRequest: PlanRequest = {
      requestId: selectionId,
      bookingId: selectionId,
      isl,
      blockHashes: hashed.blockHashes,
      sequenceHashes: hashed.chain,
      trackingHashes: hashed.tracking,
      loraName: request.prompt.loraName,
      expectedOutputTokens,
      override,
    };
    const claim = this.#claim(selectionId, partition);
    try {
      const dpRank = request.dpRank ?? 0;
      const record = this.#endpoint(partition, workerId, dpRank);
      const leg = { workerId, dpRank, prefillTokens: effective ?? 0 };
      claim.install(bookingOf(partition.router.place(planRequest, leg, undefined)));
      return reservationAnswer(partition, selectionId, record, dpRank);
    } finally {
      claim.release();
    }
  }

  #place(partition: Partition, request: PlanRequest, plan: Plan, selectionId: string): Answer {
    const claim = this.#claim(selectionId, partition);
    try {
      const { decode, prefill } = plan;
      const legOf = ({ worker, dpRank }: Plan["decode"], prefillTokens: number) => ({
        workerId: worker.id,
        dpRank,
        prefillTokens,
      });
      const tokens = effectivePrefillTokens(request.isl, prefill ?? decode);
      const record = this.#endpoint(partition, decode.worker.id, decode.dpRank);
      const placed = partition.router.place(
        request,
        legOf(decode, tokens),
        prefill === undefined ? undefined : legOf(prefill, tokens),
      );
      claim.install(bookingOf(placed));
      return reservationAnswer(partition, selectionId, record, decode.dpRank);
    } finally {
      claim.release();
    }
  }

  #endpoint(partition: Partition, workerId: bigint, dpRank: number | undefined): WorkerRecord {
    const record = this.catalogue.schedulableIn(partition, workerId);
    if (record === undefined) {
      throw new BadRequest(404, `schedulable worker ${workerId} not found for ${partition.label}`);
    }
    if (dpRank === undefined || hasRank(record, dpRank)) return record;
    throw new BadRequest(404, `Worker WorkerWithDpRank { worker_id: ${workerId}, dp_rank: ${dpRank} } not found`);
  }
}

function bookingOf(outcome: PlanOutcome) {
  if (outcome.kind === "refused") throw refusalOf(outcome.refusal);
  return outcome.plan.booking;
}

function workersOf({ decode, prefill }: Plan): readonly RouterWorker[] {
  return prefill === undefined ? [decode.worker] : [decode.worker, prefill.worker];
}

function reservationAnswer(partition: Partition, id: string, { workerId, endpoint }: WorkerRecord, dpRank: number) {
  return {
    selection_id: id,
    model_name: partition.modelName,
    routing_group: partition.routingGroup,
    worker_id: workerId,
    dp_rank: dpRank,
    endpoint: endpoint ?? "",
  };
}
