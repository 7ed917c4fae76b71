/**
 * Walks msgpack in place: nothing is allocated for what is only looked at. Every read checks its bounds first, so a truncated or lying payload
 * ends in MalformedMessage and nothing else.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over bytes, whose bounds are checked before
import { MalformedMessage } from "./value-reader.ts";

const empty = Buffer.alloc(0);

export type ValueKind = "nil" | "boolean" | "integer" | "float" | "text" | "bytes" | "array" | "map" | "extension";

/** The tokens of the largest event, and what stands around them. */
const maxPassed = 5_000_000;

export class MsgpackCursor {
  /** Borrowed until `release` or the next `reset`. */
  bytes: Buffer = empty;
  /** Position of the next value. */
  at = 0;
  /** Set by `u64`, `binary` and `text` reads: the value's words, or its range in the payload. */
  low = 0;
  high = 0;
  start = 0;
  length = 0;

  /** Begins a payload, which is read during the caller's turn only. */
  reset(bytes: Buffer): void {
    this.bytes = bytes;
    this.at = 0;
  }

  /** Lets go of the payload. */
  release(): void {
    this.bytes = empty;
  }

  get isAtEnd(): boolean {
    return this.at >= this.bytes.length;
  }

  kind(): ValueKind {
    const head = this.head();
    if (head < 0x80 || head >= 0xe0) return "integer";
    if (head < 0x90) return "map";
    if (head < 0xa0) return "array";
    if (head < 0xc0) return "text";
    return kinds[head - 0xc0] ?? malformed("a reserved byte");
  }

  /** Consumes a nil; false and nothing consumed where something else stands. */
  takeNil(): boolean {
    if (this.head() !== 0xc0) return false;
    this.at += 1;
    return true;
  }

  readBoolean(): boolean {
    const head = this.head();
    if (head !== 0xc2 && head !== 0xc3) malformed("a boolean is expected");
    this.at += 1;
    return head === 0xc3;
  }

  arrayLength(): number {
    const head = this.head();
    if (head >= 0x90 && head < 0xa0) return this.#advance(1, head & 0x0f);
    if (head === 0xdc) return this.#sized(2);
    if (head === 0xdd) return this.#sized(4);
    return malformed("an array is expected");
  }

  mapLength(): number {
    const head = this.head();
    if (head >= 0x80 && head < 0x90) return this.#advance(1, head & 0x0f);
    if (head === 0xde) return this.#sized(2);
    if (head === 0xdf) return this.#sized(4);
    return malformed("a map is expected");
  }

  /** An integer of up to 64 bits into `low` and `high`; a negative one as its two's complement. */
  u64(): void {
    const head = this.head();
    const bytes = this.bytes;
    const at = this.at;
    if (head === 0xcf && at + 9 <= bytes.length) {
      this.high = ((bytes[at + 1]! << 24) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!) >>> 0;
      this.low = ((bytes[at + 5]! << 24) | (bytes[at + 6]! << 16) | (bytes[at + 7]! << 8) | bytes[at + 8]!) >>> 0;
      this.at = at + 9;
    } else if (head < 0x80) this.#word(1, head, 0);
    else if (head >= 0xe0) this.#word(1, (head - 0x100) >>> 0, 0xffffffff);
    else {
      const size = integerSizes[head - 0xcc] ?? malformed("an integer is expected");
      this.#need(1 + size);
      const from = this.at + 1;
      if (size === 8) this.#word(9, bytes.readUInt32BE(from + 4), bytes.readUInt32BE(from));
      else if (head < 0xd0) this.#word(1 + size, bytes.readUIntBE(from, size), 0);
      else {
        const value = bytes.readIntBE(from, size);
        this.#word(1 + size, value >>> 0, value < 0 ? 0xffffffff : 0);
      }
    }
  }

  /** An integer of 32 bits without sign. */
  u32(): number {
    const head = this.head();
    if (head < 0x80) return this.#advance(1, head);
    this.u64();
    return this.high === 0 ? this.low : malformed("a number beyond 32 bits");
  }

  /** A float or an integer. */
  number(): number {
    const head = this.head();
    if (head === 0xcb) {
      this.#need(9);
      return this.#advance(9, this.bytes.readDoubleBE(this.at + 1));
    }
    if (head === 0xca) {
      this.#need(5);
      return this.#advance(5, this.bytes.readFloatBE(this.at + 1));
    }
    this.u64();
    return this.high >= 0x80000000 ? (this.high - 0x100000000) * 2 ** 32 + this.low : this.high * 2 ** 32 + this.low;
  }

  /** A text's range into `start` and `length`; whether it is UTF-8 is not looked at. */
  text(): void {
    const head = this.head();
    if (head >= 0xa0 && head < 0xc0) this.#range(1, head & 0x1f);
    else if (head >= 0xd9 && head <= 0xdb) this.#sizedRange(1 << (head - 0xd9));
    else malformed("a text is expected");
  }

  /** A byte string's range into `start` and `length`. */
  binary(): void {
    const head = this.head();
    if (head >= 0xc4 && head <= 0xc6) this.#sizedRange(1 << (head - 0xc4));
    else malformed("bytes are expected");
  }

  /** Whether the range read last holds exactly these bytes. */
  is(bytes: Buffer): boolean {
    const { start, length } = this;
    return length === bytes.length && this.bytes.compare(bytes, 0, length, start, start + length) === 0;
  }

  /** The range read last, as text. */
  string(): string {
    return this.bytes.toString("utf8", this.start, this.start + this.length);
  }

  /** A view of the range read last; valid as long as the payload is. */
  slice(): Buffer {
    return this.bytes.subarray(this.start, this.start + this.length);
  }

  byteAt(at: number): number {
    return this.bytes[at] ?? 0;
  }

  /** `count` integers of 32 bits without sign, into out[0 … count). */
  u32s(count: number, out: Uint32Array): void {
    const bytes = this.bytes;
    const limit = bytes.length;
    let at = this.at;
    for (let i = 0; i < count; i++) {
      const head = at < limit ? bytes[at]! : malformed("the payload is cut short");
      if (head < 0x80) {
        out[i] = head;
        at += 1;
      } else if (head === 0xce && at + 5 <= limit) {
        out[i] = (bytes[at + 1]! << 24) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!;
        at += 5;
      } else if (head === 0xcd && at + 3 <= limit) {
        out[i] = (bytes[at + 1]! << 8) | bytes[at + 2]!;
        at += 3;
      } else {
        this.at = at;
        out[i] = this.u32();
        at = this.at;
      }
    }
    this.at = at;
  }

  /** Passes over one value, whatever it is and however deep. */
  skip(): void {
    this.pass(maxPassed);
  }

  /** The same for a value that holds no more than `most` others, itself among them; returns how many. */
  protected pass(most: number): number {
    const bytes = this.bytes;
    const limit = bytes.length;
    let { at } = this;
    let remaining = 1;
    let passed = 0;
    while (remaining > 0) {
      remaining -= 1;
      if (++passed > most) malformed(`more than ${most} values that nobody asked for`);
      if (at >= limit) malformed("the payload is cut short");
      const head = bytes[at]!;
      const size = wholeSizes[head]!;
      if (size > 0) at += size;
      else if (head < 0x90) {
        remaining += 2 * (head & 0x0f);
        at += 1;
      } else if (head < 0xa0) {
        remaining += head & 0x0f;
        at += 1;
      } else {
        const width = lengthWidths[head - 0xc0]!;
        if (width === 0 || at + 1 + width > limit) malformed("a reserved byte, or the payload is cut short");
        const count = bytes.readUIntBE(at + 1, width);
        at += 1 + width;
        if (head >= 0xdc) remaining += head >= 0xde ? 2 * count : count;
        else at += head >= 0xc7 && head <= 0xc9 ? count + 1 : count;
      }
    }
    if (at > limit) malformed("the payload is cut short");
    this.at = at;
    return passed;
  }

  /** The first byte of the next value. */
  head(): number {
    return this.bytes[this.at] ?? malformed("the payload is cut short");
  }

  #need(size: number): void {
    if (this.at + size > this.bytes.length) malformed("the payload is cut short");
  }

  #advance(size: number, value: number): number {
    this.at += size;
    return value;
  }

  #word(size: number, low: number, high: number): void {
    this.at += size;
    this.low = low;
    this.high = high;
  }

  #sized(width: number): number {
    this.#need(1 + width);
    return this.#advance(1 + width, this.bytes.readUIntBE(this.at + 1, width));
  }

  #sizedRange(width: number): void {
    this.#need(1 + width);
    this.#range(1 + width, this.bytes.readUIntBE(this.at + 1, width));
  }

  #range(headSize: number, length: number): void {
    this.#need(headSize + length);
    this.start = this.at + headSize;
    this.length = length;
    this.at = this.start + length;
  }
}

/** Of values of a fixed size, for heads 0xc0 to 0xdf. */
const fixedSizes = [1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 5, 9, 2, 3, 5, 9, 2, 3, 5, 9, 3, 4, 6, 10, 18, 0, 0, 0, 0, 0, 0, 0];

/** For heads 0xc0 to 0xdf; 0xc1 is reserved. */
const kinds: readonly (ValueKind | undefined)[] = [
  "nil",
  undefined,
  "boolean",
  "boolean",
  "bytes",
  "bytes",
  "bytes",
  "extension",
  "extension",
  "extension",
  "float",
  "float",
  "integer",
  "integer",
  "integer",
  "integer",
  "integer",
  "integer",
  "integer",
  "integer",
  "extension",
  "extension",
  "extension",
  "extension",
  "extension",
  "text",
  "text",
  "text",
  "array",
  "array",
  "map",
  "map",
];

/** By head: the whole size of a value that has a fixed one; 0 for arrays, maps and what has its length behind the head. */
const wholeSizes = Uint8Array.from({ length: 256 }, (_, head) => {
  if (head < 0x80 || head >= 0xe0) return 1;
  if (head < 0xa0) return 0;
  if (head < 0xc0) return 1 + (head & 0x1f);
  return fixedSizes[head - 0xc0] ?? 0;
});
/** Bytes of the length that follows; 0 where none does. */
const lengthWidths = Int8Array.from([
  0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4,
]);
/** For heads 0xcc (uint8) to 0xd3 (int64). */
const integerSizes: readonly number[] = [1, 2, 4, 8, 1, 2, 4, 8];

function malformed(why: string): never {
  throw new MalformedMessage(why);
}
