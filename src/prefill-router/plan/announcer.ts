/** Tells the observers what became of requests, and counts it. An observer's exception costs the request nothing. */

import type { Logger } from "../../telemetry/log.ts";
import type { PlanOutcome, PlanRefusal, PlanRequest, RouterCounters, Stage, WorkerRank } from "../contracts.ts";
import type { PlannedEvent, RouterObserver } from "./contracts.ts";

export class Announcer {
  readonly #observers: readonly RouterObserver[];
  readonly #log: Logger;
  #hasLogged = false;
  #planned = 0;
  #refused = 0;
  #cancelled = 0;
  #bypassed = 0;
  #reaped = 0;
  #reapedRemote = 0;
  #sessionsIgnored = 0;

  constructor(observers: readonly RouterObserver[], log: Logger) {
    this.#observers = observers;
    this.#log = log;
  }

  get counters(): RouterCounters {
    return {
      planned: this.#planned,
      refused: this.#refused,
      cancelled: this.#cancelled,
      bypassed: this.#bypassed,
      reaped: this.#reaped,
      reapedRemote: this.#reapedRemote,
      sessionsIgnored: this.#sessionsIgnored,
    };
  }

  get countsLostOverlap(): boolean {
    return this.#observers.some((observer) => observer.countsLostOverlap === true);
  }

  planned(event: PlannedEvent): PlanOutcome {
    this.#planned += 1;
    if (event.isBypass) this.#bypassed += 1;
    if (this.#observers.length > 0) this.#tell((observer) => observer.planned?.(event));
    return { kind: "planned", plan: event.plan };
  }

  refused(refusal: PlanRefusal, request: PlanRequest): PlanOutcome {
    this.#refused += 1;
    this.#tell((observer) => observer.refused?.(refusal, request));
    return { kind: "refused", refusal };
  }

  queued(policyClass: string): void {
    this.#tell((observer) => observer.queued?.(policyClass));
  }

  left(policyClass: string, waitedMs: number, how: "planned" | "refused" | "cancelled"): void {
    if (how === "cancelled") this.#cancelled += 1;
    this.#tell((observer) => observer.left?.(policyClass, waitedMs, how));
  }

  reaped(count: number, isRemote: boolean): void {
    if (count === 0) return;
    if (isRemote) this.#reapedRemote += count;
    else this.#reaped += count;
    this.#tell((observer) => observer.reaped?.(count, isRemote));
  }

  sessionIgnored(): void {
    this.#sessionsIgnored += 1;
  }

  sessionBound(sessionId: string, stage: Stage, rank: WorkerRank): void {
    this.#tell((observer) => observer.sessionBound?.(sessionId, stage, rank));
  }

  #tell(call: (observer: RouterObserver) => void): void {
    for (const observer of this.#observers) {
      try {
        call(observer);
      } catch (error) {
        if (!this.#hasLogged) this.#log.error({ err: error }, "an observer of the prefill router failed; logged once");
        this.#hasLogged = true;
      }
    }
  }
}
