/** Puts the prompt's ids into the body that leaves, where they may stand in for it, and takes out those that a client sent. */

import type { InferenceRequest } from "../../request/inference-request.ts";
import type { ByteRange } from "../../request/parsed-body.ts";
import { planTokenData } from "../../tokens/token-data.ts";

export function spliceTokenData(request: InferenceRequest, ids: Uint32Array | undefined): void {
  const { body, parsed } = request;
  const plan = planTokenData(body, { object: objectOf(body), nvext: parsed.nvextRange }, ids);
  if (plan.kind === "leave") return;
  for (const edit of plan.edits) request.edit(edit);
}

/** The parser has read the body, so one that begins with a brace is an object. */
function objectOf(body: Buffer): ByteRange | undefined {
  let start = 0;
  while (start < body.length && (body[start] ?? 0) <= 0x20) start++;
  return body[start] === 0x7b ? { start, end: body.lastIndexOf("}") + 1 } : undefined;
}
