/** Trains a small byte-level BPE vocabulary. Deterministic: equally frequent pairs are taken in the order of their code points. */

/** The words Qwen2's tokenizer cuts text into; its `(?i:…)` is spelt out. */
const words =
  /'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+/gu;

/** The printable character that stands for each byte in a byte-level vocabulary (GPT-2's table). */
export const byteAlphabet: readonly string[] = (() => {
  const isPrintable = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : next++));
})();

export interface BytePairs {
  /** Token text by id, the alphabet first. */
  readonly tokens: readonly string[];
  readonly merges: readonly (readonly [string, string])[];
}

export function trainBytePairs(text: string, size: number): BytePairs {
  const counts = new Map<string, number>();
  for (const [word] of text.matchAll(words)) counts.set(word, (counts.get(word) ?? 0) + 1);
  const pieces = [...counts].map(([word, count]) => ({
    symbols: [...Buffer.from(word)].map((byte) => byteAlphabet[byte] ?? ""),
    count,
  }));
  const tokens = [...byteAlphabet];
  const merges: [string, string][] = [];
  while (tokens.length < size) {
    const best = mostFrequentPair(pieces);
    if (best === undefined) break;
    merges.push(best);
    tokens.push(best[0] + best[1]);
    for (const piece of pieces) join(piece.symbols, best);
  }
  return { tokens, merges };
}

function mostFrequentPair(
  pieces: readonly { readonly symbols: readonly string[]; readonly count: number }[],
): [string, string] | undefined {
  const pairs = new Map<string, number>();
  for (const { symbols, count } of pieces) {
    for (let at = 1; at < symbols.length; at += 1) {
      const pair = `${symbols[at - 1]} ${symbols[at]}`;
      pairs.set(pair, (pairs.get(pair) ?? 0) + count);
    }
  }
  let best = "";
  let bestCount = 1;
  for (const [pair, count] of pairs) {
    if (count > bestCount || (count === bestCount && best !== "" && pair < best)) {
      best = pair;
      bestCount = count;
    }
  }
  const [left, right] = best.split(" ");
  return left === undefined || right === undefined ? undefined : [left, right];
}

function join(symbols: string[], [left, right]: readonly [string, string]): void {
  for (let at = 0; at + 1 < symbols.length; at += 1) {
    if (symbols[at] === left && symbols[at + 1] === right) symbols.splice(at, 2, left + right);
  }
}
