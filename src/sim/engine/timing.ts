/**
 * How long one iteration of the engine takes. One floor per iteration, growing with the decodes in the batch and the context they
 * read, plus the prefill work of the chunk with attention's share: the shape that the picking literature uses for vLLM.
 */

export interface EngineSpeeds {
  /** Prompt tokens a second at short context. */
  readonly prefillTokensPerSecond: number;
  /** One iteration with one decode and an empty cache, in ms. A full cache about doubles it. */
  readonly decodeStepMs: number;
  /** Context length, in tokens, at which attention doubles the cost of a prompt token. */
  readonly attentionTokens: number;
  /** Loading an adapter into a slot, in ms. */
  readonly adapterLoadMs: number;
  /** Share of a step by which its length varies, 0 to 1, drawn from the seed. */
  readonly jitter: number;
}

/** Prompt tokens of a chunk weighted by attention: `chunk` tokens that follow `before` tokens. */
export function prefillWork(chunk: number, before: number, speeds: EngineSpeeds): number {
  return chunk * (1 + (before + chunk / 2) / speeds.attentionTokens);
}

/** Length of an iteration in ms; `work` as {@link prefillWork} summed over the step's chunks. */
export function stepMs(
  speeds: EngineSpeeds,
  decodes: number,
  contextTokens: number,
  capacityTokens: number,
  work: number,
): number {
  const decodePart = speeds.decodeStepMs * (1 + decodes / 256 + contextTokens / capacityTokens);
  return decodePart + (work * 1000) / speeds.prefillTokensPerSecond;
}
