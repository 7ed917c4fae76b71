/**
 * The `dynamo-prefill-router` plugin: plans each request's prefill and decode worker, sends it to the frontend beside the decode worker with
 * the headers that bind it to both, or to a worker that is a server by itself, and keeps the books until the answer has ended.
 */
import type { EventCounters } from "../../data/kv-events/event-counters.ts";
import type { InferenceRequest } from "../../request/inference-request.ts";
import {
  type Activatable,
  type Assignment,
  AttributeKey,
  type Closable,
  type Cycle,
  type EndCause,
  type HeaderSink,
  type PendingPlanning,
  type Planner,
  type PlannerOutcome,
  type PlanOffer,
  type ProfileHandler,
  type ProfileOutcome,
  type Readiness,
  type RequestObserver,
  type Usage,
} from "../../scheduling/contracts.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { RouteTable } from "../fleet/route-table.ts";
import type { SetRuntime } from "../fleet/set-runtime.ts";
import type { IndexClient } from "../remote-index/index-client.ts";
import type { SetServing } from "../remote-index/set-serving.ts";
import { decodeProfileOf, type StageProfiles } from "./allowed-workers.ts";
import type { InflightLimit } from "./inflight-limit.ts";
import { setWorkerHeaders } from "./leaving.ts";
import type { PlanWatcher, WatchedSet } from "./plan-watcher.ts";
import { type Planned, Planning } from "./planning.ts";
import { notReady, pickerOverloaded, unknownModel } from "./refusals.ts";
import { spliceTokenData } from "./token-data-edit.ts";

/** What runs for one worker set, as metrics read it. */
export type RoutedSet = Pick<SetRuntime, "router" | "indexSize" | "ingest"> & {
  /** Undefined where no bookings are shared or marked by anybody else. */
  readonly replicas: Pick<SetRuntime["replicas"], "counters"> | undefined;
  /** Where another process keeps the index; and where this one is asked for its own. */
  readonly remoteIndex?: Pick<IndexClient, "counters"> | undefined;
  readonly serving?: Pick<SetServing, "counters"> | undefined;
  /** Undefined where none is asked. */
  readonly sharedCaches?: SetRuntime["sharedCaches"];
  readonly set: WatchedSet;
};

/** The routes with their lifetime, which is the plugin's. */
export interface OwnedRoutes extends RouteTable {
  readonly isReady: boolean;
  /** By the set's key. */
  readonly runtimes: ReadonlyMap<string, RoutedSet>;
  /** Of raw engines, whose events pass no worker of Dynamo. */
  readonly engineEvents?: Readonly<EventCounters> | undefined;
  state(): Readonly<Record<string, unknown>>;
  close(): Promise<void>;
}

export interface DynamoPrefillRouterInit {
  readonly routes: OwnedRoutes;
  /** The configuration is in force: lets the routes find their workers. */
  readonly begin: () => void;
  /** Name of the profile that runs: "decode" where there is one. */
  readonly profiles: StageProfiles;
  /** What a planned request leaves with; undefined where the destination says it all. */
  readonly binding: { readonly sendsLegacyHeaders: boolean; readonly injectsTokens: boolean } | undefined;
  readonly inflight: InflightLimit;
  readonly overloadStatus: number | undefined;
  readonly log: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** What the sidecar of a decode server reads, llm-d's for one. */
const prefillServerHeader = "x-prefiller-host-port";

const plannedKey = new AttributeKey<Planned>("dynamo-plan");
/** Up to so many workers, what they would have cost is kept with every decision; beyond, with one in so many. */
const alwaysExplained = 16;
const explainedEvery = 64;

const none: readonly string[] = Object.freeze([]);
const nothingPending: PendingPlanning = { cancel: () => undefined };

export class DynamoPrefillRouter implements Planner, ProfileHandler, RequestObserver, Activatable, Readiness, Closable {
  readonly #init: DynamoPrefillRouterInit;
  /** Hears of every planned request, for metrics. */
  watcher: PlanWatcher | undefined;
  /** Requests that were routed by load alone because their tokens could not be had. */
  #untokenized = 0;
  /** Requests for workers that are too many to explain every plan. */
  #planned = 0;

  constructor(init: DynamoPrefillRouterInit) {
    this.#init = init;
  }

  activate(): void {
    this.#init.begin();
  }

  get isReady(): boolean {
    return this.#init.routes.isReady;
  }

  /** What runs for each worker set now, by the set's key. */
  get runtimes(): ReadonlyMap<string, RoutedSet> {
    return this.#init.routes.runtimes;
  }

  /** What became of the events of raw engines; undefined where none are heard. */
  get engineEvents(): Readonly<EventCounters> | undefined {
    return this.#init.routes.engineEvents;
  }

  dumpState(): unknown {
    return { untokenized: this.#untokenized, inflight: this.#init.inflight.count, ...this.#init.routes.state() };
  }

  close(): Promise<void> {
    return this.#init.routes.close();
  }

  plan(cycle: Cycle, offer: PlanOffer, done: (outcome: PlannerOutcome) => void): PendingPlanning {
    const { request } = cycle;
    const { routes, profiles, overloadStatus, inflight } = this.#init;
    const { watcher } = this;
    const place = inflight.take();
    if (place === undefined) {
      done(pickerOverloaded);
      return nothingPending;
    }
    const found = routes.find(request.targetModel, () => cycle.random());
    if (found.kind !== "found") {
      place.leave();
      done(found.kind === "not-ready" ? notReady(found.reason) : unknownModel(request.targetModel));
      return nothingPending;
    }
    const { route } = found;
    const isSmall = offer.candidates.length <= alwaysExplained;
    return new Planning({
      request,
      offer,
      route,
      place,
      profiles,
      overloadStatus,
      isExplained: offer.isRecorded === true && (isSmall || this.#planned++ % explainedEvery === 0),
      untokenized: (reason) => {
        watcher?.untokenized(route);
        this.#noteUntokenized(reason);
      },
      now: this.#init.now,
      timed: (hashingMs, totalMs) => watcher?.timed(hashingMs, totalMs),
      planned: (planned) => request.setAttribute(plannedKey, planned),
      refused: (refusal) => watcher?.refused(route, request.parsed.api, refusal),
      done,
    }).start();
  }

  /** One profile runs, over the one endpoint that is planned: its filters still have a say, its scorers only a voice in the log. */
  nextProfiles(
    _cycle: Cycle,
    profiles: readonly string[],
    outcomes: ReadonlyMap<string, ProfileOutcome>,
  ): readonly string[] {
    if (outcomes.size > 0) return none;
    return [decodeProfileOf(profiles, this.#init.profiles)];
  }

  primaryProfile(_cycle: Cycle, outcomes: ReadonlyMap<string, ProfileOutcome>): string {
    for (const name of outcomes.keys()) return name;
    return "";
  }

  assigned(request: InferenceRequest, _assignment: Assignment, upstreamHeaders: HeaderSink): void {
    const planned = request.attribute(plannedKey);
    if (planned === undefined) return;
    const { binding } = this.#init;
    if (planned.prefillServer !== undefined) upstreamHeaders.set(prefillServerHeader, planned.prefillServer);
    if (binding === undefined) return;
    setWorkerHeaders(planned.plan, upstreamHeaders, binding.sendsLegacyHeaders);
    spliceTokenData(request, binding.injectsTokens ? planned.tokenData : undefined);
  }

  responseHeaders(
    request: InferenceRequest,
    { destinations }: Assignment,
    { status, served }: { readonly status: number; readonly served: string | undefined },
  ): void {
    const planned = request.attribute(plannedKey);
    if (planned === undefined) return;
    if (served !== undefined && served !== destinations[0]?.hostPort) this.watcher?.misplaced(planned.route);
    // 400 is a frontend's answer to a worker that has left, and to a client's own mistakes; these three are nobody else's.
    if (status >= 500 || (status === 400 && this.#init.binding !== undefined)) {
      this.#suspect(planned, status === 502 || status === 503 || status === 504);
    }
  }

  firstByte(request: InferenceRequest, _assignment: Assignment, atMs: number): void {
    const planned = request.attribute(plannedKey);
    if (planned === undefined) return;
    planned.plan.booking.prefillCompleted();
    planned.firstByteAtMs = atMs;
    this.watcher?.firstByte(planned.route, atMs - request.receivedAtMs);
  }

  ended(
    request: InferenceRequest,
    _assignment: Assignment,
    cause: EndCause,
    usage: Usage | undefined,
    atMs: number,
  ): void {
    const planned = request.attribute(plannedKey);
    if (planned === undefined) return;
    planned.plan.booking.free();
    planned.place.leave();
    const { route, plan, firstByteAtMs } = planned;
    this.watcher?.ended(route, plan.mode, usage, firstByteAtMs === undefined ? undefined : atMs - firstByteAtMs);
    if (cause.kind === "error") this.#suspect(planned, false);
  }

  /** Logged ever more rarely: a tokenizer that is gone fails for every request. */
  #noteUntokenized(reason: string): void {
    const count = ++this.#untokenized;
    if ((count & (count - 1)) === 0) {
      this.#init.log.warn({ reason, count }, "prompts cannot be tokenized: such requests are routed by load alone");
    }
  }

  #suspect({ plan, route }: Planned, isCertain: boolean): void {
    const { routes } = this.#init;
    routes.suspect(route, plan.decode.worker.id, isCertain);
    if (plan.mode === "disaggregated") routes.suspect(route, plan.prefill.worker.id, isCertain);
  }
}
