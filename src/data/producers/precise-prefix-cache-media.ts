/** Which media touch which blocks of a prompt, as engines hash them: a block has every object whose tokens it shares. */
import type { MediaSpan } from "../attributes.ts";

/** Undefined where there is none. */
export function mediaByBlock(
  spans: readonly MediaSpan[] | undefined,
  tokens: number,
  blockSize: number,
): readonly (readonly bigint[] | undefined)[] | undefined {
  if (spans === undefined || spans.length === 0) return undefined;
  const blocks = Math.floor(tokens / blockSize);
  const byBlock: (bigint[] | undefined)[] = Array.from({ length: blocks });
  for (const { hash, firstToken, tokens: length } of spans) {
    const first = Math.floor(firstToken / blockSize);
    const last = Math.min(blocks - 1, Math.floor((firstToken + length - 1) / blockSize));
    for (let block = first; block <= last; block++) {
      const objects = byBlock[block];
      if (objects === undefined) byBlock[block] = [hash];
      else objects.push(hash);
    }
  }
  return byBlock;
}
