/** The body that leaves: the client's bytes, but for the model name where routing changed it and for the edits of plugins. Nothing is copied. */
import type { BodyEdit, InferenceRequest } from "./inference-request.ts";

/** The parts to send, one after the other: views of the body around what is new, or the body itself when nothing is. */
export function outgoingBody(request: InferenceRequest): readonly Buffer[] {
  const { body } = request;
  const edits = editsOf(request);
  if (edits.length === 0) return [body];
  const parts: Buffer[] = [];
  let from = 0;
  for (const { start, end, bytes } of edits) {
    if (start < from) throw new RangeError("edits of a body overlap");
    parts.push(body.subarray(from, start), bytes);
    from = end;
  }
  parts.push(body.subarray(from));
  return parts;
}

/** In the order of the body. */
function editsOf(request: InferenceRequest): readonly BodyEdit[] {
  const { parsed, targetModel, edits } = request;
  const last = parsed.modelRange;
  if (last === undefined || targetModel === parsed.model) return inOrder(edits);
  const bytes = Buffer.from(JSON.stringify(targetModel));
  const names = [...(parsed.earlierModelRanges ?? []), last].map(({ start, end }) => ({ start, end, bytes }));
  return edits.length === 0 ? names : inOrder([...names, ...edits]);
}

function inOrder(edits: readonly BodyEdit[]): readonly BodyEdit[] {
  return edits.length < 2 ? edits : edits.toSorted((a, b) => a.start - b.start);
}

/** For Content-Length. */
export function outgoingBodyLength(parts: readonly Buffer[]): number {
  let sizeBytes = 0;
  for (const part of parts) sizeBytes += part.length;
  return sizeBytes;
}
