/**
 * Walks a field block (RFC 7541 §6) as far as needed to find `:authority` where its text is written, and writes one that an HTTP/2 library takes in
 * place of one that it refuses. The text keeps its length, so that both ends' dynamic tables keep theirs; everything else stays as it is.
 */
import { decodeHuffman } from "./hpack-text.ts";

/** What an authority may consist of (RFC 3986 §3.2), as node's HTTP/2 library has it. */
const refused = /[^A-Za-z0-9\-._~!$&'()*+,;=:@[\]%]/g;
const authorityIndex = 1;
const authorityName = ":authority";

/** The same block where nothing is to be changed, or where it cannot be read. */
export function withValidAuthority(block: Buffer): Buffer {
  let at = 0;
  let kept = 0;
  const parts: Buffer[] = [];
  const integer = (prefixBits: number): number => {
    const limit = (1 << prefixBits) - 1;
    let value = (block[at++] ?? 0) & limit;
    if (value < limit) return value;
    for (let shift = 0; shift <= 21; shift += 7) {
      const byte = block[at++] ?? 0;
      value += (byte & 127) << shift;
      if (byte < 128) return value;
    }
    return Number.POSITIVE_INFINITY;
  };
  /** Undefined: it is not text that is known here. */
  const string = (): string | undefined => {
    const isHuffman = ((block[at] ?? 0) & 128) !== 0;
    const length = integer(7);
    const bytes = block.subarray(at, at + length);
    at += length;
    return isHuffman ? decodeHuffman(bytes) : bytes.toString("latin1");
  };
  while (at < block.length) {
    const first = block[at] ?? 0;
    if (first >= 128) integer(7);
    else if (first >= 32 && first < 64) integer(5);
    else {
      const index = integer(first >= 64 ? 6 : 4);
      const isAuthority = index === 0 ? string() === authorityName : index === authorityIndex;
      const valueAt = at;
      if (isAuthority) {
        const text = string();
        const valid = text?.replace(refused, "-");
        if (valid !== undefined && valid !== text) {
          parts.push(block.subarray(kept, valueAt), plainString(valid));
          kept = at;
        }
      } else {
        const length = integer(7);
        at += length;
      }
    }
  }
  if (at !== block.length || parts.length === 0) return block;
  return Buffer.concat([...parts, block.subarray(kept)]);
}

/** Without Huffman code. */
function plainString(text: string): Buffer {
  const head: number[] = [];
  if (text.length < 127) head.push(text.length);
  else {
    head.push(127);
    let rest = text.length - 127;
    for (; rest >= 128; rest >>= 7) head.push((rest & 127) | 128);
    head.push(rest);
  }
  return Buffer.concat([Buffer.from(head), Buffer.from(text, "latin1")]);
}
