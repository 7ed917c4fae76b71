/**
 * Requests that wait because every rank they may run on is busy. Each leaves once: planned, refused or cancelled. Looked at again whenever
 * room appears, and at a slow beat for what nobody tells of.
 */
import type { PlanOutcome, PlanRefusal, PlanRequest } from "../contracts.ts";
import { hasQueue, neverQueues, type PolicyClass } from "../policy/policy-class.ts";
import { PolicyQueue, type QueueRejection } from "../queue/policy-queue.ts";
import { QueueEntry } from "../queue/queue-entry.ts";
import type { StageRequest } from "../stage.ts";
import type { Announcer } from "./announcer.ts";
import type { Chooser } from "./chooser.ts";
import type { PrefillRouterOptions } from "./contracts.ts";
import type { Roster } from "./roster.ts";

export interface WaitingOptions {
  readonly router: PrefillRouterOptions;
  readonly roster: Roster;
  readonly chooser: Chooser;
  readonly announcer: Announcer;
  /** Plans in this turn; `waitedMs` is 0 for a request that never waited. */
  readonly admit: (request: PlanRequest, policyClass: string, waitedMs: number) => PlanOutcome;
  /** The same without a prefill leg. */
  readonly admitWithoutPrefill: (request: PlanRequest, policyClass: string) => PlanOutcome;
}

/** Who is asked for room: without matches, which do not outlive a turn. */
interface Gates {
  readonly version: number;
  /** Whom the caller allowed when they were made: it may say otherwise by now. */
  readonly allowed: PlanRequest["allowed"];
  readonly prefill: StageRequest | undefined;
  readonly decode: StageRequest;
}

interface Waiting {
  readonly request: PlanRequest;
  readonly done: (outcome: PlanOutcome) => void;
  readonly sinceMs: number;
  gates: Gates;
}

export class WaitingPlans {
  readonly #options: WaitingOptions;
  readonly #queue: PolicyQueue<Waiting>;
  readonly #startedMs: number;
  readonly #hasQueues: boolean;
  #cancelRecheck: (() => void) | undefined;
  #isDraining = false;
  #isClosed = false;

  constructor(options: WaitingOptions) {
    this.#options = options;
    this.#queue = new PolicyQueue(options.router.config.profile);
    this.#hasQueues = options.router.config.profile.classes.some(hasQueue);
    this.#startedMs = options.router.now();
  }

  get size(): number {
    return this.#queue.size;
  }

  stats(): ReturnType<PolicyQueue<unknown>["stats"]> {
    return this.#queue.stats();
  }

  /** Answers at once where the request need not wait; else returns how it leaves the queue early. */
  arrive(request: PlanRequest, done: (outcome: PlanOutcome) => void): (() => void) | undefined {
    const { profile, maxQueuedPlans } = this.#options.router.config;
    // Without workers every limit is 0, and the refusal would hide the reason.
    if (!this.#hasQueues || this.#options.chooser.unready() !== undefined) {
      answer(done, this.#options.admit(request, this.#classNameOf(request), 0));
      return undefined;
    }
    const nowMs = this.#options.router.now();
    const gates = this.#gatesOf(request);
    const cachedTokens = this.#bestCached(request, gates, nowMs);
    const classIndex = profile.classIndex(request.policyClass, request.isl - cachedTokens);
    const policyClass = profile.classes[classIndex];
    if (policyClass === undefined) throw new RangeError(`no policy class ${classIndex}`);

    const isBehindOthers = this.#queue.sizeOf(classIndex) > 0;
    const waiting: Waiting = { request, done, sinceMs: nowMs, gates };
    if (!hasQueue(policyClass) || (!isBehindOthers && this.#isReady(policyClass, waiting))) {
      // A class that never holds anybody has no part in the ring.
      if (!neverQueues(policyClass)) this.#queue.passed(classIndex);
      answer(done, this.#options.admit(request, policyClass.name, 0));
      return undefined;
    }
    const mayWait = request.doNotQueue !== true;
    if (!mayWait && !this.#isReady(policyClass, waiting)) {
      this.#turnAway(request, policyClass, this.#noWaiting(policyClass), done);
      return undefined;
    }
    const full: QueueRejection | undefined =
      this.#queue.size >= maxQueuedPlans
        ? { policyClass: policyClass.name, limitKind: "requests", current: this.#queue.size, limit: maxQueuedPlans }
        : undefined;
    const arrival = {
      classIndex,
      weight: { rawTokens: request.isl, cachedTokens },
      arrivalSeconds: (nowMs - this.#startedMs) / 1000,
      // Not a number would leave the order without an order.
      priorityJump: request.priorityJump || 0,
      strictPriority: request.strictPriority || 0,
      lane: laneOf(gates),
    };
    const entry = full ?? this.#queue.push(arrival, waiting, this.#workerCount());
    if (!(entry instanceof QueueEntry)) {
      this.#turnAway(request, policyClass, this.#rejected(entry), done);
      return undefined;
    }
    this.#options.announcer.queued(policyClass.name);
    this.drain();
    if (entry.position < 0) return undefined;
    if (mayWait) return () => this.#cancel(entry);
    this.#queue.remove(entry);
    this.#announceLeft(entry, "refused");
    this.#turnAway(request, policyClass, this.#noWaiting(policyClass), done);
    return undefined;
  }

  /** Refuses who may not wait here, unless a decode worker with room may compute the prompt as well. */
  #turnAway(
    request: PlanRequest,
    policyClass: PolicyClass,
    refusal: PlanRefusal,
    done: (outcome: PlanOutcome) => void,
  ): void {
    const { router, chooser, announcer, admitWithoutPrefill } = this.#options;
    if (chooser.isDisaggregated && chooser.mayGoWithoutPrefill(request)) {
      const alone = chooser.legRequest(request, "aggregated", undefined, undefined);
      if (!router.decode.isSaturated(alone, busyFractionOf(policyClass), busyTokensOf(policyClass))) {
        answer(done, admitWithoutPrefill(request, policyClass.name));
        return;
      }
    }
    done(announcer.refused(refusal, request));
  }

  /** Plans whoever may go now. Safe to call from within an answer. */
  drain(): void {
    if (this.#queue.size === 0 || this.#isClosed) return;
    // What changes while somebody is answered is seen by the loop that answers.
    if (this.#isDraining) return;
    this.#isDraining = true;
    try {
      for (;;) {
        const entry = this.#queue.popNext((policyClass, waiting) => this.#isReady(policyClass, waiting));
        if (entry === undefined) break;
        this.#leave(entry);
      }
    } finally {
      this.#isDraining = false;
    }
    this.#armRecheck();
  }

  close(): void {
    this.#isClosed = true;
    this.#cancelRecheck?.();
    const refusal: PlanRefusal = { kind: "closed", message: "the router is closing" };
    for (const entry of Array.from(this.#queue.entries())) {
      if (!this.#queue.remove(entry)) continue;
      const { request } = entry.payload;
      this.#announceLeft(entry, "refused");
      this.#answer(entry.payload, this.#options.announcer.refused(refusal, request));
    }
  }

  #leave(entry: QueueEntry<Waiting>): void {
    const { request, sinceMs } = entry.payload;
    const waitedMs = this.#options.router.now() - sinceMs;
    const outcome = this.#options.admit(request, this.#classOf(entry).name, waitedMs);
    this.#announceLeft(entry, outcome.kind);
    this.#answer(entry.payload, outcome);
  }

  /** One caller's exception must not hold up the others. */
  #answer(waiting: Waiting, outcome: PlanOutcome): void {
    try {
      answer(waiting.done, outcome);
    } catch (error) {
      this.#options.router.log.error(
        { err: error, request: waiting.request.requestId },
        "a planned request's owner failed",
      );
    }
  }

  #cancel(entry: QueueEntry<Waiting>): void {
    if (!this.#queue.remove(entry)) return;
    this.#announceLeft(entry, "cancelled");
    // Who waited behind it may be ready.
    this.drain();
    this.#armRecheck();
  }

  #announceLeft(entry: QueueEntry<Waiting>, how: "planned" | "refused" | "cancelled"): void {
    const waitedMs = this.#options.router.now() - entry.payload.sinceMs;
    this.#options.announcer.left(this.#classOf(entry).name, waitedMs, how);
  }

  #isReady(policyClass: PolicyClass, waiting: Waiting): boolean {
    const { router, roster, chooser } = this.#options;
    if (!hasQueue(policyClass) || chooser.unready() !== undefined) return true;
    const { gates, request } = waiting;
    if (gates.version !== roster.version || gates.allowed !== request.allowed) waiting.gates = this.#gatesOf(request);
    const fraction = busyFractionOf(policyClass);
    const tokens = busyTokensOf(policyClass);
    const { prefill, decode } = waiting.gates;
    if (router.decode.isSaturated(decode, fraction, tokens)) return false;
    if (prefill === undefined || !router.prefill.isSaturated(prefill, fraction, tokens)) return true;
    if (router.config.conditional === undefined) return false;
    const nowMs = router.now();
    return chooser.bypassDecision(waiting.request, chooser.match(waiting.request, nowMs), nowMs) === "bypassed";
  }

  #gatesOf(request: PlanRequest): Gates {
    const { roster, chooser } = this.#options;
    const { version } = roster;
    const { allowed } = request;
    if (!chooser.isDisaggregated) {
      return {
        version,
        allowed,
        prefill: undefined,
        decode: chooser.legRequest(request, "aggregated", undefined, undefined),
      };
    }
    return {
      version,
      allowed,
      prefill: chooser.legRequest(request, "prefill", undefined, undefined),
      decode: chooser.legRequest(request, "decode", undefined, undefined),
    };
  }

  #bestCached(request: PlanRequest, gates: Gates, nowMs: number): number {
    const { router, chooser } = this.#options;
    const matches = chooser.match(request, nowMs);
    if (matches === undefined) return 0;
    const cached =
      gates.prefill === undefined
        ? router.decode.bestCachedTokens({ ...gates.decode, matches })
        : router.prefill.bestCachedTokens({ ...gates.prefill, matches });
    return Math.min(request.isl, Math.max(0, Math.floor(cached)));
  }

  /** Limits scale with the workers that compute prompts. */
  #workerCount(): number {
    const { router, chooser } = this.#options;
    return chooser.isDisaggregated ? router.prefill.workers.size : router.decode.workers.size;
  }

  #stageName(): "prefill" | "decode" {
    return this.#options.chooser.isDisaggregated ? "prefill" : "decode";
  }

  #classOf(entry: QueueEntry<Waiting>): PolicyClass {
    const policyClass = this.#options.router.config.profile.classes[entry.classIndex];
    if (policyClass === undefined) throw new RangeError(`no policy class ${entry.classIndex}`);
    return policyClass;
  }

  #classNameOf(request: PlanRequest): string {
    const { profile } = this.#options.router.config;
    return profile.classes[profile.classIndex(request.policyClass, request.isl)]?.name ?? "default";
  }

  #noWaiting(policyClass: PolicyClass): PlanRefusal {
    const message = "every worker is busy and the request may not wait";
    return { kind: "queue-full", stage: this.#stageName(), message, policyClass: policyClass.name };
  }

  #rejected({ policyClass, limitKind, current, limit }: QueueRejection): PlanRefusal {
    const message = `router policy class "${policyClass}" queue ${limitKind} limit reached (current=${current}, limit=${limit})`;
    return {
      kind: "queue-full",
      stage: this.#stageName(),
      message,
      policyClass,
      limit: { kind: limitKind, current, limit },
    };
  }

  #armRecheck(): void {
    if (this.#queue.size === 0) {
      this.#cancelRecheck?.();
      this.#cancelRecheck = undefined;
      return;
    }
    if (this.#cancelRecheck !== undefined || this.#isClosed) return;
    const { timers, config } = this.#options.router;
    this.#cancelRecheck = timers.after(config.queueRecheckMs, () => {
      this.#cancelRecheck = undefined;
      this.drain();
    });
  }
}

function busyFractionOf({ busyFraction }: PolicyClass): number {
  return busyFraction ?? Number.POSITIVE_INFINITY;
}

function busyTokensOf({ busyTokens }: PolicyClass): number {
  return busyTokens ?? Number.POSITIVE_INFINITY;
}

function answer(done: (outcome: PlanOutcome) => void, outcome: PlanOutcome): void {
  try {
    done(outcome);
  } catch (error) {
    // Nobody else is left to end it.
    if (outcome.kind === "planned") outcome.plan.booking.free();
    throw error;
  }
}

/** Requests pinned to the same ranks wait in one lane. */
function laneOf({ prefill, decode }: Gates): string | undefined {
  if (prefill?.pinned === undefined && decode.pinned === undefined) return undefined;
  const pins = [prefill?.pinned, decode.pinned];
  return pins.map((pin) => (pin === undefined ? "-" : `${pin.workerId}:${pin.dpRank ?? "*"}`)).join("/");
}
