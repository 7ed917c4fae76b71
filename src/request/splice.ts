/** The body that leaves: the client's bytes, but for the model name where routing changed it. Nothing is copied. */
import type { InferenceRequest } from "./inference-request.ts";

/** The parts to send, one after the other: views of the body around the new name, or the body itself when the model is unchanged. */
export function outgoingBody(request: InferenceRequest): readonly Buffer[] {
  const { body, parsed, targetModel } = request;
  const last = parsed.modelRange;
  if (last === undefined || targetModel === parsed.model) return [body];
  const name = Buffer.from(JSON.stringify(targetModel));
  const parts: Buffer[] = [];
  let from = 0;
  for (const range of [...(parsed.earlierModelRanges ?? []), last]) {
    parts.push(body.subarray(from, range.start), name);
    from = range.end;
  }
  parts.push(body.subarray(from));
  return parts;
}

/** For Content-Length. */
export function outgoingBodyLength(parts: readonly Buffer[]): number {
  let sizeBytes = 0;
  for (const part of parts) sizeBytes += part.length;
  return sizeBytes;
}
