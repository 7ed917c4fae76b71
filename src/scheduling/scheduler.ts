/**
 * One scheduling decision: screeners over the whole candidate set, then the profiles that the handler asks for, then its choice of the
 * profile that names the destination. Pure and synchronous; an expected failure is a rejection, a plugin's throw never leaves here.
 */
import {
  type Cycle,
  type DecisionTrace,
  type Endpoints,
  isRejection,
  type ProfileOutcome,
  type Rejection,
  reject,
  type SchedulingPlan,
  type SchedulingResult,
} from "./contracts.ts";
import { lap, type PluginErrorSink, type PluginTimer, type PluginWatch } from "./plugin-watch.ts";
import { checkedList, runFilters, runProfile } from "./profile.ts";

/** Screens the candidates and schedules: what a caller without data producers or admitters needs. */
export function schedule(
  plan: SchedulingPlan,
  cycle: Cycle,
  candidates: Endpoints,
  trace?: DecisionTrace,
  onPluginError?: PluginErrorSink,
  timer?: PluginTimer,
): SchedulingResult {
  const screened = screen(plan, cycle, candidates, undefined, onPluginError, timer);
  if (isRejection(screened)) return { kind: "rejected", rejection: screened };
  return scheduleScreened(plan, cycle, screened, trace, onPluginError, timer);
}

/** Told what each screener left. */
export interface ScreenTrace {
  screened(screener: string, before: Endpoints, after: Endpoints): void;
}

/** Runs the screeners. They come before the data producers, so a caller with producers calls this first, then them, then scheduleScreened. */
export function screen(
  plan: SchedulingPlan,
  cycle: Cycle,
  candidates: Endpoints,
  trace?: ScreenTrace,
  onPluginError?: PluginErrorSink,
  timer?: PluginTimer,
): Endpoints | Rejection {
  if (candidates.length === 0) {
    return reject("ServiceUnavailable", "failed to find endpoint candidates for serving the request", {
      droppedReason: "rejected-no-endpoints",
      retryAfterSeconds: 1,
    });
  }
  if (plan.screeners.length === 0) return candidates;
  let startedMs = timer === undefined ? 0 : timer.now();
  let endpoints = candidates;
  for (const screener of plan.screeners) {
    const before = endpoints;
    try {
      endpoints = checkedList(screener.plugin.screen(cycle, before));
    } catch (error) {
      endpoints = before;
      onPluginError?.("Screener", screener, error);
    }
    startedMs = lap(timer, startedMs, "Screener", screener);
    trace?.screened(screener.name, before, endpoints);
    if (endpoints.length === 0) {
      return reject("ServiceUnavailable", "screeners eliminated all endpoint candidates", {
        droppedReason: "rejected-no-endpoints",
        retryAfterSeconds: 1,
      });
    }
  }
  return endpoints;
}

/** Runs the profiles over candidates that were screened. */
export function scheduleScreened(
  plan: SchedulingPlan,
  cycle: Cycle,
  candidates: Endpoints,
  trace?: DecisionTrace,
  onPluginError?: PluginErrorSink,
  timer?: PluginTimer,
): SchedulingResult {
  const watch: PluginWatch = { trace, onPluginError, timer };
  const outcomes = new Map<string, ProfileOutcome>();
  const refused = runProfiles(plan, cycle, candidates, outcomes, watch);
  if (refused !== undefined) return { kind: "rejected", rejection: refused };
  if (outcomes.size === 0) return rejected(`failed to run any scheduler profile for request ${cycle.request.id}`);

  const primary = primaryProfile(plan, cycle, outcomes, watch);
  if (typeof primary !== "string") return { kind: "rejected", rejection: primary };
  const outcome = outcomes.get(primary);
  if (outcome === undefined) return rejected(`the profile handler chose '${primary}', which did not run`);
  switch (outcome.kind) {
    case "picked":
      return { kind: "scheduled", primary, destinations: outcome.endpoints, outcomes };
    case "no-endpoints":
      // Filters that empty a set which was not empty mean a busy pool, not a broken one: 429 as for any lack of capacity.
      return {
        kind: "rejected",
        rejection: reject("ResourceExhausted", "no endpoints available for the given request", {
          droppedReason: "rejected-saturated",
          retryAfterSeconds: 1,
        }),
      };
    default:
      return outcome satisfies never;
  }
}

/** What the filters of one profile leave of the candidates; all of them when there is no such profile. */
export function filterByProfile(
  plan: SchedulingPlan,
  name: string,
  cycle: Cycle,
  candidates: Endpoints,
  onPluginError?: PluginErrorSink,
  timer?: PluginTimer,
): Endpoints {
  const profile = plan.profiles.get(name);
  if (profile === undefined || profile.filters.length === 0) return candidates;
  const filtered = runFilters(profile, cycle, candidates, { trace: undefined, onPluginError, timer });
  return "kind" in filtered ? noEndpoints : filtered;
}

const noEndpoints: Endpoints = Object.freeze([]);

/** Lets the handler ask for profiles until it asks for none; returns its refusal, if any. */
function runProfiles(
  plan: SchedulingPlan,
  cycle: Cycle,
  candidates: Endpoints,
  outcomes: Map<string, ProfileOutcome>,
  watch: PluginWatch,
): Rejection | undefined {
  const names = profileNames(plan);
  // A handler may run a profile again, but one that never stops asking must not hold the process.
  const mostRounds = 2 * names.length + 1;
  for (let round = 0; round < mostRounds; round++) {
    const next = nextProfiles(plan, cycle, names, outcomes, watch);
    if (isRejection(next)) return next;
    if (next.length === 0) return undefined;
    for (const name of next) {
      const profile = plan.profiles.get(name);
      if (profile === undefined) {
        watch.onPluginError?.("ProfilePicker", plan.handler, new RangeError(`no profile is named '${name}'`));
        continue;
      }
      outcomes.set(name, runProfile(profile, cycle, candidates, watch));
    }
  }
  watch.onPluginError?.("ProfilePicker", plan.handler, new RangeError(`asked for profiles ${mostRounds} times`));
  return undefined;
}

/** What the handler wants to run next; if it throws, the first profile, once. */
function nextProfiles(
  plan: SchedulingPlan,
  cycle: Cycle,
  names: readonly string[],
  outcomes: ReadonlyMap<string, ProfileOutcome>,
  watch: PluginWatch,
): readonly string[] | Rejection {
  const startedMs = watch.timer === undefined ? 0 : watch.timer.now();
  try {
    return plan.handler.plugin.nextProfiles(cycle, names, outcomes);
  } catch (error) {
    watch.onPluginError?.("ProfilePicker", plan.handler, error);
    return outcomes.size === 0 ? names.slice(0, 1) : [];
  } finally {
    lap(watch.timer, startedMs, "ProfilePicker", plan.handler);
  }
}

/** The handler's choice; if it throws, the first profile that picked. */
function primaryProfile(
  plan: SchedulingPlan,
  cycle: Cycle,
  outcomes: ReadonlyMap<string, ProfileOutcome>,
  watch: PluginWatch,
): string | Rejection {
  const startedMs = watch.timer === undefined ? 0 : watch.timer.now();
  try {
    return plan.handler.plugin.primaryProfile(cycle, outcomes);
  } catch (error) {
    watch.onPluginError?.("ProcessProfilesResults", plan.handler, error);
    let first = "";
    for (const [name, outcome] of outcomes) {
      if (outcome.kind === "picked") return name;
      if (first === "") first = name;
    }
    return first;
  } finally {
    lap(watch.timer, startedMs, "ProcessProfilesResults", plan.handler);
  }
}

/** Any failure without a status of its own is the reference's 429. */
function rejected(message: string): SchedulingResult {
  return {
    kind: "rejected",
    rejection: reject("ResourceExhausted", `failed to find target endpoint: ${message}`),
  };
}

/** By plan, which a reload replaces as a whole; a decision then allocates no list of names. */
const namesByPlan = new WeakMap<SchedulingPlan, readonly string[]>();

function profileNames(plan: SchedulingPlan): readonly string[] {
  let names = namesByPlan.get(plan);
  if (names === undefined) {
    names = [...plan.profiles.keys()];
    namesByPlan.set(plan, names);
  }
  return names;
}
