/** What a saturation detector tells: 0 for an idle pool, 1 and above for one that should be given no more. */
import type { Endpoints } from "../data/endpoint.ts";

export interface SaturationDetector {
  /** Saturation of the endpoints together; not clamped, 1 for none at all. */
  saturation(endpoints: Endpoints, nowMs: number): number;
}

export function isSaturated(detector: SaturationDetector, endpoints: Endpoints, nowMs: number): boolean {
  return detector.saturation(endpoints, nowMs) >= 1;
}
