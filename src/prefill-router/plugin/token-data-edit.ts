/** Puts the prompt's ids into the body that leaves, where they may stand in for it. */
import type { InferenceRequest } from "../../request/inference-request.ts";

export function spliceTokenData(request: InferenceRequest, ids: Uint32Array | undefined): void {
  if (ids === undefined || ids.length === 0 || request.parsed.nvextRange !== undefined) return;
  const { body } = request;
  const end = body.lastIndexOf("}");
  if (end < 0) return;
  request.edit({ start: end, end, bytes: Buffer.from(`,"nvext":{"token_data":[${ids.join(",")}]}`) });
}
