// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
/**
 * Scanners that cut text into words as the usual expressions of byte-level tokenizers do, without a regular expression: one pass, linear for
 * any input. Each finds the end of the word that begins at a position of UTF-16 units; every unit belongs to exactly one word.
 */
import { asciiClasses, classOf, digit, letter, lineBreak, mark, space } from "./character-classes.ts";

/** The end of the word at `at`; the text ends at `end`. Always greater than `at`. */
export type WordScanner = (units: Uint16Array, at: number, end: number) => number;

const apostrophe = 0x27;
const blank = 0x20;

/** `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` (GPT-2). */
export function scanGpt2Word(units: Uint16Array, at: number, end: number): number {
  const first = codePointAt(units, at, end);
  if (first === apostrophe) {
    const contraction = contractionEnd(units, at, end, false);
    if (contraction > at) return contraction;
  }
  const next = at + width(first);
  const isBlank = first === blank;
  const start = isBlank && next < end ? next : at;
  const kind = start === at ? classOf(first) : classOf(codePointAt(units, start, end));
  if ((kind & letter) !== 0) return runOf(units, start, end, letter);
  if ((kind & digit) !== 0) return runOf(units, start, end, digit);
  if ((kind & space) === 0) return runWithout(units, start, end, letter | digit | space);
  return spaceEnd(units, at, end);
}

export interface LineWordOptions {
  /** Digits of one word at most. */
  readonly maxDigits: number;
  /** Combining marks belong to the words of letters. */
  readonly joinsMarks: boolean;
}

/**
 * `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+` (Llama 3, Qwen and
 * kin), which differ in how many digits make a word and in what becomes of marks.
 */
export function createLineWordScanner(options: LineWordOptions): WordScanner {
  const { maxDigits } = options;
  const wordClass = options.joinsMarks ? letter | mark : letter;
  const notOther = wordClass | digit | space;
  return function scanLineWord(units, at, end) {
    const first = codePointAt(units, at, end);
    if (first === apostrophe) {
      const contraction = contractionEnd(units, at, end, true);
      if (contraction > at) return contraction;
    }
    const kind = classOf(first);
    const next = at + width(first);
    if ((kind & letter) !== 0) return runOf(units, next, end, wordClass);
    if ((kind & digit) !== 0) return digitsEnd(units, next, end, maxDigits - 1);
    const hasNext = next < end;
    const nextKind = hasNext ? classOf(codePointAt(units, next, end)) : 0;
    if ((kind & lineBreak) === 0 && (nextKind & wordClass) !== 0) return runOf(units, next, end, wordClass);
    if ((kind & wordClass) !== 0) return next;
    if ((kind & space) === 0) return lineBreaksEnd(units, runWithout(units, next, end, notOther), end);
    if (first === blank && hasNext && (nextKind & notOther) === 0) {
      return lineBreaksEnd(units, runWithout(units, next, end, notOther), end);
    }
    return lineOrSpaceEnd(units, at, end);
  };
}

function codePointAt(units: Uint16Array, at: number, end: number): number {
  const unit = units[at]!;
  if ((unit & 0xfc00) !== 0xd800 || at + 1 >= end) return unit;
  const low = units[at + 1]!;
  return (low & 0xfc00) === 0xdc00 ? ((unit - 0xd800) << 10) + (low - 0xdc00) + 0x10000 : unit;
}

function width(codePoint: number): number {
  return codePoint > 0xffff ? 2 : 1;
}

function runOf(units: Uint16Array, from: number, end: number, wanted: number): number {
  let at = from;
  while (at < end) {
    const unit = units[at]!;
    if (unit < 0x80) {
      if ((asciiClasses[unit]! & wanted) === 0) break;
      at++;
      continue;
    }
    const codePoint = codePointAt(units, at, end);
    if ((classOf(codePoint) & wanted) === 0) break;
    at += width(codePoint);
  }
  return at;
}

function runWithout(units: Uint16Array, from: number, end: number, unwanted: number): number {
  let at = from;
  while (at < end) {
    const codePoint = codePointAt(units, at, end);
    if ((classOf(codePoint) & unwanted) !== 0) break;
    at += width(codePoint);
  }
  return at;
}

function digitsEnd(units: Uint16Array, from: number, end: number, atMost: number): number {
  let at = from;
  for (let left = atMost; left > 0 && at < end; left--) {
    const codePoint = codePointAt(units, at, end);
    if ((classOf(codePoint) & digit) === 0) break;
    at += width(codePoint);
  }
  return at;
}

function lineBreaksEnd(units: Uint16Array, from: number, end: number): number {
  let at = from;
  while (at < end && isLineBreak(units[at]!)) at++;
  return at;
}

function isLineBreak(unit: number): boolean {
  return unit === 0x0a || unit === 0x0d;
}

/** White space of the Basic Multilingual Plane only: Unicode has no other. */
function lineOrSpaceEnd(units: Uint16Array, from: number, end: number): number {
  let at = from;
  let afterBreak = -1;
  while (at < end) {
    const unit = units[at]!;
    if ((classOf(unit) & space) === 0) break;
    at++;
    if (isLineBreak(unit)) afterBreak = at;
  }
  if (afterBreak >= 0) return afterBreak;
  return at === end || at === from + 1 ? at : at - 1;
}

/** `\s+(?!\S)|\s+`: the last space before a word is left to it. */
function spaceEnd(units: Uint16Array, from: number, end: number): number {
  let at = from;
  while (at < end && (classOf(units[at]!) & space) !== 0) at++;
  return at === end || at === from + 1 ? at : at - 1;
}

/** `at` itself when there is no contraction. */
function contractionEnd(units: Uint16Array, at: number, end: number, ignoresCase: boolean): number {
  if (at + 1 >= end) return at;
  const first = folded(units[at + 1]!, ignoresCase);
  if (first === 0x73 || first === 0x74 || first === 0x6d || first === 0x64) return at + 2;
  if (at + 2 >= end) return at;
  const second = folded(units[at + 2]!, ignoresCase);
  if (second === 0x65 && (first === 0x72 || first === 0x76)) return at + 3;
  return first === 0x6c && second === 0x6c ? at + 3 : at;
}

function folded(unit: number, ignoresCase: boolean): number {
  if (!ignoresCase) return unit;
  if (unit === 0x17f) return 0x73;
  return unit >= 0x41 && unit <= 0x5a ? unit + 0x20 : unit;
}
