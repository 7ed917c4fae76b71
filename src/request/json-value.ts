/** Reads values of a body that the scanner has accepted, at the ranges it reported: nothing here validates, so nothing here throws. */
import type { ByteRange } from "./parsed-body.ts";

/** A body may hold millions of empty prompts: of a batch, so many are described, and the others pass unread. */
export const maxChains = 4096;

const quote = 0x22;
const backslash = 0x5c;

/** A JSON string's value; undefined when the value is of another type. */
export function stringAt(body: Buffer, start: number, end: number): string | undefined {
  if (body[start] !== quote) return undefined;
  const text = body.toString("utf8", start, end);
  return text.includes("\\") ? (JSON.parse(text) as string) : text.slice(1, -1);
}

/** A count: a JSON number rounded down; undefined when the value is of another type or negative. */
export function countAt(body: Buffer, start: number, end: number): number | undefined {
  if (!isDigit(body[start] ?? 0)) return undefined;
  const value = Math.floor(Number(body.toString("latin1", start, end)));
  return Number.isFinite(value) ? value : undefined;
}

export function isTrueAt(body: Buffer, start: number): boolean {
  return body[start] === 0x74;
}

export function isNullAt(body: Buffer, start: number): boolean {
  return body[start] === 0x6e;
}

export function isObjectAt(body: Buffer, start: number): boolean {
  return body[start] === 0x7b;
}

export function isArrayAt(body: Buffer, start: number): boolean {
  return body[start] === 0x5b;
}

/** Whether the array at `start` has an element. */
export function hasElements(body: Buffer, start: number): boolean {
  return body[skipSpace(body, start + 1)] !== 0x5d;
}

/** Offset behind the string that begins at `start`. */
export function endOfString(body: Buffer, start: number): number {
  let at = start + 1;
  for (;;) {
    const end = body.indexOf(quote, at);
    let escapes = end - 1;
    while (body[escapes] === backslash) escapes--;
    // an even number of backslashes before it are escapes of each other
    if ((end - escapes) % 2 === 1) return end + 1;
    at = end + 1;
  }
}

/** Ranges of the strings' insides in an array of strings, maxChains at most; undefined when an element is something else. */
export function stringsIn(body: Buffer, start: number): readonly ByteRange[] | undefined {
  const ranges: ByteRange[] = [];
  let at = skipSpace(body, start + 1);
  while (body[at] !== 0x5d && ranges.length < maxChains) {
    if (body[at] !== quote) return undefined;
    const end = endOfString(body, at);
    ranges.push({ start: at + 1, end: end - 1 });
    at = skipComma(body, end);
  }
  return ranges;
}

/** The token ids of an array of integers from 0 to 2^32 - 1 within [start, end); undefined when an element is something else. */
export function tokensIn(body: Buffer, start: number, end: number): Uint32Array | undefined {
  const length = end - start;
  // ids take four bytes or more, as a rule, and two at least, their comma or bracket included
  let tokens = new Uint32Array((length >>> 2) + 1);
  let count = 0;
  let at = skipSpace(body, start + 1);
  while (body[at] !== 0x5d) {
    let value = 0;
    const from = at;
    for (let byte = body[at] ?? 0; isDigit(byte); byte = body[++at] ?? 0) value = value * 10 + (byte - 0x30);
    const after = body[at];
    if (at === from || value > 0xffff_ffff || after === 0x2e || after === 0x65 || after === 0x45) return undefined;
    if (count === tokens.length) tokens = grown(tokens, length >>> 1);
    tokens[count++] = value;
    at = skipComma(body, at);
  }
  return tokens.slice(0, count);
}

/** The token ids of an array of arrays, maxChains of them at most; undefined when an element is something else. */
export function tokenListsIn(body: Buffer, start: number): readonly Uint32Array[] | undefined {
  const lists: Uint32Array[] = [];
  let at = skipSpace(body, start + 1);
  while (body[at] !== 0x5d && lists.length < maxChains) {
    if (body[at] !== 0x5b) return undefined;
    // what is not a flat array of numbers has a bracket or a quote before the end, which tokensIn meets first
    const end = body.indexOf(0x5d, at) + 1;
    const tokens = tokensIn(body, at, end);
    if (tokens === undefined) return undefined;
    lists.push(tokens);
    at = skipComma(body, end);
  }
  return lists;
}

/** Offset of the array's first element, or of its closing bracket. */
export function firstElement(body: Buffer, start: number): number {
  return skipSpace(body, start + 1);
}

function grown(tokens: Uint32Array<ArrayBuffer>, length: number): Uint32Array<ArrayBuffer> {
  const larger = new Uint32Array(length);
  larger.set(tokens);
  return larger;
}

function skipComma(body: Buffer, from: number): number {
  const at = skipSpace(body, from);
  return body[at] === 0x2c ? skipSpace(body, at + 1) : at;
}

function skipSpace(body: Buffer, from: number): number {
  let at = from;
  while (at < body.length && (body[at] ?? 0) <= 0x20) at++;
  return at;
}

function isDigit(byte: number): boolean {
  return byte >= 0x30 && byte <= 0x39;
}
