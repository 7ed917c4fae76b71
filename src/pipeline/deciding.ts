/**
 * One decision on its way: route, candidates, admission, screeners, producers, admitters, plan, schedule, assign. It runs through without a
 * promise unless admission, a producer or a planner waits. Leaving early gives back places in queues and what a planner booked; everything
 * else is booked in `assigned`.
 */
import type { Endpoints } from "../data/endpoint.ts";
import type { Assignment, EndCause } from "../data/producer.ts";
import type { WaitingAdmission } from "../flow-control/admission.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import {
  type Cycle,
  isRejection,
  type Named,
  type PendingPlanning,
  type Planner,
  type PlannerOutcome,
  type PlanOffer,
} from "../scheduling/contracts.ts";
import { filterByProfile, scheduleScreened, screen } from "../scheduling/scheduler.ts";
import { prefersIfAvailable, prefixHolders } from "./conditional-decode.ts";
import type { Decision, PendingDecision, Subset } from "./contracts.ts";
import type { DecisionRecording } from "./decision-sink.ts";
import type { PipelineDependencies } from "./dependencies.ts";
import { errorCodeOf, type RoutedExchange } from "./exchange.ts";
import { HeaderList } from "./header-list.ts";
import type { MemberList, Place } from "./member-list.ts";
import { pickedByProfile, type Scheduled, scoresOf } from "./outcome.ts";
import type { PlanHooks } from "./plan-hooks.ts";
import { Production } from "./production.ts";
import {
  internalError,
  maxModelLength,
  modelTooLong,
  noCandidates,
  prefixNotHeld,
  unroutedLabels,
} from "./refusals.ts";
import { allowedEndpoints } from "./subset.ts";

/** What a decision needs of the pipeline that made it. */
export interface DecidingOwner {
  readonly dependencies: PipelineDependencies;
  openExchange(init: {
    readonly request: InferenceRequest;
    readonly assignment: Assignment;
    readonly hooks: PlanHooks;
    readonly recording: DecisionRecording | undefined;
  }): RoutedExchange;
}

export class Deciding implements PendingDecision {
  readonly #request: InferenceRequest;
  readonly #subset: Subset;
  readonly #hooks: PlanHooks;
  readonly #owner: DecidingOwner;
  readonly #dependencies: PipelineDependencies;
  #done: ((decision: Decision) => void) | undefined;
  #place: Place<Deciding> | undefined;
  #isRouted = false;
  #recording: DecisionRecording | undefined;
  #waiting: WaitingAdmission | undefined;
  #production: Production | undefined;
  #planning: PendingPlanning | undefined;
  #isFollowing = false;
  /** Booked, and not yet an exchange's. */
  #plan: Extract<PlannerOutcome, { kind: "planned" }> | undefined;

  constructor(
    request: InferenceRequest,
    subset: Subset,
    hooks: PlanHooks,
    owner: DecidingOwner,
    done: (decision: Decision) => void,
  ) {
    this.#request = request;
    this.#subset = subset;
    this.#hooks = hooks;
    this.#owner = owner;
    this.#dependencies = owner.dependencies;
    this.#done = done;
    hooks.retain();
  }

  /** Among `undecided` for as long as it waits. */
  start(undecided: MemberList<Deciding>): void {
    this.#guarded(() => this.#route());
    if (this.#done !== undefined) this.#place = undecided.enter(this);
  }

  cancel(cause: EndCause): void {
    if (this.#done === undefined) return;
    this.#done = undefined;
    this.#waiting?.cancel(cause);
    this.#production?.cancel();
    this.#planning?.cancel();
    this.#countCancelled(cause);
    this.#recording?.ended(cause, undefined, this.#elapsedMs());
    this.#settled();
  }

  #route(): void {
    if (this.#request.parsed.model.length > maxModelLength) {
      this.#reject(modelTooLong);
      return;
    }
    this.#hooks.processHeaders(this.#request);
    const rejection = this.#dependencies.route(this.#request);
    this.#isRouted = true;
    this.#recording = this.#dependencies.decisions.begin(this.#request);
    if (rejection !== undefined) {
      this.#reject(rejection);
      return;
    }
    const candidates = this.#candidates();
    this.#recording?.candidates(candidates);
    if (candidates.length === 0) {
      this.#reject(noCandidates);
      return;
    }
    this.#admission(candidates);
  }

  #candidates(): Endpoints {
    const endpoints = this.#dependencies.endpoints.snapshot();
    return this.#dependencies.filterSubset ? allowedEndpoints(endpoints, this.#subset) : endpoints;
  }

  #admission(candidates: Endpoints): void {
    let isSync = true;
    const waiting = this.#dependencies.admission.admit(this.#request, candidates, (rejection) => {
      if (this.#done === undefined) return;
      this.#waiting = undefined;
      const admitted = (): void => {
        if (rejection !== undefined) this.#reject(rejection);
        else this.#produce(isSync ? candidates : this.#candidates());
      };
      if (isSync) admitted();
      else this.#guarded(admitted);
    });
    isSync = false;
    if (this.#done !== undefined && this.#production === undefined) this.#waiting = waiting;
  }

  #produce(candidates: Endpoints): void {
    const cycle = this.#cycle();
    const screened = screen(
      this.#hooks.plan,
      cycle,
      candidates,
      this.#recording,
      this.#hooks.onPluginError,
      this.#hooks.timer,
    );
    if (isRejection(screened)) {
      this.#reject(screened);
      return;
    }
    if (this.#hooks.plan.producers.length === 0) {
      this.#schedule(screened);
      return;
    }
    this.#production = new Production({
      hooks: this.#hooks,
      timers: this.#dependencies.timers,
      now: this.#dependencies.now,
      request: this.#request,
      candidates: screened,
      done: () => this.#guarded(() => this.#schedule(this.#stillThere(screened))),
    });
    if (this.#production.run()) this.#schedule(screened);
  }

  /** The same endpoints as they are now, without those that left while producers were waited for. */
  #stillThere(screened: Endpoints): Endpoints {
    const generations = new Map<string, number>();
    for (const { name, generation } of screened) generations.set(name, generation);
    return this.#candidates().filter(({ name, generation }) => generations.get(name) === generation);
  }

  #schedule(candidates: Endpoints): void {
    if (candidates.length === 0) {
      this.#reject(noCandidates);
      return;
    }
    const plan = this.#hooks.plan;
    const eligible = prefersIfAvailable(this.#request) ? prefixHolders(this.#request, plan, candidates) : candidates;
    if (eligible.length === 0) {
      this.#reject(prefixNotHeld);
      return;
    }
    const cycle = this.#cycle();
    const denial = this.#hooks.admit(cycle, eligible);
    if (denial !== undefined) {
      this.#reject({ ...denial, message: `request cannot be admitted: ${denial.message}` });
      return;
    }
    if (plan.planner === undefined) this.#runProfiles(cycle, eligible);
    else this.#planned(plan.planner, cycle, eligible);
  }

  /** Lets the planner choose among the candidates; the profiles then run over what it chose. */
  #planned(planner: Named<Planner>, cycle: Cycle, candidates: Endpoints): void {
    const offer = this.#offer(cycle, candidates);
    const startMs = this.#dependencies.now();
    let isSync = true;
    const planning = planner.plugin.plan(cycle, offer, (outcome) => {
      this.#planning = undefined;
      this.#hooks.ran("ProfilePicker", planner, startMs);
      const go = (): void => this.#follow(planner, outcome);
      if (this.#done === undefined) abandon(outcome);
      else if (isSync) go();
      else this.#guarded(go);
    });
    isSync = false;
    if (this.#done !== undefined && !this.#isFollowing) this.#planning = planning;
  }

  #offer(cycle: Cycle, candidates: Endpoints): PlanOffer {
    const { plan, onPluginError, timer } = this.#hooks;
    const { endpoints } = this.#dependencies;
    const snapshot = endpoints.snapshot();
    const offer: PlanOffer = {
      candidates,
      profiles: [...plan.profiles.keys()],
      isRecorded: this.#recording !== undefined,
      eligible: (profile) => filterByProfile(plan, profile, cycle, candidates, onPluginError, timer),
      latest: () => {
        if (endpoints.snapshot() === snapshot) return offer;
        const screened = screen(plan, cycle, this.#candidates(), undefined, onPluginError, timer);
        return isRejection(screened) ? offer : this.#offer(cycle, screened);
      },
    };
    return offer;
  }

  #follow(planner: Named<Planner>, outcome: PlannerOutcome): void {
    this.#isFollowing = true;
    if (isRejection(outcome)) {
      this.#reject(outcome);
      return;
    }
    this.#plan = outcome;
    if (outcome.explain !== undefined) this.#recording?.planned?.(planner.name, outcome.explain);
    // What has left while the request waited is not sent to, however good the plan was.
    const destinations = this.#stillThere(outcome.destinations);
    if (destinations.length === 0) this.#reject(noCandidates);
    else this.#runProfiles(this.#cycle(), destinations);
  }

  #runProfiles(cycle: Cycle, candidates: Endpoints): void {
    const { plan, onPluginError, timer } = this.#hooks;
    const result = scheduleScreened(plan, cycle, candidates, this.#recording, onPluginError, timer);
    const durationMs = this.#dependencies.now() - cycle.nowMs;
    const destination = result.kind === "scheduled" ? result.destinations[0] : undefined;
    const status = destination === undefined ? "failure" : "success";
    this.#dependencies.metrics.scheduled(durationMs, status, this.#request.targetModel, destination);
    if (result.kind === "rejected") this.#reject(result.rejection);
    else this.#assign(result);
  }

  #assign(result: Scheduled): void {
    const assignment: Assignment = {
      destinations: result.destinations,
      byProfile: pickedByProfile(result.outcomes),
    };
    const exchange = this.#owner.openExchange({
      request: this.#request,
      assignment,
      hooks: this.#hooks,
      recording: this.#recording,
    });
    try {
      const upstreamHeaders = new HeaderList();
      this.#hooks.assigned(this.#request, assignment, upstreamHeaders);
      // From here on the exchange's end gives back what was booked.
      this.#plan = undefined;
      exchange.decided();
      this.#logScheduled(result);
      this.#recording?.scheduled(result, this.#elapsedMs());
      this.#finish({
        kind: "routed",
        destinations: result.destinations,
        setHeaders: upstreamHeaders.toHeaders(),
        scores: this.#dependencies.emitEndpointScores ? scoresOf(result) : undefined,
        exchange,
      });
    } catch (error) {
      // Nobody else knows of the exchange yet; a no-op where the front door has ended it.
      exchange.end({ kind: "error" });
      throw error;
    }
  }

  #logScheduled(result: Scheduled): void {
    const { log } = this.#dependencies;
    if (!log.isLevelEnabled("debug")) return;
    const { id, targetModel } = this.#request;
    const fields = { requestId: id, targetModel, endpoint: result.destinations[0]?.name, profile: result.primary };
    log.debug({ ...fields, durationMs: this.#elapsedMs() }, "picked an endpoint");
  }

  #reject(rejection: Rejection): void {
    this.#countRefused(rejection.code);
    this.#recording?.rejected(rejection, this.#elapsedMs());
    const { log } = this.#dependencies;
    if (log.isLevelEnabled("debug")) {
      log.debug({ requestId: this.#request.id, code: rejection.code, reason: rejection.message }, "refused a request");
    }
    this.#finish({ kind: "rejected", rejection });
  }

  #finish(decision: Decision): void {
    const done = this.#done;
    this.#done = undefined;
    this.#settled();
    done?.(decision);
  }

  #settled(): void {
    const plan = this.#plan;
    this.#plan = undefined;
    plan?.abandoned();
    this.#hooks.release();
    this.#place?.leave();
  }

  /** Outcomes are values; what is thrown here is a fault of ours, which must end this request and no other. */
  #guarded(step: () => void): void {
    if (this.#done === undefined) return;
    try {
      step();
    } catch (error) {
      this.#dependencies.log.error({ requestId: this.#request.id, error }, "a decision failed");
      if (this.#done === undefined) return;
      this.#production?.cancel();
      this.#planning?.cancel();
      this.#finish({ kind: "rejected", rejection: internalError });
      this.#countRefused(internalError.code);
    }
  }

  /** A request that left while it waited is an error of somebody, but for a client that went away. */
  #countCancelled(cause: EndCause): void {
    const code = errorCodeOf(cause) ?? (cause.kind === "shutdown" ? "ServiceUnavailable" : undefined);
    if (code !== undefined) this.#countRefused(code);
  }

  /** Before routing nothing of the request is fit to be a label. */
  #countRefused(code: string): void {
    const { metrics } = this.#dependencies;
    if (!this.#isRouted) {
      metrics.refused(code, "", unroutedLabels(""));
      return;
    }
    const { parsed, targetModel, fairnessId, priority } = this.#request;
    metrics.refused(code, parsed.model, { model: parsed.model, targetModel, fairnessId, priority });
  }

  #cycle(): Cycle {
    const { now, staleAfterMs, random } = this.#dependencies;
    return { request: this.#request, nowMs: now(), staleAfterMs, random };
  }

  #elapsedMs(): number {
    return this.#dependencies.now() - this.#request.receivedAtMs;
  }
}

function abandon(outcome: PlannerOutcome): void {
  if (!isRejection(outcome)) outcome.abandoned();
}
