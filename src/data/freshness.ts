/** How far engine metrics can be believed by their age: a fade, not a cliff, so that one slow scrape does not turn a pool upside down. */
import type { EngineMetrics } from "./endpoint.ts";

/**
 * 1 up to the threshold, then halved with every further threshold of age; 0 before the first scrape. A scorer fades its score toward what
 * it would give an endpoint it knows nothing of: `neutral + freshness × (score − neutral)`. A saturation detector counts the endpoint with
 * this weight.
 */
export function freshness(metrics: EngineMetrics, nowMs: number, thresholdMs: number): number {
  const ageMs = nowMs - metrics.updatedAtMs;
  if (ageMs <= thresholdMs) return 1;
  if (ageMs === Number.POSITIVE_INFINITY || !(thresholdMs > 0)) return 0;
  return 2 ** (1 - ageMs / thresholdMs);
}
