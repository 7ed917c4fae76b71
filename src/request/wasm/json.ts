// A resumable JSON validator in AssemblyScript (`--runtime stub --enable simd`): the body passes through a fixed window, in pieces of any
// size, and every member of a top-level object is reported as four numbers. It accepts exactly the texts of RFC 8259 (bytes above 0x7f
// are taken as they are inside strings and nowhere else) whose nesting is at most MAX_DEPTH.
//
// Memory: [0, WINDOW) the piece, 16 bytes a vector load may overrun into, the container stack (one byte a level), the records.

export const WINDOW: i32 = 65536;
export const MAX_DEPTH: i32 = 10000;
export const RECORDS: i32 = WINDOW + 16 + 10032;

const S_VALUE: i32 = 0;
const S_VALUE_OR_CLOSE: i32 = 1;
const S_KEY_OR_CLOSE: i32 = 2;
const S_KEY: i32 = 3;
const S_COLON: i32 = 4;
const S_AFTER: i32 = 5;
const S_STRING: i32 = 6;
const S_ESCAPE: i32 = 7;
const S_HEX: i32 = 8;
const S_LITERAL: i32 = 9;
const S_MINUS: i32 = 10;
const S_ZERO: i32 = 11;
const S_INT: i32 = 12;
const S_DOT: i32 = 13;
const S_FRACTION: i32 = 14;
const S_E: i32 = 15;
const S_E_SIGN: i32 = 16;
const S_EXPONENT: i32 = 17;

const STACK: i32 = WINDOW + 16;

let state: i32 = S_VALUE;
let depth: i32 = 0;
/** Offset in the body of the window's first byte. */
let base: i32 = 0;
let inKey: bool = false;
let keyEscaped: bool = false;
let hexLeft: i32 = 0;
/** What remains of true, false or null, its next byte lowest. */
let literalRest: u32 = 0;
let keyStart: i32 = 0;
let keyEnd: i32 = 0;
let valueStart: i32 = 0;
let recordCount: i32 = 0;
let errorOffset: i32 = 0;

export function begin(): void {
  state = S_VALUE;
  depth = 0;
  base = 0;
}

export function records(): i32 {
  return recordCount;
}

/** Offset of the byte at fault. */
export function faultOffset(): i32 {
  return errorOffset;
}

// @ts-ignore: decorator
@inline
function isSpace(c: i32): bool {
  return c == 0x20 || c == 0x0a || c == 0x0d || c == 0x09;
}

// @ts-ignore: decorator
@inline
function isDigit(c: i32): bool {
  return c >= 0x30 && c <= 0x39;
}

// @ts-ignore: decorator
@inline
function isHex(c: i32): bool {
  return isDigit(c) || ((c | 0x20) >= 0x61 && (c | 0x20) <= 0x66);
}

// @ts-ignore: decorator
@inline
function isSimpleEscape(c: i32): bool {
  return c == 0x6e || c == 0x22 || c == 0x5c || c == 0x2f || c == 0x74 || c == 0x72 || c == 0x62 || c == 0x66;
}

/** Set by endOfPlain: whether it passed escapes. */
let escapesSeen: bool = false;

// @ts-ignore: decorator
@inline
function equalMask(bytes: v128, c: u8): i32 {
  return i8x16.bitmask(i8x16.eq(bytes, i8x16.splat(c)));
}

/** Bits of the bytes that make an escape of two characters with the backslash before them. */
// @ts-ignore: decorator
@inline
function simpleEscapeMask(bytes: v128): i32 {
  // / and \ are their own; b f n r t and the quote
  const a = v128.or(i8x16.eq(bytes, i8x16.splat(0x22)), i8x16.eq(bytes, i8x16.splat(0x2f)));
  const b = v128.or(i8x16.eq(bytes, i8x16.splat(0x5c)), i8x16.eq(bytes, i8x16.splat(0x62)));
  const c = v128.or(i8x16.eq(bytes, i8x16.splat(0x66)), i8x16.eq(bytes, i8x16.splat(0x6e)));
  const d = v128.or(i8x16.eq(bytes, i8x16.splat(0x72)), i8x16.eq(bytes, i8x16.splat(0x74)));
  return i8x16.bitmask(v128.or(v128.or(a, b), v128.or(c, d)));
}

/**
 * First byte of a string at or after `from` that is its closing quote, a control character or a backslash other than that of a complete
 * escape of two characters; `end` or more when the piece ends first. Sixteen bytes at a time: which bytes a backslash escapes, runs of
 * backslashes included, is found by carrying an addition through the runs that begin at odd places (Langdale and Lemire, "Parsing
 * gigabytes of JSON per second", 2019, section 3.1.1).
 */
function endOfPlain(from: i32, end: i32): i32 {
  const quote = i8x16.splat(0x22);
  const backslash = i8x16.splat(0x5c);
  const space = i8x16.splat(0x20);
  let p = from;
  /** 1 when a backslash in the block before escapes this block's first byte. */
  let carry: i32 = 0;
  escapesSeen = false;
  for (; p + 16 <= end; p += 16) {
    const bytes = v128.load(p);
    const control = i8x16.lt_u(bytes, space);
    if (carry == 0) {
      const any = v128.or(v128.or(i8x16.eq(bytes, quote), i8x16.eq(bytes, backslash)), control);
      if (!v128.any_true(any)) continue;
    }
    const slashes = equalMask(bytes, 0x5c) & ~carry;
    const follows = (slashes << 1) | carry;
    const sum = (slashes & 0xaaaa & ~follows) + slashes;
    const escaped = (0x5555 ^ (sum << 1)) & follows & 0xffff;
    if (escaped != 0) escapesSeen = true;
    const badEscapes = escaped & ~simpleEscapeMask(bytes);
    const stops = (equalMask(bytes, 0x22) & ~escaped) | i8x16.bitmask(control) | badEscapes;
    if (stops != 0) {
      const bit = ctz(stops);
      // of an escape its backslash
      return p + bit - ((badEscapes >> bit) & 1);
    }
    carry = (sum >> 16) & 1;
  }
  p -= carry;
  while (p < end) {
    const c: i32 = load<u8>(p);
    if (c == 0x5c) {
      if (p + 1 >= end || !isSimpleEscape(load<u8>(p + 1))) return p;
      escapesSeen = true;
      p++;
    } else if (c == 0x22 || c < 0x20) return p;
    p++;
  }
  return p;
}

/** A value ended before `end` (window offset): a member of the root object is reported. */
// @ts-ignore: decorator
@inline
function valueEnds(end: i32): void {
  if (depth == 1 && load<u8>(STACK) == 1) {
    const record = RECORDS + (recordCount << 4);
    store<i32>(record, keyStart);
    store<i32>(record, keyEnd | (keyEscaped ? 0x80000000 : 0), 4);
    store<i32>(record, valueStart, 8);
    store<i32>(record, base + end, 12);
    recordCount++;
  }
}

// @ts-ignore: decorator
@inline
function valueBegins(p: i32): void {
  if (depth == 1) valueStart = base + p;
}

/** Takes the next `length` bytes of the window: 0 go on, 1 not JSON, 2 nested too deep. Records start anew with each call. */
export function push(length: i32): i32 {
  let p: i32 = 0;
  const end = length;
  recordCount = 0;
  while (p < end) {
    const c: i32 = load<u8>(p);
    switch (state) {
      case S_VALUE_OR_CLOSE:
      case S_VALUE: {
        if (c == 0x22) {
          valueBegins(p);
          inKey = false;
          state = S_STRING;
          p++;
        } else if (c == 0x7b || c == 0x5b) {
          valueBegins(p);
          if (depth == MAX_DEPTH) return fault(p, 2);
          const isObject = c == 0x7b;
          store<u8>(STACK + depth, isObject ? 1 : 0);
          depth++;
          state = isObject ? S_KEY_OR_CLOSE : S_VALUE_OR_CLOSE;
          p++;
        } else if (isDigit(c)) {
          valueBegins(p);
          state = c == 0x30 ? S_ZERO : S_INT;
          p++;
        } else if (c == 0x2d) {
          valueBegins(p);
          state = S_MINUS;
          p++;
        } else if (isSpace(c)) {
          p++;
        } else if (c == 0x5d && state == S_VALUE_OR_CLOSE) {
          depth--;
          p++;
          valueEnds(p);
          state = S_AFTER;
        } else {
          valueBegins(p);
          if (c == 0x74) literalRest = 0x657572;
          else if (c == 0x66) literalRest = 0x65736c61;
          else if (c == 0x6e) literalRest = 0x6c6c75;
          else return fault(p, 1);
          state = S_LITERAL;
          p++;
        }
        break;
      }
      case S_STRING: {
        p = endOfPlain(p, end);
        if (escapesSeen && inKey && depth == 1) keyEscaped = true;
        if (p >= end) {
          p = end;
          break;
        }
        const d: i32 = load<u8>(p);
        if (d == 0x22) {
          if (inKey) {
            if (depth == 1) keyEnd = base + p;
            state = S_COLON;
            p++;
          } else {
            p++;
            valueEnds(p);
            state = S_AFTER;
          }
        } else if (d == 0x5c) {
          if (inKey && depth == 1) keyEscaped = true;
          state = S_ESCAPE;
          p++;
        } else return fault(p, 1);
        break;
      }
      case S_AFTER: {
        if (depth == 0) {
          if (!isSpace(c)) return fault(p, 1);
          p++;
        } else if (c == 0x2c) {
          state = load<u8>(STACK + depth - 1) == 1 ? S_KEY : S_VALUE;
          p++;
        } else if (c == 0x7d || c == 0x5d) {
          if (load<u8>(STACK + depth - 1) != (c == 0x7d ? 1 : 0)) return fault(p, 1);
          depth--;
          p++;
          valueEnds(p);
        } else if (isSpace(c)) {
          p++;
        } else return fault(p, 1);
        break;
      }
      case S_KEY_OR_CLOSE:
      case S_KEY: {
        if (c == 0x22) {
          inKey = true;
          if (depth == 1) {
            keyStart = base + p + 1;
            keyEscaped = false;
          }
          state = S_STRING;
          p++;
        } else if (isSpace(c)) {
          p++;
        } else if (c == 0x7d && state == S_KEY_OR_CLOSE) {
          depth--;
          p++;
          valueEnds(p);
          state = S_AFTER;
        } else return fault(p, 1);
        break;
      }
      case S_COLON: {
        if (c == 0x3a) {
          state = S_VALUE;
        } else if (!isSpace(c)) return fault(p, 1);
        p++;
        break;
      }
      case S_ESCAPE: {
        if (isSimpleEscape(c)) state = S_STRING;
        else if (c == 0x75) {
          hexLeft = 4;
          state = S_HEX;
        } else return fault(p, 1);
        p++;
        break;
      }
      case S_HEX: {
        if (!isHex(c)) return fault(p, 1);
        if (--hexLeft == 0) state = S_STRING;
        p++;
        break;
      }
      case S_LITERAL: {
        if (<u32>c != (literalRest & 0xff)) return fault(p, 1);
        literalRest >>= 8;
        p++;
        if (literalRest == 0) {
          valueEnds(p);
          state = S_AFTER;
        }
        break;
      }
      case S_MINUS: {
        if (!isDigit(c)) return fault(p, 1);
        state = c == 0x30 ? S_ZERO : S_INT;
        p++;
        break;
      }
      case S_INT:
        while (p < end && isDigit(load<u8>(p))) p++;
        if (p == end) break;
      // a byte that is no digit ends or continues the number as after a lone zero
      case S_ZERO: {
        const d: i32 = load<u8>(p);
        if (d == 0x2e) {
          state = S_DOT;
          p++;
        } else if ((d | 0x20) == 0x65) {
          state = S_E;
          p++;
        } else {
          valueEnds(p);
          state = S_AFTER;
        }
        break;
      }
      case S_DOT: {
        if (!isDigit(c)) return fault(p, 1);
        state = S_FRACTION;
        p++;
        break;
      }
      case S_FRACTION: {
        while (p < end && isDigit(load<u8>(p))) p++;
        if (p == end) break;
        if ((load<u8>(p) | 0x20) == 0x65) {
          state = S_E;
          p++;
        } else {
          valueEnds(p);
          state = S_AFTER;
        }
        break;
      }
      case S_E: {
        if (c == 0x2b || c == 0x2d) {
          state = S_E_SIGN;
          p++;
          break;
        }
      }
      // no sign: a digit must follow
      case S_E_SIGN: {
        if (!isDigit(c)) return fault(p, 1);
        state = S_EXPONENT;
        p++;
        break;
      }
      default: {
        while (p < end && isDigit(load<u8>(p))) p++;
        if (p == end) break;
        valueEnds(p);
        state = S_AFTER;
      }
    }
  }
  base += length;
  return 0;
}

/** Whether the text may end here. A number at the root has no byte of its own that ends it. */
export function complete(): bool {
  return (
    depth == 0 &&
    (state == S_AFTER || state == S_ZERO || state == S_INT || state == S_FRACTION || state == S_EXPONENT)
  );
}

function fault(p: i32, code: i32): i32 {
  errorOffset = base + p;
  return code;
}
