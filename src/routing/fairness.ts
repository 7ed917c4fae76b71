/** The flow a request belongs to: what its fairness header says, else what a header processor found, else the default flow. */
import type { InferenceRequest } from "../request/inference-request.ts";
import { controlHeader, fairnessHeader } from "./control-headers.ts";

/** A longer id is cut: the client writes it, and it is kept by queues and metrics. */
export const maxFairnessIdLength = 256;

export function routeFairness(request: InferenceRequest): void {
  const id = controlHeader(request.headers, fairnessHeader);
  if (id !== undefined && id !== "") request.fairnessId = id.slice(0, maxFairnessIdLength);
}
