/**
 * Min-max scoring of an engine signal where lower is better, shared by the queue and running-requests scorers. An endpoint that was never
 * scraped is unknown, not idle: it scores as the mean of those that are known, so that neither a new nor a mute endpoint draws the traffic.
 */
import type { Endpoints, EngineMetrics } from "../../contracts.ts";

/** (max − value) / (max − min); all equal, or none known, is 1 for all. */
export function scoreLowest(
  endpoints: Endpoints,
  signal: "waitingRequests" | "runningRequests",
  scores: Float64Array,
): void {
  let least = Number.POSITIVE_INFINITY;
  let most = Number.NEGATIVE_INFINITY;
  let sum = 0;
  let known = 0;
  for (const endpoint of endpoints) {
    const metrics = endpoint.metrics;
    if (!wasScraped(metrics)) continue;
    const value = metrics[signal];
    if (value < least) least = value;
    if (value > most) most = value;
    sum += value;
    known += 1;
  }
  if (most <= least || known === 0) {
    scores.fill(1);
    return;
  }
  const scale = 1 / (most - least);
  const mean = sum / known;
  let i = 0;
  for (const endpoint of endpoints) {
    const metrics = endpoint.metrics;
    scores[i++] = (most - (wasScraped(metrics) ? metrics[signal] : mean)) * scale;
  }
}

/** Mean of the signal over the endpoints that were scraped; 0 when none was. */
export function meanOf(endpoints: Endpoints, signal: "waitingRequests" | "runningRequests"): number {
  let sum = 0;
  let known = 0;
  for (const { metrics } of endpoints) {
    if (!wasScraped(metrics)) continue;
    sum += metrics[signal];
    known += 1;
  }
  return known === 0 ? 0 : sum / known;
}

export function wasScraped(metrics: EngineMetrics): boolean {
  return metrics.updatedAtMs !== Number.NEGATIVE_INFINITY;
}
