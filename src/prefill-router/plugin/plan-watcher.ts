/**
 * Who hears of planned requests, for metrics: told on the way of a request, so cheap and without exceptions. It comes when the process is
 * composed, which may be after the first worker sets.
 */
import type { WorkerSet } from "../../dynamo/worker-sets/worker-set.ts";
import type { Usage } from "../../scheduling/contracts.ts";
import type { Plan, PlanRefusal } from "../contracts.ts";
import type { SetRoute } from "../fleet/route-table.ts";
import type { RouterObserver } from "../plan/contracts.ts";

/** What is shown of a worker set. */
export type WatchedSet = Pick<WorkerSet, "key" | "model" | "namespace" | "workers" | "card">;

export type WatchedRoute = Pick<SetRoute, "key" | "model" | "namespace">;

export interface PlanWatcher {
  /** Hears what the router of this set decides. */
  observerOf(set: WatchedSet): RouterObserver;
  /** `api`: the parser that read the request, e.g. "openai-chat". */
  refused(route: WatchedRoute, api: string, refusal: PlanRefusal): void;
  /** Routed by load alone, since its tokens could not be had. */
  untokenized(route: WatchedRoute): void;
  /** Time of a prompt's hashes, and from their begin to the plan or its refusal, waiting included. */
  timed(hashingMs: number, totalMs: number): void;
  /** The gateway says that another endpoint served it. */
  misplaced(route: WatchedRoute): void;
  firstByte(route: WatchedRoute, sinceStartMs: number): void;
  /** `answeringMs`: from the first byte to the end; undefined where there was no first byte. */
  ended(route: WatchedRoute, mode: Plan["mode"], usage: Usage | undefined, answeringMs: number | undefined): void;
}

/** Tells the watcher there is, once there is one. */
export function relay(set: WatchedSet, watcher: () => PlanWatcher | undefined): RouterObserver {
  let observer: RouterObserver | undefined;
  const current = (): RouterObserver | undefined => {
    observer ??= watcher()?.observerOf(set);
    return observer;
  };
  return {
    countsLostOverlap: true,
    planned: (event) => current()?.planned?.(event),
    refused: (refusal, request) => current()?.refused?.(refusal, request),
    left: (policyClass, waitedMs, how) => current()?.left?.(policyClass, waitedMs, how),
    reaped: (count, isRemote) => current()?.reaped?.(count, isRemote),
    sharedCacheAsked: (ms) => current()?.sharedCacheAsked?.(ms),
  };
}
