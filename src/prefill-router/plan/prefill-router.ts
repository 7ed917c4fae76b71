/**
 * The PrefillRouter: one turn of the event loop chooses and books both legs of a request, or neither. It owns both stages, the queue, the
 * sessions and every timer of theirs, and ends all of them at close.
 */
import { randomUUID } from "node:crypto";
import { silentLogger } from "../../telemetry/log.ts";
import { SessionTable } from "../affinity/session-table.ts";
import type {
  Booking,
  Leg,
  PendingPlan,
  PlacedLeg,
  Plan,
  PlanOutcome,
  PlanPreview,
  PlanRequest,
  PrefillRouter,
  RouterSnapshot,
  RouterWorker,
  WorkerRank,
} from "../contracts.ts";
import type { StageBooking } from "../stage.ts";
import { Announcer } from "./announcer.ts";
import { Chooser, type Chosen, type ChosenLeg, type StageSessions } from "./chooser.ts";
import { type PrefillRouterOptions, systemTimers } from "./contracts.ts";
import { explanationOf } from "./explanation.ts";
import { keepUp } from "./index-upkeep.ts";
import { BookingLedger } from "./plan-booking.ts";
import { Roster } from "./roster.ts";
import { WaitingPlans } from "./waiting-plans.ts";

type Defaulted = "now" | "random" | "timers" | "mintId" | "log" | "observers";

/** The stages must be empty. */
export function createPrefillRouter(
  options: Omit<PrefillRouterOptions, Defaulted> & Partial<Pick<PrefillRouterOptions, Defaulted>>,
): PrefillRouter {
  return new PlanningRouter({
    now: () => performance.now(),
    random: Math.random,
    timers: systemTimers,
    mintId: randomUUID,
    log: silentLogger,
    observers: [],
    ...options,
  });
}

const nothingPending: PendingPlan = { cancel: () => {} };
const nothingBooked: Booking = { id: "", prefillCompleted: () => {}, outputBlock: () => {}, free: () => {} };
/** How often what has expired is looked for. */
const housekeepingMs = 30_000;

class PlanningRouter implements PrefillRouter {
  readonly #options: PrefillRouterOptions;
  readonly #announcer: Announcer;
  readonly #roster: Roster;
  readonly #sessions: StageSessions | undefined;
  readonly #chooser: Chooser;
  readonly #waiting: WaitingPlans;
  readonly #ledger: BookingLedger;
  readonly #endUpkeep: () => void;
  #cancelHousekeeping: () => void;
  #isClosed = false;

  constructor(options: PrefillRouterOptions) {
    this.#options = options;
    const { config, prefill, decode, index, now, timers } = options;
    const capacityChanged = () => this.#waiting.drain();
    this.#announcer = new Announcer(options.observers, options.log);
    this.#roster = new Roster({
      prefill,
      decode,
      index,
      isDisaggEnforced: config.isDisaggEnforced,
      now,
      timers,
      changed: capacityChanged,
    });
    this.#sessions =
      config.affinity === undefined
        ? undefined
        : { prefill: new SessionTable(config.affinity), decode: new SessionTable(config.affinity) };
    this.#chooser = new Chooser(options, this.#roster, this.#sessions);
    this.#ledger = new BookingLedger(now, capacityChanged);
    this.#waiting = new WaitingPlans({
      router: options,
      roster: this.#roster,
      chooser: this.#chooser,
      announcer: this.#announcer,
      admit: (request, policyClass, waitedMs) => this.#admit(request, policyClass, waitedMs, false),
      admitWithoutPrefill: (request, policyClass) => this.#admit(request, policyClass, 0, true),
    });
    this.#endUpkeep = keepUp(index, now, timers);
    this.#cancelHousekeeping = this.#armHousekeeping();
  }

  plan(request: PlanRequest, done: (outcome: PlanOutcome) => void): PendingPlan {
    if (this.#isClosed) {
      done(this.#announcer.refused({ kind: "closed", message: "the router is closed" }, request));
      return nothingPending;
    }
    const cancel = this.#waiting.arrive(request, done);
    return cancel === undefined ? nothingPending : { cancel };
  }

  preview(request: PlanRequest): PlanPreview {
    if (this.#isClosed) return { kind: "refused", refusal: { kind: "closed", message: "the router is closed" } };
    const choice = this.#chooser.choose(request, this.#options.now(), true);
    if (choice.kind === "refused") return choice;
    return {
      kind: "chosen",
      prefill: choice.prefill === undefined ? undefined : legOf(choice.prefill),
      decode: legOf(choice.decode),
    };
  }

  place(request: PlanRequest, decode: PlacedLeg, prefill: PlacedLeg | undefined): PlanOutcome {
    if (this.#isClosed) {
      return this.#announcer.refused({ kind: "closed", message: "the router is closed" }, request);
    }
    const nowMs = this.#options.now();
    const choice = this.#chooser.placed(request, decode, prefill, nowMs);
    if (choice.kind === "refused") return this.#announcer.refused(choice.refusal, request);
    return this.#commit(request, choice, "default", 0, nowMs);
  }

  upsertWorker(worker: RouterWorker): void {
    if (!this.#isClosed) this.#roster.upsert(worker);
  }

  removeWorker(workerId: bigint): void {
    this.#roster.remove(workerId);
  }

  suspectWorker(workerId: bigint, forMs: number): void {
    if (!this.#isClosed) this.#roster.suspect(workerId, forMs);
  }

  setHolder(rank: WorkerRank, holder: number | undefined): void {
    if (!this.#isClosed) this.#roster.setHolder(rank, holder);
  }

  holderOf({ workerId, dpRank }: WorkerRank): number | undefined {
    return this.#roster.holderOf(workerId, dpRank);
  }

  capacityChanged(): void {
    this.#waiting.drain();
  }

  snapshot(): RouterSnapshot {
    const { prefill, decode, now } = this.#options;
    return {
      topology: this.#roster.topology,
      workers: Array.from(this.#roster.workers(), (worker) => ({
        worker,
        isSuspect: this.#roster.isSuspect(worker.id),
      })),
      loads: { prefill: prefill.loads(), decode: decode.loads() },
      queue: this.#waiting.stats(),
      bookings: this.#ledger.size,
      oldestBookingMs: this.#ledger.oldestMs(now()),
      sessions: { prefill: this.#sessions?.prefill.size ?? 0, decode: this.#sessions?.decode.size ?? 0 },
      counters: this.#announcer.counters,
    };
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#cancelHousekeeping();
    this.#endUpkeep();
    this.#waiting.close();
    this.#ledger.freeAll();
    this.#roster.close();
    this.#sessions?.prefill.clear();
    this.#sessions?.decode.clear();
  }

  #admit(request: PlanRequest, policyClass: string, waitedMs: number, isWithoutPrefill: boolean): PlanOutcome {
    const nowMs = this.#options.now();
    const { explain } = request;
    // Made before the choice, which may forget a session.
    const explanation =
      explain === undefined ? undefined : explanationOf(this.#chooser, request, policyClass, waitedMs, nowMs);
    const isQuery = request.isQuery === true;
    const choice = isWithoutPrefill
      ? this.#chooser.chooseWithoutPrefill(request, nowMs, isQuery)
      : this.#chooser.choose(request, nowMs, isQuery);
    if (explanation !== undefined) {
      const isAlone = choice.kind === "chosen" && choice.prefill === undefined;
      explain?.(isAlone ? { ...explanation, mode: "aggregated" } : explanation);
    }
    if (choice.kind === "refused") return this.#announcer.refused(choice.refusal, request);
    if (isQuery) return { kind: "planned", plan: planOf(choice, nothingBooked) };
    return this.#commit(request, choice, policyClass, waitedMs, nowMs);
  }

  #commit(request: PlanRequest, choice: Chosen, policyClass: string, waitedMs: number, nowMs: number): PlanOutcome {
    const plan = this.#book(request, choice, nowMs);
    this.#tellIndex(request, choice, nowMs);
    const computing = choice.prefill ?? choice.decode;
    return this.#announcer.planned({
      request,
      plan,
      policyClass,
      waitedMs,
      isBypass: choice.bypass === "bypassed",
      hitTokens: (plan.prefill ?? plan.decode).cachedTokens,
      lostTokens: this.#announcer.countsLostOverlap ? lostTokens(computing) : 0,
      sharedHits: computing.request.sharedHits,
    });
  }

  #book(request: PlanRequest, choice: Chosen, nowMs: number): Plan {
    const id = request.bookingId ?? this.#options.mintId();
    const prefill = choice.prefill === undefined ? undefined : bookLeg(choice.prefill, id, nowMs);
    let decode: StageBooking;
    try {
      decode = bookLeg(choice.decode, id, nowMs);
    } catch (error) {
      prefill?.free();
      throw error;
    }
    const booking = this.#ledger.open(
      id,
      {
        prefill,
        decode,
        prefillSession: choice.prefill === undefined ? undefined : this.#useSession(request, choice.prefill, nowMs),
        decodeSession: this.#useSession(request, choice.decode, nowMs),
        isSessionFinal: request.isSessionFinal ?? false,
      },
      nowMs,
    );
    return planOf(choice, booking);
  }

  #useSession(request: PlanRequest, leg: ChosenLeg, nowMs: number) {
    const { sessionId } = request;
    if (this.#sessions === undefined || sessionId === undefined) return undefined;
    const { worker, dpRank } = leg.selected;
    const use = this.#sessions[leg.stage.stage].use(sessionId, worker, dpRank, nowMs);
    if (use === undefined) this.#announcer.sessionIgnored();
    else this.#announcer.sessionBound(sessionId, leg.stage.stage, { workerId: worker.id, dpRank });
    return use;
  }

  #tellIndex(request: PlanRequest, choice: Chosen, nowMs: number): void {
    const { index } = this.#options;
    if (index?.routed === undefined || request.sequenceHashes.length === 0) return;
    for (const leg of [choice.prefill, choice.decode]) {
      if (leg === undefined) continue;
      const holder = this.#roster.holderOf(leg.selected.worker.id, leg.selected.dpRank);
      if (holder !== undefined) index.routed(holder, request.sequenceHashes, nowMs, request.blockHashes);
    }
  }

  #armHousekeeping(): () => void {
    const { timers, config } = this.#options;
    return timers.after(Math.min(housekeepingMs, config.activeRequestExpiryMs), () => {
      this.#expire();
      if (!this.#isClosed) this.#cancelHousekeeping = this.#armHousekeeping();
    });
  }

  #expire(): void {
    const { prefill, decode, config, now, log } = this.#options;
    const nowMs = now();
    const maxAgeMs = config.activeRequestExpiryMs;
    const own = this.#ledger.reap(nowMs, maxAgeMs);
    if (own > 0) log.warn({ count: own, maxAgeMs }, "ended bookings that nobody had ended");
    this.#announcer.reaped(own, false);
    // What the ledger did not open came from other replicas.
    const remote = prefill.reap(nowMs, maxAgeMs) + decode.reap(nowMs, maxAgeMs);
    this.#announcer.reaped(remote, true);
    this.#sessions?.prefill.sweep(nowMs);
    this.#sessions?.decode.sweep(nowMs);
    if (remote > 0) this.#waiting.drain();
  }
}

function bookLeg(leg: ChosenLeg, id: string, nowMs: number): StageBooking {
  return leg.stage.book(id, leg.selected, leg.request, nowMs);
}

function planOf(choice: Chosen, booking: Booking): Plan {
  const decode = legOf(choice.decode);
  return choice.prefill === undefined
    ? { mode: "aggregated", prefill: undefined, decode, booking }
    : { mode: "disaggregated", prefill: legOf(choice.prefill), decode, booking };
}

function legOf({ selected }: ChosenLeg): Leg {
  const { worker, dpRank, deviceBlocks, hostBlocks, diskBlocks, cachedTokens, cost } = selected;
  const { potentialDecodeBlocks, activePrefillTokens } = selected;
  return {
    worker,
    dpRank,
    deviceBlocks,
    hostBlocks,
    diskBlocks,
    cachedTokens,
    cost,
    potentialDecodeBlocks,
    activePrefillTokens,
  };
}

function lostTokens(leg: ChosenLeg): number {
  return Math.max(0, leg.stage.bestCachedTokens(leg.request) - leg.selected.cachedTokens);
}
