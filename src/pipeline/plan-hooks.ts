/**
 * Calls the plugins of one plan so that none of them can end a request: an exception is logged once a plugin, counted every time, and
 * the plugin is skipped. Also counts who still uses the plan, so that a replaced one is closed only when nobody does.
 */
import type { Endpoints } from "../data/endpoint.ts";
import type { Assignment, EndCause, HeaderSink, RequestObserver } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import type { Usage } from "../request/usage.ts";
import { type Cycle, isRejection, type Named, type SchedulingPlan } from "../scheduling/contracts.ts";
import type { PluginErrorSink, PluginTimer } from "../scheduling/plugin-watch.ts";
import type { Logger } from "../telemetry/log.ts";
import type { ExtensionPoint, RequestMetrics } from "../telemetry/request-metrics.ts";

export interface HookDependencies {
  readonly log: Logger;
  readonly metrics: Pick<RequestMetrics, "plugin" | "pluginFailed">;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

export interface NamedPlugin {
  readonly name: string;
  readonly type: string;
}

type ObserverWith<Method extends keyof RequestObserver> = Named<
  RequestObserver & Required<Pick<RequestObserver, Method>>
>;

function observersWith<Method extends keyof RequestObserver>(
  plan: SchedulingPlan,
  method: Method,
): readonly ObserverWith<Method>[] {
  return plan.observers.filter(
    (observer): observer is ObserverWith<Method> => typeof observer.plugin[method] === "function",
  );
}

export class PlanHooks {
  readonly plan: SchedulingPlan;
  readonly #dependencies: HookDependencies;
  readonly #assigned: readonly ObserverWith<"assigned">[];
  readonly #responseHeaders: readonly ObserverWith<"responseHeaders">[];
  readonly #firstByte: readonly ObserverWith<"firstByte">[];
  readonly #ended: readonly ObserverWith<"ended">[];
  /** For the scheduler, which reports by callback. */
  readonly onPluginError: PluginErrorSink;
  readonly timer: PluginTimer;
  /** Plugins whose failure has been logged, by name. */
  readonly #logged = new Set<string>();
  #users = 0;
  #idleWaiters: (() => void)[] = [];

  constructor(plan: SchedulingPlan, dependencies: HookDependencies) {
    this.plan = plan;
    this.#dependencies = dependencies;
    this.#assigned = observersWith(plan, "assigned");
    this.#responseHeaders = observersWith(plan, "responseHeaders");
    this.#firstByte = observersWith(plan, "firstByte");
    this.#ended = observersWith(plan, "ended");
    this.onPluginError = (point, plugin, error) => this.failed(point, plugin, error);
    this.timer = {
      now: dependencies.now,
      record: (point, plugin, durationMs) => dependencies.metrics.plugin(point, plugin.type, plugin.name, durationMs),
    };
  }

  /** A decision or an exchange begins to use the plan; each retain needs one release. */
  retain(): void {
    this.#users += 1;
  }

  release(): void {
    this.#users -= 1;
    if (this.#users > 0) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const idle of waiters) idle();
  }

  /** Resolves once nobody uses the plan. */
  whenIdle(): Promise<void> {
    if (this.#users === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  /** Counts the failure of a plugin; its first one is logged. */
  failed(point: ExtensionPoint, plugin: NamedPlugin, error: unknown): void {
    this.#dependencies.metrics.pluginFailed(point, plugin.type, plugin.name);
    if (this.#logged.has(plugin.name)) return;
    this.#logged.add(plugin.name);
    this.#dependencies.log.error(
      { plugin: plugin.name, type: plugin.type, point, error },
      "a plugin failed and was skipped; its further failures are only counted",
    );
  }

  ran(point: ExtensionPoint, plugin: NamedPlugin, sinceMs: number): void {
    this.#dependencies.metrics.plugin(point, plugin.type, plugin.name, this.#dependencies.now() - sinceMs);
  }

  processHeaders(request: InferenceRequest): void {
    for (const processor of this.plan.headerProcessors) {
      const startMs = this.#dependencies.now();
      try {
        processor.plugin.processHeaders(request);
        this.ran("RequestHeader", processor, startMs);
      } catch (error) {
        this.failed("RequestHeader", processor, error);
      }
    }
  }

  /** The first refusal of an admitter. */
  admit(cycle: Cycle, candidates: Endpoints): Rejection | undefined {
    for (const admitter of this.plan.admitters) {
      const startMs = this.#dependencies.now();
      try {
        const rejection = admitter.plugin.admit(cycle, candidates);
        this.ran("Admitter", admitter, startMs);
        // A user's plugin may be plain JavaScript: what it returns is looked at once.
        if (isRejection(rejection)) return rejection;
        if (rejection !== undefined && rejection !== null) throw new TypeError("an admitter returned no rejection");
      } catch (error) {
        this.failed("Admitter", admitter, error);
      }
    }
    return undefined;
  }

  assigned(request: InferenceRequest, assignment: Assignment, upstreamHeaders: HeaderSink): void {
    for (const observer of this.#assigned) {
      const startMs = this.#dependencies.now();
      try {
        observer.plugin.assigned(request, assignment, upstreamHeaders);
        this.ran("PreRequest", observer, startMs);
      } catch (error) {
        this.failed("PreRequest", observer, error);
      }
    }
  }

  responseHeaders(
    request: InferenceRequest,
    assignment: Assignment,
    response: { readonly status: number; readonly served: string | undefined },
    clientHeaders: HeaderSink,
  ): void {
    for (const observer of this.#responseHeaders) {
      const startMs = this.#dependencies.now();
      try {
        observer.plugin.responseHeaders(request, assignment, response, clientHeaders);
        this.ran("ResponseHeader", observer, startMs);
      } catch (error) {
        this.failed("ResponseHeader", observer, error);
      }
    }
  }

  firstByte(request: InferenceRequest, assignment: Assignment, atMs: number, approximate: boolean): void {
    for (const observer of this.#firstByte) {
      try {
        observer.plugin.firstByte(request, assignment, atMs, approximate);
      } catch (error) {
        this.failed("ResponseBody", observer, error);
      }
    }
  }

  ended(
    request: InferenceRequest,
    assignment: Assignment,
    cause: EndCause,
    usage: Usage | undefined,
    atMs: number,
  ): void {
    for (const observer of this.#ended) {
      const startMs = this.#dependencies.now();
      try {
        observer.plugin.ended(request, assignment, cause, usage, atMs);
        this.ran("ResponseBody", observer, startMs);
      } catch (error) {
        this.failed("ResponseBody", observer, error);
      }
    }
  }
}
