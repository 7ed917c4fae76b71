/**
 * The pipeline: decides requests by the plan of the moment and keeps every open exchange in sight until its end. A request keeps the plan
 * it began with, so that a configuration can be replaced under load; the old plan is closed once `drained` says that nobody uses it.
 */
import type { Endpoint } from "../data/endpoint.ts";
import type { Assignment } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import type { SchedulingPlan } from "../scheduling/contracts.ts";
import type { Decision, PendingDecision, Pipeline, Subset } from "./contracts.ts";
import { Deciding, type DecidingOwner } from "./deciding.ts";
import type { PipelineDependencies } from "./dependencies.ts";
import { type ExchangeInit, type ExchangeOwner, RoutedExchange } from "./exchange.ts";
import { MemberList } from "./member-list.ts";
import { PlanHooks } from "./plan-hooks.ts";
import { noCandidates, unroutedLabels } from "./refusals.ts";
import { allowedEndpoints } from "./subset.ts";

/** What the process around a pipeline sees of it besides the front doors' contract. */
export interface RunningPipeline extends Pipeline {
  /** Exchanges whose end nobody has reported yet. */
  readonly openExchanges: number;
  /** Requests that were routed by a decision and have not ended. */
  visitOpen(visit: (request: InferenceRequest, destination: Endpoint) => void): void;
  /** Decisions under way. */
  readonly pendingDecisions: number;
  /** Exchanges that `reap` had to end: a leak of a front door each, so 0 in a healthy process. */
  readonly reapedExchanges: number;
  /** Ends every exchange that was opened more than `maxAgeMs` ago; returns how many. A backstop: its timer belongs to the caller. */
  reap(maxAgeMs: number): number;
  /** Resolves once no request uses the plan: its plugins may then be closed. */
  drained(plan: SchedulingPlan): Promise<void>;
  /** Cancels what waits and ends what is open with "shutdown". Front doors are closed before it. */
  close(): Promise<void>;
}

const bodylessAssignment = (destination: Endpoint): Assignment => ({
  destinations: [destination],
  byProfile: new Map(),
});

class PlanPipeline implements RunningPipeline, DecidingOwner, ExchangeOwner {
  readonly dependencies: PipelineDependencies;
  readonly #hooks = new WeakMap<SchedulingPlan, PlanHooks>();
  /** In the order they were opened, so that reaping stops at the first young one. */
  readonly open = new MemberList<RoutedExchange>();
  readonly #deciding = new MemberList<Deciding>();
  #reaped = 0;

  constructor(dependencies: PipelineDependencies) {
    this.dependencies = dependencies;
  }

  get openExchanges(): number {
    return this.open.size;
  }

  visitOpen(visit: (request: InferenceRequest, destination: Endpoint) => void): void {
    for (const exchange of this.open.members()) visit(exchange.request, exchange.destination);
  }

  get pendingDecisions(): number {
    return this.#deciding.size;
  }

  get reapedExchanges(): number {
    return this.#reaped;
  }

  decide(request: InferenceRequest, subset: Subset, done: (decision: Decision) => void): PendingDecision {
    this.dependencies.noteTraffic();
    const deciding = new Deciding(request, subset, this.#hooksOf(this.dependencies.plan()), this, done);
    deciding.start(this.#deciding);
    return deciding;
  }

  decideBodyless(request: InferenceRequest, subset: Subset): Decision {
    const { endpoints, filterSubset, metrics, random } = this.dependencies;
    const all = endpoints.snapshot();
    const candidates = filterSubset ? allowedEndpoints(all, subset) : all;
    const destination = candidates[Math.floor(random() * candidates.length)];
    if (destination === undefined) {
      metrics.refused(noCandidates.code, "", unroutedLabels(""));
      return { kind: "rejected", rejection: noCandidates };
    }
    const assignment = bodylessAssignment(destination);
    const exchange = new RoutedExchange({
      request,
      assignment,
      destination,
      hooks: this.#hooksOf(this.dependencies.plan()),
      owner: this,
      record: undefined,
      recording: undefined,
    });
    return { kind: "routed", destinations: assignment.destinations, setHeaders: [], scores: undefined, exchange };
  }

  refused(rejection: Rejection, model: string): void {
    this.dependencies.metrics.refused(rejection.code, model, unroutedLabels(model));
  }

  reap(maxAgeMs: number): number {
    const oldestMs = this.dependencies.now() - maxAgeMs;
    let reaped = 0;
    for (const exchange of this.open.members()) {
      if (exchange.openedAtMs > oldestMs) break;
      exchange.end({ kind: "error" });
      reaped += 1;
    }
    this.#reaped += reaped;
    if (reaped > 0) this.dependencies.log.warn({ exchanges: reaped }, "ended exchanges that nobody ended");
    return reaped;
  }

  drained(plan: SchedulingPlan): Promise<void> {
    return this.#hooks.get(plan)?.whenIdle() ?? Promise.resolve();
  }

  close(): Promise<void> {
    for (const deciding of this.#deciding.members()) deciding.cancel({ kind: "shutdown" });
    for (const exchange of this.open.members()) exchange.end({ kind: "shutdown" });
    return Promise.resolve();
  }

  now(): number {
    return this.dependencies.now();
  }

  openExchange(init: Pick<ExchangeInit, "request" | "assignment" | "hooks" | "recording">): RoutedExchange {
    const { request, assignment, hooks, recording } = init;
    const [destination] = assignment.destinations;
    if (destination === undefined) throw new RangeError("an assignment names no destination");
    const labels = {
      model: request.parsed.model,
      targetModel: request.targetModel,
      fairnessId: request.fairnessId,
      priority: request.priority,
    };
    const record = this.dependencies.metrics.started(labels, request.body.length);
    return new RoutedExchange({ request, assignment, destination, hooks, owner: this, record, recording });
  }

  #hooksOf(plan: SchedulingPlan): PlanHooks {
    let hooks = this.#hooks.get(plan);
    if (hooks === undefined) {
      hooks = new PlanHooks(plan, this.dependencies);
      this.#hooks.set(plan, hooks);
    }
    return hooks;
  }
}

export function createPipeline(dependencies: PipelineDependencies): RunningPipeline {
  return new PlanPipeline(dependencies);
}
