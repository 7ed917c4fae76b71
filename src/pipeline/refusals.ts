/** The pipeline's own refusals; the wording of those the reference has is the reference's. */
import { reject } from "../request/rejection.ts";
import type { RequestLabels } from "../telemetry/request-metrics.ts";

export const noCandidates = reject("ServiceUnavailable", "failed to find endpoint candidates for serving the request", {
  droppedReason: "rejected-no-endpoints",
  retryAfterSeconds: 1,
});
/** Longest model name taken, in UTF-16 units: a path on disk fits, and what is kept by model (metrics, the decision log) stays bounded. */
export const maxModelLength = 4096;
export const modelTooLong = reject("BadRequest", `model is longer than ${maxModelLength} characters`, {
  param: "model",
});
export const prefixNotHeld = reject("PreconditionFailed", "no decode worker has the requested KV cache");
export const internalError = reject("Internal", "the request could not be routed because of an internal error");

/** A refusal before routing counts where the reference counts it: in the default flow, with priority 0. */
export function unroutedLabels(model: string): RequestLabels {
  return { model, targetModel: model, fairnessId: "default-flow", priority: 0 };
}
