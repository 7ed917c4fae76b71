/**
 * Whether a request may go on now. The first form answers at once: sheddable requests (negative priority) are refused while the pool is
 * saturated, all others pass. A queueing form implements the same contract and answers later.
 */
import type { Endpoints } from "../data/endpoint.ts";
import type { EndCause } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import { type Rejection, reject } from "../request/rejection.ts";
import { isSaturated, type SaturationDetector } from "./saturation.ts";

/** A request that waits. */
export interface WaitingAdmission {
  /** Leaves the queue; `done` is not called after it. Idempotent, a no-op once answered. */
  cancel(cause: EndCause): void;
}

export interface Admission {
  /**
   * Calls done exactly once, with the refusal or undefined to let the request go on, unless cancelled first. Returns undefined when done was
   * called before it returned. `candidates` are those at the time of the call: a caller that waited looks them up again.
   */
  admit(
    request: InferenceRequest,
    candidates: Endpoints,
    done: (rejection: Rejection | undefined) => void,
  ): WaitingAdmission | undefined;
}

const saturated = reject("ResourceExhausted", "system saturated, sheddable request dropped", { retryAfterSeconds: 1 });

/** Legacy admission of the reference (pkg/epp/requestcontrol/admission.go): no queue, no drop reason. */
export function createSheddingAdmission(deps: {
  /** Of the current configuration. */
  detector(): SaturationDetector;
  /** Monotonic milliseconds. */
  now(): number;
}): Admission {
  return {
    admit(request, candidates, done) {
      const sheds = request.priority < 0 && isSaturated(deps.detector(), candidates, deps.now());
      done(sheds ? saturated : undefined);
      return undefined;
    },
  };
}
