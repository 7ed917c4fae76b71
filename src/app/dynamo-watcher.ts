/**
 * Planned requests → Dynamo's metric families. The series of a worker set are looked up once and kept, so a request costs a map lookup and
 * plain number writes; they go when the set has left.
 */
import type { Plan, PlanRefusal, QueueLimit } from "../prefill-router/contracts.ts";
import type { PlannedEvent, RouterObserver } from "../prefill-router/plan/contracts.ts";
import type { PlanWatcher, WatchedRoute, WatchedSet } from "../prefill-router/plugin/plan-watcher.ts";
import { blocksBeyond } from "../prefill-router/stage/cost.ts";
import type { Usage } from "../scheduling/contracts.ts";
import type { DynamoFamilies } from "../telemetry/dynamo-catalogue.ts";
import type { Family, Series } from "../telemetry/families.ts";

/** Dynamo's `phase` of the leg that computes the prompt, and of the other. */
type Phase = "aggregated" | "prefill" | "decode";

/** Worker sets whose series are kept after they have left: one that flaps goes on counting where it was. */
const keptSets = 64;

const limitReasons: Readonly<Record<QueueLimit["kind"], string>> = {
  requests: "request_limit",
  raw_isl_tokens: "raw_isl_token_limit",
  cached_tokens: "cached_token_limit",
};

/** Dynamo's name of the endpoint that a parser stands for. */
const endpointNames: Readonly<Record<string, string>> = {
  "openai-chat": "chat_completions",
  "openai-completions": "completions",
  "openai-embeddings": "embeddings",
  "openai-responses": "responses",
};

interface PhaseSeries {
  readonly inputTokens: Series;
  readonly bestCachedTokens: Series;
  readonly selectedCachedTokens: Series;
  readonly reusedTokens: Series;
}

/** Every series of one worker set that a request writes. */
class SetSeries {
  readonly requestsStarted: Series;
  readonly requests: Series;
  readonly firstToken: Series;
  readonly interToken: Series;
  readonly outputTokens: Series;
  readonly hitRate: Series;
  readonly cachedTokens: Series;
  readonly #families: DynamoFamilies;
  readonly #model: string;
  readonly #component: readonly [namespace: string, component: string];
  readonly #phases = new Map<Phase, PhaseSeries>();
  readonly #received = new Map<string, Series>();

  constructor(families: DynamoFamilies, set: WatchedSet) {
    this.#families = families;
    this.#model = set.model;
    this.#component = [set.namespace, componentOf(set)];
    this.requestsStarted = families.requestsStarted.series(...this.#component);
    this.requests = families.requests.series(...this.#component);
    this.firstToken = families.firstToken.series(...this.#component);
    this.interToken = families.interToken.series(...this.#component);
    this.outputTokens = families.outputTokens.series(...this.#component);
    this.hitRate = families.hitRate.series(...this.#component);
    this.cachedTokens = families.cachedTokens.series(set.model);
  }

  phase(phase: Phase): PhaseSeries {
    let series = this.#phases.get(phase);
    if (series === undefined) {
      const labels = [...this.#component, phase, this.#model];
      series = {
        inputTokens: this.#families.inputTokens.series(...labels),
        bestCachedTokens: this.#families.bestCachedTokens.series(...labels),
        selectedCachedTokens: this.#families.selectedCachedTokens.series(...labels),
        reusedTokens: this.#families.reusedTokens.series(...labels),
      };
      this.#phases.set(phase, series);
    }
    return series;
  }

  /** Blocks of a prompt: those in a shared cache, and those of them beyond what the chosen rank has. */
  shared(blocks: number, hits: number, beyond: number): void {
    if (blocks > 0) this.#families.sharedHitRate.series(...this.#component).observe(hits / blocks);
    this.#families.sharedBeyond.series(...this.#component).observe(beyond);
  }

  lost(blocks: number): void {
    this.#families.nonMaxOverlap.series(...this.#component, "prefill").add(1);
    this.#families.overlapLost.series(...this.#component, "prefill").observe(blocks);
  }

  received(workerType: string, policyClass: string): void {
    let series = this.#received.get(policyClass);
    // A set that grows or loses its prefill workers changes its type.
    if (series === undefined || series.labelValues[1] !== workerType) {
      series = this.#families.received.series(this.#model, workerType, policyClass);
      this.#received.set(policyClass, series);
    }
    series.add(1);
  }
}

export class DynamoWatcher implements PlanWatcher {
  readonly #families: DynamoFamilies;
  readonly #sets = new Map<string, SetSeries>();

  constructor(families: DynamoFamilies) {
    this.#families = families;
  }

  observerOf(set: WatchedSet): RouterObserver {
    const { model } = set;
    const { backpressure, queueWait, reaped, sharedQuery } = this.#families;
    return {
      countsLostOverlap: true,
      planned: (event) => this.#planned(this.#seriesOf(set), event, set),
      refused: (refusal) => {
        if (refusal.kind !== "queue-full") return;
        this.#seriesOf(set).received(refusal.stage, refusal.policyClass);
        if (refusal.limit === undefined) return;
        backpressure.series(model, refusal.stage, refusal.policyClass, limitReasons[refusal.limit.kind]).add(1);
      },
      sharedCacheAsked: (ms) => sharedQuery.series().observe(ms),
      left: (policyClass, waitedMs) => queueWait.series(model, policyClass).observe(waitedMs / 1000),
      reaped: (count, isRemote) => reaped.series(model, set.namespace, isRemote ? "replica" : "own").add(count),
    };
  }

  refused({ model }: WatchedRoute, api: string, { kind }: PlanRefusal): void {
    this.#families.rejections.series(model, kind).add(1);
    if (kind !== "overloaded" && kind !== "queue-full") return;
    this.#families.modelRejections.series(model, endpointNames[api] ?? api).add(1);
  }

  untokenized({ model }: WatchedRoute): void {
    this.#families.untokenized.series(model).add(1);
  }

  timed(hashingMs: number, totalMs: number): void {
    this.#families.hashing.series().observe(hashingMs);
    this.#families.total.series().observe(totalMs);
  }

  misplaced({ model }: WatchedRoute): void {
    this.#families.endpointMismatch.series(model).add(1);
  }

  firstByte({ key }: WatchedRoute, sinceStartMs: number): void {
    this.#sets.get(key)?.firstToken.observe(sinceStartMs / 1000);
  }

  ended({ key }: WatchedRoute, mode: Plan["mode"], usage: Usage | undefined, answeringMs: number | undefined): void {
    const series = this.#sets.get(key);
    if (series === undefined) return;
    series.requests.add(1);
    if (usage === undefined) return;
    const { cachedTokens, completionTokens } = usage;
    if (cachedTokens !== undefined) {
      series.cachedTokens.observe(cachedTokens);
      series.phase(mode === "aggregated" ? "aggregated" : "prefill").reusedTokens.add(cachedTokens);
    }
    if (completionTokens === undefined) return;
    series.outputTokens.observe(completionTokens);
    if (completionTokens > 1 && answeringMs !== undefined) {
      series.interToken.observe(answeringMs / 1000 / (completionTokens - 1));
    }
  }

  /** Forgets the series of sets that have left, once there are many: each generation of a rolling update is a set of its own. */
  keepOnly(living: ReadonlySet<string>, namespaces: ReadonlySet<string>): void {
    if (this.#sets.size <= living.size + keptSets) return;
    for (const key of this.#sets.keys()) if (!living.has(key)) this.#sets.delete(key);
    for (const family of Object.values(this.#families) as readonly Family[]) {
      const at = family.spec.labels.indexOf("dynamo_namespace");
      if (at >= 0) family.prune((labelValues) => namespaces.has(labelValues[at] ?? ""));
    }
  }

  #planned(
    series: SetSeries,
    { request, plan, policyClass, hitTokens, lostTokens, sharedHits }: PlannedEvent,
    set: WatchedSet,
  ): void {
    const { isl } = request;
    const isDisaggregated = plan.mode === "disaggregated";
    const computing = series.phase(isDisaggregated ? "prefill" : "aggregated");
    series.requestsStarted.add(1);
    series.received(isDisaggregated ? "prefill" : "decode", policyClass);
    computing.inputTokens.observe(isl);
    computing.selectedCachedTokens.add(hitTokens);
    computing.bestCachedTokens.add(hitTokens + lostTokens);
    if (isl > 0) series.hitRate.observe(Math.min(1, hitTokens / isl));
    const blockSize = set.card?.kvCacheBlockSize ?? 0;
    if (sharedHits !== undefined && blockSize > 0) {
      const held = Math.round(hitTokens / blockSize);
      series.shared(Math.floor(isl / blockSize), blocksBeyond(sharedHits, 0), blocksBeyond(sharedHits, held));
    }
    if (!isDisaggregated) return;
    series.phase("decode").inputTokens.observe(isl);
    if (lostTokens > 0 && blockSize > 0) series.lost(lostTokens / blockSize);
  }

  #seriesOf(set: WatchedSet): SetSeries {
    let series = this.#sets.get(set.key);
    if (series === undefined) {
      series = new SetSeries(this.#families, set);
      this.#sets.set(set.key, series);
    }
    return series;
  }
}

/** The component whose workers answer requests: Dynamo's routers go by its name. */
export function componentOf({ workers }: WatchedSet): string {
  let any = "";
  for (const { role, instance } of workers.values()) {
    if (role !== "prefill") return instance.component;
    any = instance.component;
  }
  return any;
}
