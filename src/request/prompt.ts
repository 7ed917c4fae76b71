/** Reads the prompt of a request: text, several texts, token ids or several lists of them, as the completions dialects spell it. */
import { firstElement, hasElements, isArrayAt, stringsIn, tokenListsIn, tokensIn } from "./json-value.ts";
import type { ByteRange, Prompt } from "./parsed-body.ts";

export const opaquePrompt: Prompt = { kind: "opaque" };

/** The prompt at [start, end) of an accepted body; undefined when it is empty or of no such form. */
export function promptAt(body: Buffer, start: number, end: number): Prompt | undefined {
  if (body[start] === 0x22) {
    return end - start > 2 ? { kind: "bytes", chains: [[{ start: start + 1, end: end - 1 }]] } : undefined;
  }
  if (!isArrayAt(body, start) || !hasElements(body, start)) return undefined;
  const first = body[firstElement(body, start)];
  if (first === 0x22) {
    const texts = stringsIn(body, start);
    return texts === undefined ? undefined : { kind: "bytes", chains: texts.map((text) => [text]) };
  }
  const lists = first === 0x5b ? tokenListsIn(body, start) : asList(tokensIn(body, start, end));
  return lists === undefined ? undefined : { kind: "tokens", chains: lists };
}

/** One chain of the given parts, absent ones left out. */
export function chainOf(...parts: readonly (ByteRange | undefined)[]): Prompt {
  return { kind: "bytes", chains: [parts.filter((part) => part !== undefined)] };
}

function asList(tokens: Uint32Array | undefined): readonly Uint32Array[] | undefined {
  return tokens === undefined ? undefined : [tokens];
}
