/**
 * Engine signals as far as they can be believed: fresh ones as they are, old ones faded toward the mean of the candidates, never-scraped ones at
 * the mean. So neither a mute endpoint nor a frozen one draws the traffic or is shut out by an old reading.
 */
import { type Cycle, type Endpoints, type EngineMetrics, freshness } from "../../contracts.ts";

export type Signal = "waitingRequests" | "runningRequests" | "kvCacheUsage";

/** Writes the believed signal of endpoints[i] into values[i]. Returns false, with zeros written, when no candidate was ever scraped. */
export function readSignal(cycle: Cycle, endpoints: Endpoints, signal: Signal, values: Float64Array): boolean {
  const freshFromMs = cycle.nowMs - cycle.staleAfterMs;
  let sum = 0;
  let known = 0;
  let isAllFresh = true;
  let i = 0;
  for (const { metrics } of endpoints) {
    const value = metrics[signal];
    values[i++] = value;
    if (metrics.updatedAtMs < freshFromMs) isAllFresh = false;
    if (!wasScraped(metrics)) continue;
    sum += value;
    known += 1;
  }
  if (known === 0) {
    values.fill(0, 0, i);
    return false;
  }
  if (isAllFresh) return true;
  const mean = sum / known;
  i = 0;
  for (const { metrics } of endpoints) {
    const belief = freshness(metrics, cycle.nowMs, cycle.staleAfterMs);
    values[i++] = mean + belief * (metrics[signal] - mean);
  }
  return true;
}

/** (max − value) / (max − min) over the candidates, lower being better; all equal, or none known, is 1 for all. */
export function scoreLowest(cycle: Cycle, endpoints: Endpoints, signal: Signal, scores: Float64Array): void {
  const isKnown = readSignal(cycle, endpoints, signal, scores);
  const count = endpoints.length;
  let least = Number.POSITIVE_INFINITY;
  let most = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < count; i++) {
    const value = scores[i] ?? 0;
    if (value < least) least = value;
    if (value > most) most = value;
  }
  if (!isKnown || most <= least) {
    scores.fill(1, 0, count);
    return;
  }
  const scale = 1 / (most - least);
  for (let i = 0; i < count; i++) scores[i] = (most - (scores[i] ?? 0)) * scale;
}

function wasScraped(metrics: EngineMetrics): boolean {
  return metrics.updatedAtMs !== Number.NEGATIVE_INFINITY;
}
