/** Literal fakes of everything a pipeline is given, with a clock and timers that are turned by hand. */
import type { Endpoint } from "../../../src/data/endpoint.ts";
import { endpointName, hostPortOf, noMetrics } from "../../../src/data/endpoint.ts";
import type { DataProducer, RequestObserver } from "../../../src/data/producer.ts";
import type { PipelineDependencies } from "../../../src/pipeline/dependencies.ts";
import type { Timers } from "../../../src/pipeline/production.ts";
import { InferenceRequest } from "../../../src/request/inference-request.ts";
import type { ParsedBody } from "../../../src/request/parsed-body.ts";
import type {
  Filter,
  Named,
  Picker,
  Planner,
  ProfileHandler,
  SchedulingPlan,
  Scorer,
} from "../../../src/scheduling/contracts.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import type { RequestMetrics, RequestRecord } from "../../../src/telemetry/request-metrics.ts";

export function endpoint(address: string, port = 8000, init: Partial<Endpoint> = {}): Endpoint {
  return {
    name: endpointName("default", `${address}-${port}`),
    namespace: "default",
    slot: 0,
    generation: 1,
    address,
    port,
    hostPort: hostPortOf(address, port),
    labels: new Map(),
    metrics: noMetrics,
    load: { requests: 0, tokens: 0 },
    attributes: new Map(),
    ...init,
  };
}

export const chat: ParsedBody = {
  api: "openai-chat",
  parser: "openai-parser",
  model: "llama",
  modelRange: { start: 9, end: 16 },
  stream: false,
  maxOutputTokens: undefined,
  user: undefined,
  cacheSalt: undefined,
  nvextRange: undefined,
  prompt: { kind: "opaque" },
  readsResponse: true,
};

export function request(
  init: { readonly headers?: Readonly<Record<string, string>>; readonly parsed?: Partial<ParsedBody> } = {},
): InferenceRequest {
  return new InferenceRequest({
    id: "r1",
    method: "POST",
    path: "/v1/chat/completions",
    headers: new Map(Object.entries(init.headers ?? {})),
    body: Buffer.from('{"model":"llama"}'),
    parsed: { ...chat, ...init.parsed },
    receivedAtMs: 0,
  });
}

export function named<Role>(name: string, plugin: Role): Named<Role> {
  return { name, type: `${name}-type`, plugin };
}

const singleProfile: ProfileHandler = {
  nextProfiles: (_cycle, profiles, outcomes) => (outcomes.size === 0 ? profiles : []),
  primaryProfile: () => "default",
};
const firstOf: Picker = { pick: (_cycle, endpoints) => endpoints.slice(0, 1) };

export interface PlanParts {
  readonly filters?: readonly Named<Filter>[];
  readonly scorers?: readonly Named<Scorer>[];
  readonly producers?: readonly Named<DataProducer>[];
  readonly observers?: readonly Named<RequestObserver>[];
  readonly screeners?: SchedulingPlan["screeners"];
  readonly admitters?: SchedulingPlan["admitters"];
  readonly headerProcessors?: SchedulingPlan["headerProcessors"];
  readonly handler?: ProfileHandler;
  readonly planner?: Planner;
  readonly picker?: Picker;
}

export function plan(parts: PlanParts = {}): SchedulingPlan {
  return {
    handler: named("handler", parts.handler ?? singleProfile),
    planner: parts.planner === undefined ? undefined : named("handler", parts.planner),
    profiles: new Map([
      [
        "default",
        {
          name: "default",
          filters: parts.filters ?? [],
          scorers: (parts.scorers ?? []).map((scorer) => ({ ...scorer, weight: 1 })),
          picker: named("picker", parts.picker ?? firstOf),
        },
      ],
    ]),
    screeners: parts.screeners ?? [],
    admitters: parts.admitters ?? [],
    headerProcessors: parts.headerProcessors ?? [],
    producers: parts.producers ?? [],
    observers: parts.observers ?? [],
  };
}

/** A clock with timers: `advance` moves the time and fires what is due, in order. */
export class HandClock implements Timers {
  nowMs = 0;
  #timers: { readonly atMs: number; readonly callback: () => void }[] = [];

  get waiting(): number {
    return this.#timers.length;
  }
  set(callback: () => void, afterMs: number): unknown {
    const timer = { atMs: this.nowMs + afterMs, callback };
    this.#timers.push(timer);
    return timer;
  }
  clear(timer: unknown): void {
    this.#timers = this.#timers.filter((waiting) => waiting !== timer);
  }
  advance(ms: number): void {
    this.nowMs += ms;
    const due = this.#timers.filter((timer) => timer.atMs <= this.nowMs);
    this.#timers = this.#timers.filter((timer) => timer.atMs > this.nowMs);
    for (const timer of due) timer.callback();
  }
}

/** Metrics that write one line a call into `lines`, durations left out. */
export function recordedMetrics(lines: string[]): RequestMetrics {
  const record: RequestRecord = {
    decided: () => lines.push("decided"),
    firstByte: (_ms, streaming) => lines.push(`firstByte streaming=${streaming}`),
    interTokenLatency: (ms) => lines.push(`itl ${ms}`),
    responseProcessed: () => lines.push("responseProcessed"),
    ended: (end) => lines.push(`ended ${end.responseBytes} ${end.promptTokens}/${end.completionTokens}`),
    failed: (code) => lines.push(`failed ${code}`),
  };
  return {
    started: (labels, sizeBytes) => {
      lines.push(`started ${labels.model}>${labels.targetModel} ${labels.fairnessId} ${labels.priority} ${sizeBytes}`);
      return record;
    },
    refused: (code, model, labels) => lines.push(`refused ${code} ${model} ${labels?.targetModel ?? "-"}`),
    scheduled: (_ms, status, _model, picked) => lines.push(`scheduled ${status} ${picked?.name ?? "-"}`),
    plugin: () => {},
    pluginFailed: (point, type, name) => lines.push(`pluginFailed ${point} ${type} ${name}`),
    modelRewritten: (rewrite, model, target) => lines.push(`rewritten ${rewrite} ${model}>${target}`),
  };
}

export interface FakeWorld {
  readonly dependencies: PipelineDependencies;
  readonly clock: HandClock;
  /** What metrics were told. */
  readonly lines: string[];
  /** Messages of the errors that were logged. */
  readonly errors: string[];
  plan: SchedulingPlan;
  endpoints: readonly Endpoint[];
}

export function world(init: {
  readonly plan?: SchedulingPlan;
  readonly endpoints?: readonly Endpoint[];
  readonly dependencies?: Partial<PipelineDependencies>;
}): FakeWorld {
  const clock = new HandClock();
  const lines: string[] = [];
  const errors: string[] = [];
  const metrics = recordedMetrics(lines);
  const self: FakeWorld = {
    clock,
    lines,
    errors,
    plan: init.plan ?? plan(),
    endpoints: init.endpoints ?? [endpoint("10.0.0.1"), endpoint("10.0.0.2")],
    dependencies: {
      plan: () => self.plan,
      endpoints: { snapshot: () => self.endpoints },
      route: () => undefined,
      admission: {
        admit: (_request, _candidates, done) => {
          done(undefined);
          return undefined;
        },
      },
      metrics,
      decisions: { begin: () => undefined },
      log: { ...silentLogger, error: ({ error }) => errors.push((error as Error).message) },
      timers: clock,
      now: () => clock.nowMs,
      staleAfterMs: 2000,
      random: () => 0,
      noteTraffic: () => {},
      filterSubset: true,
      emitEndpointScores: false,
      ...init.dependencies,
    },
  };
  return self;
}
