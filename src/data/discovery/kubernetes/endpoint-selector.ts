/**
 * `--endpoint-selector`: a label selector in Kubernetes' own syntax (equality, sets, existence) in place of an InferencePool. It goes to the API
 * server as it is; what that would refuse is told at the start.
 */
import type { InferencePool } from "./inference-pool.ts";

/** As many as a pool object may have. */
export const maxTargetPorts = 8;

export function selectorPool(selector: string, targetPorts: readonly number[]): InferencePool {
  return { selector, targetPorts: [...new Set(targetPorts)], appProtocol: undefined };
}
