/**
 * Runs the data producers of a plan for one request. Producers that answer at once cost no promise; one that returns a promise is given
 * 400 ms or its own bound, runs beside the others that do not read from it, and its failure only means that the request goes on without its attribute.
 */
import type { Endpoints } from "../data/endpoint.ts";
import type { DataProducer } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Named } from "../scheduling/contracts.ts";
import type { PlanHooks } from "./plan-hooks.ts";

/** The reference's bound of one producer (facts of its `DataProducer` timeout). */
export const producerTimeoutMs = 400;

/** Timers as an argument, so that tests turn the clock by hand. */
export interface Timers {
  set(callback: () => void, afterMs: number): unknown;
  clear(timer: unknown): void;
}

export const processTimers: Timers = {
  set: (callback, afterMs) => setTimeout(callback, afterMs),
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout),
};

/** Whatever else a plain JavaScript plugin returns is an answer at once. */
function isPromise(answer: void | Promise<void>): answer is Promise<void> {
  return typeof answer === "object" && answer !== null && typeof answer.then === "function";
}

interface PendingProducer {
  readonly producer: Named<DataProducer>;
  readonly startMs: number;
  timer: unknown;
}

export class Production {
  readonly #hooks: PlanHooks;
  readonly #timers: Timers;
  readonly #now: () => number;
  readonly #request: InferenceRequest;
  readonly #candidates: Endpoints;
  readonly #done: () => void;
  /** Next producer to call. */
  #next = 0;
  #cancelled = false;
  /** Undefined until the first producer returned a promise. */
  #pending: Set<PendingProducer> | undefined;

  constructor(init: {
    readonly hooks: PlanHooks;
    readonly timers: Timers;
    readonly now: () => number;
    readonly request: InferenceRequest;
    readonly candidates: Endpoints;
    /** Called once, when the last producer has answered or is given up; not called when `run` returned true. */
    readonly done: () => void;
  }) {
    this.#hooks = init.hooks;
    this.#timers = init.timers;
    this.#now = init.now;
    this.#request = init.request;
    this.#candidates = init.candidates;
    this.#done = init.done;
  }

  /** True when every producer has answered; false when some are waited for. */
  run(): boolean {
    const producers = this.#hooks.plan.producers;
    while (this.#next < producers.length) {
      const producer = producers[this.#next];
      if (producer === undefined || this.#mustWait(producer)) break;
      this.#next += 1;
      this.#start(producer);
    }
    return !this.#isWaiting() && this.#next >= producers.length;
  }

  /** Stops waiting; `done` is not called after it. */
  cancel(): void {
    this.#cancelled = true;
    if (this.#pending === undefined) return;
    for (const pending of this.#pending) this.#timers.clear(pending.timer);
    this.#pending.clear();
  }

  #isWaiting(): boolean {
    return this.#pending !== undefined && this.#pending.size > 0;
  }

  /** Producers come in dependency order, so waiting at the first blocked one is enough for those behind it. */
  #mustWait(producer: Named<DataProducer>): boolean {
    if (this.#pending === undefined || producer.plugin.after === undefined) return false;
    for (const pending of this.#pending) if (producer.plugin.after.includes(pending.producer.type)) return true;
    return false;
  }

  #start(producer: Named<DataProducer>): void {
    const startMs = this.#now();
    try {
      const answer = producer.plugin.produce(this.#request, this.#candidates);
      if (isPromise(answer)) this.#await(producer, answer, startMs);
      else this.#hooks.ran("DataProducer", producer, startMs);
    } catch (error) {
      this.#hooks.failed("DataProducer", producer, error);
    }
  }

  #await(producer: Named<DataProducer>, answer: Promise<void>, startMs: number): void {
    const pending: PendingProducer = { producer, startMs, timer: undefined };
    this.#pending ??= new Set();
    this.#pending.add(pending);
    const timeoutMs = producer.plugin.timeoutMs ?? producerTimeoutMs;
    pending.timer = this.#timers.set(() => {
      this.#settle(pending, new Error(`did not answer within ${timeoutMs} ms`));
    }, timeoutMs);
    answer.then(
      () => this.#settle(pending, undefined),
      (error: unknown) => this.#settle(pending, error ?? new Error("rejected without a reason")),
    );
  }

  /** The first of answer, failure and timeout counts; later ones find the producer gone. */
  #settle(pending: PendingProducer, error: unknown): void {
    if (this.#cancelled || this.#pending?.delete(pending) !== true) return;
    this.#timers.clear(pending.timer);
    if (error === undefined) this.#hooks.ran("DataProducer", pending.producer, pending.startMs);
    else this.#hooks.failed("DataProducer", pending.producer, error);
    if (this.run()) this.#done();
  }
}
