/**
 * Reads single samples of a Prometheus text page straight from its bytes. Tolerant: what is no sample is skipped, never an error. The
 * grammar is the text exposition format 0.0.4; of OpenMetrics an exemplar after the value is passed over.
 */

const lf = 10;
const cr = 13;
const quote = 34;
const hash = 35;
const comma = 44;
const equals = 61;
const backslash = 92;
const openBrace = 123;
const closeBrace = 125;

/** Where the parts of the last sample read by `readSample` are. Owned by its reader, one for all lines. */
export class Sample {
  /** Half-open range between the braces; empty without labels. */
  labelsStart = 0;
  labelsEnd = 0;
  value = Number.NaN;
  /** Start of the next line, also when the line was no sample. */
  next = 0;
}

/**
 * Reads the rest of a sample line whose metric name ends at `at`. Returns false when the line is malformed or its value is no number (NaN
 * included): there is nothing to count then.
 */
export function readSample(page: Buffer, at: number, sample: Sample): boolean {
  let position = skipBlanks(page, at);
  sample.labelsStart = position;
  sample.labelsEnd = position;
  if (page[position] === openBrace) {
    const end = labelsEnd(page, position + 1);
    if (page[end] !== closeBrace) {
      sample.next = nextLine(page, end);
      return false;
    }
    sample.labelsStart = position + 1;
    sample.labelsEnd = end;
    position = end + 1;
  }
  const valueStart = skipBlanks(page, position);
  const valueEnd = tokenEnd(page, valueStart);
  sample.value = parseNumber(page, valueStart, valueEnd);
  const restStart = skipBlanks(page, valueEnd);
  sample.next = nextLine(page, restStart);
  if (Number.isNaN(sample.value)) return false;
  return isLineEnd(page[restStart]) || page[restStart] === hash || hasOnlyTimestamp(page, restStart);
}

function hasOnlyTimestamp(page: Buffer, start: number): boolean {
  const end = tokenEnd(page, start);
  if (Number.isNaN(parseNumber(page, start, end))) return false;
  const after = skipBlanks(page, end);
  return isLineEnd(page[after]) || page[after] === hash;
}

/** The closing brace after `at`, or the end of the line when there is none. */
function labelsEnd(page: Uint8Array, at: number): number {
  let position = at;
  let isQuoted = false;
  for (; position < page.length; position++) {
    const byte = page[position];
    if (byte === lf) return position;
    if (byte === quote) isQuoted = !isQuoted;
    else if (byte === backslash && isQuoted) {
      if (page[position + 1] !== lf) position++;
    } else if (byte === closeBrace && !isQuoted) return position;
  }
  return position;
}

/** The start of the line after the one `at` is in; the page's end when it is the last. */
export function nextLine(page: Uint8Array, at: number): number {
  if (page[at] === lf) return at + 1;
  const end = page.indexOf(lf, at);
  return end < 0 ? page.length : end + 1;
}

function skipBlanks(page: Uint8Array, at: number): number {
  let position = at;
  while (page[position] === 32 || page[position] === 9) position++;
  return position;
}

function tokenEnd(page: Uint8Array, at: number): number {
  let position = at;
  for (; position < page.length; position++) {
    const byte = page[position];
    if (byte === 32 || byte === 9 || byte === lf || byte === cr) break;
  }
  return position;
}

function isLineEnd(byte: number | undefined): boolean {
  return byte === undefined || byte === lf || byte === cr;
}

/**
 * A decimal number, with exponent or without, or an infinity; NaN for anything else. Up to 15 digits and a scale of at most 22 are computed
 * exactly in doubles (both factors are exact, one rounding); the rest goes the long way.
 */
export function parseNumber(bytes: Buffer, start: number, end: number): number {
  let at = start;
  const isNegative = bytes[at] === 45;
  if (isNegative || bytes[at] === 43) at++;
  let mantissa = 0;
  let digits = 0;
  let scale = 0;
  let hasPoint = false;
  for (; at < end; at++) {
    const byte = bytes[at] ?? 0;
    if (byte >= 48 && byte <= 57) {
      mantissa = mantissa * 10 + (byte - 48);
      digits++;
      if (hasPoint) scale++;
    } else if (byte === 46 && !hasPoint) hasPoint = true;
    else return parseSlowly(bytes, start, end);
  }
  if (digits === 0) return Number.NaN;
  if (digits > 15) return parseSlowly(bytes, start, end);
  const value = scale === 0 ? mantissa : mantissa / (powersOfTen[scale] ?? Number.NaN);
  return isNegative ? -value : value;
}

const powersOfTen = Float64Array.from({ length: 23 }, (_, exponent) => Number(`1e${exponent}`));
const decimal = /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
const infinity = /^([+-]?)inf(?:inity)?$/i;
/** Longer than any number an engine writes; bounds the work on a lying page. */
const maxNumberLength = 400;

function parseSlowly(bytes: Buffer, start: number, end: number): number {
  if (end - start > maxNumberLength) return Number.NaN;
  const text = bytes.toString("latin1", start, end);
  if (decimal.test(text)) return Number(text);
  const sign = infinity.exec(text)?.[1];
  if (sign === undefined) return Number.NaN;
  return sign === "-" ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

/**
 * The value of a label in the range between the braces, escapes resolved; undefined when it is not there or the labels are malformed before
 * it. Of a repeated label the first wins.
 */
export function labelValue(page: Buffer, start: number, end: number, name: string): string | undefined {
  let at = start;
  while (at < end) {
    at = skipBlanks(page, at);
    const nameStart = at;
    while (at < end && page[at] !== equals && page[at] !== 32 && page[at] !== 9) at++;
    const nameEnd = at;
    at = skipBlanks(page, at);
    if (page[at] !== equals) return undefined;
    at = skipBlanks(page, at + 1);
    if (page[at] !== quote) return undefined;
    const valueStart = at + 1;
    let hasEscape = false;
    at = valueStart;
    while (at < end && page[at] !== quote) {
      if (page[at] === backslash) {
        hasEscape = true;
        at++;
      }
      at++;
    }
    if (at >= end) return undefined;
    if (isText(page, nameStart, nameEnd, name)) {
      const text = page.toString("utf8", valueStart, at);
      return hasEscape ? resolveEscapes(text) : text;
    }
    at = skipBlanks(page, at + 1);
    if (page[at] === comma) at++;
    else if (at < end) return undefined;
  }
  return undefined;
}

/** Whether the range holds exactly this ASCII text. */
export function isText(page: Uint8Array, start: number, end: number, text: string): boolean {
  if (end - start !== text.length) return false;
  for (let index = 0; index < text.length; index++) {
    if (page[start + index] !== text.charCodeAt(index)) return false;
  }
  return true;
}

/** `\\`, `\"` and `\n`; any other escape stays as it is written. */
function resolveEscapes(text: string): string {
  return text.replace(/\\([\\"n])/g, (_, escaped: string) => (escaped === "n" ? "\n" : escaped));
}
