/**
 * Runs one profile: filters in order, then every scorer, then the picker (the reference's semantics of a profile). A plugin that throws
 * is reported and skipped: a filter keeps all, a scorer gives 0, a picker is replaced by a random pick; the request goes on.
 */
import type {
  Cycle,
  Endpoint,
  Endpoints,
  Named,
  Picker,
  Profile,
  ProfileOutcome,
  WeightedScorer,
} from "./contracts.ts";
import { EndpointTotals } from "./endpoint-totals.ts";
import { lap, type PluginWatch } from "./plugin-watch.ts";

/**
 * Float64Arrays of exactly the length asked for, reused by the next profile run: scheduling is synchronous and plugins cannot start
 * another run, so one of each suffices. Up to 512 candidates (1 MiB if every count occurs) they are kept by length; above that allocated.
 */
class Scratch {
  readonly #byLength: (Float64Array | undefined)[] = [];

  zeroed(length: number): Float64Array {
    if (length > 512) return new Float64Array(length);
    let array = this.#byLength[length];
    if (array === undefined) {
      while (this.#byLength.length <= length) this.#byLength.push(undefined);
      array = new Float64Array(length);
      this.#byLength[length] = array;
    } else {
      array.fill(0);
    }
    return array;
  }
}

const totalsScratch = new Scratch();
const scoresScratch = new Scratch();

export function runProfile(profile: Profile, cycle: Cycle, candidates: Endpoints, watch: PluginWatch): ProfileOutcome {
  const { timer } = watch;
  watch.trace?.profileStarted?.(profile.name);
  const filtered = runFilters(profile, cycle, candidates, watch);
  if ("kind" in filtered) return filtered;
  const endpoints = filtered;
  // Only when the candidates were empty from the start: there is nothing to score.
  if (endpoints.length === 0) return { kind: "no-endpoints", filter: "" };

  let startedMs = timer === undefined ? 0 : timer.now();
  const totals = totalsScratch.zeroed(endpoints.length);
  for (const scorer of profile.scorers) {
    addScores(profile, scorer, cycle, endpoints, totals, watch);
    startedMs = lap(timer, startedMs, "Scorer", scorer);
  }

  const picked = pick(profile.picker, cycle, endpoints, totals, watch);
  lap(timer, startedMs, "Picker", profile.picker);
  watch.trace?.picked(profile.name, profile.picker.name, endpoints, totals, picked);
  return { kind: "picked", endpoints: picked, totals: new EndpointTotals(endpoints, totals) };
}

/** What the profile's filters leave, or the filter that left nothing. */
export function runFilters(
  profile: Profile,
  cycle: Cycle,
  candidates: Endpoints,
  { trace, onPluginError, timer }: PluginWatch,
): Endpoints | Extract<ProfileOutcome, { kind: "no-endpoints" }> {
  let startedMs = timer === undefined ? 0 : timer.now();
  let endpoints = candidates;
  for (const filter of profile.filters) {
    const before = endpoints;
    try {
      endpoints = checkedList(filter.plugin.filter(cycle, before));
    } catch (error) {
      endpoints = before;
      onPluginError?.("Filter", filter, error);
    }
    startedMs = lap(timer, startedMs, "Filter", filter);
    trace?.filtered(profile.name, filter.name, before, endpoints);
    if (endpoints.length === 0) return { kind: "no-endpoints", filter: filter.name };
  }
  return endpoints;
}

function addScores(
  profile: Profile,
  scorer: WeightedScorer,
  cycle: Cycle,
  endpoints: Endpoints,
  totals: Float64Array,
  watch: PluginWatch,
): void {
  const scores = scoresScratch.zeroed(endpoints.length);
  try {
    scorer.plugin.score(cycle, endpoints, scores);
  } catch (error) {
    scores.fill(0);
    watch.onPluginError?.("Scorer", scorer, error);
  }
  const weight = scorer.weight;
  for (let i = 0; i < scores.length; i++) {
    const raw = scores[i] ?? 0;
    // NaN > 0 is false: NaN falls to 0.
    const score = raw > 0 ? Math.min(raw, 1) : 0;
    scores[i] = score;
    totals[i] = (totals[i] ?? 0) + score * weight;
  }
  watch.trace?.scored(profile.name, scorer.name, weight, endpoints, scores);
}

function pick(
  picker: Named<Picker>,
  cycle: Cycle,
  endpoints: Endpoints,
  totals: Float64Array,
  watch: PluginWatch,
): Endpoints {
  try {
    const picked = checkedList(picker.plugin.pick(cycle, endpoints, totals));
    if (picked.length > 0) return picked;
    throw new TypeError("a picker returned no endpoint");
  } catch (error) {
    watch.onPluginError?.("Picker", picker, error);
    return [anyOf(cycle, endpoints)];
  }
}

function anyOf(cycle: Cycle, endpoints: Endpoints): Endpoint {
  const endpoint = endpoints[Math.floor(cycle.random() * endpoints.length)];
  if (endpoint === undefined) throw new RangeError("random() left [0, 1) or there was nothing to pick from");
  return endpoint;
}

/** A user's plugin may be plain JavaScript: what it returns is looked at once. */
export function checkedList(value: Endpoints): Endpoints {
  if (!Array.isArray(value)) throw new TypeError("a plugin returned something that is not a list of endpoints");
  return value;
}
