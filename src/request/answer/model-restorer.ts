/**
 * Puts the client's model name back where the engine says the target's: the string value of a "model" key, however it is spaced or
 * escaped, in pieces cut anywhere. All other bytes pass unchanged and in order; only a tail that may belong to such a value is held back.
 */
import { isKeyOpening, isSpace, tailPrefixLength } from "./json-key.ts";

const key = Buffer.from('"model"');
/** A value further from its key than this is not taken for one: what is held back stays bounded. */
const maxGapBytes = 64;

export class ModelRestorer {
  readonly #from: string;
  readonly #fromJson: Buffer;
  readonly #toJson: Buffer;
  /** Longest spelling of the name: every UTF-16 unit as \uXXXX, and the quotes. */
  readonly #maxValueBytes: number;
  readonly #unchanged: Buffer[] = [];
  #held: Buffer | undefined;
  /** The byte before the next one to be looked at; a space stands for the beginning. */
  #before = 0x20;

  constructor(from: string, to: string) {
    this.#from = from;
    this.#fromJson = Buffer.from(JSON.stringify(from));
    this.#toJson = Buffer.from(JSON.stringify(to));
    this.#maxValueBytes = 6 * from.length + 2;
  }

  /** The result is valid until the next call. */
  push(piece: Buffer, endOfStream: boolean): readonly Buffer[] {
    const bytes = this.#held === undefined ? piece : Buffer.concat([this.#held, piece]);
    this.#held = undefined;
    let parts: Buffer[] | undefined;
    let taken = 0;
    let at = 0;
    let end = bytes.length;
    for (;;) {
      const index = bytes.indexOf(key, at);
      if (index < 0) {
        const tail = bytes.length - tailPrefixLength(bytes, at, key);
        if (tail < bytes.length && this.#opensKey(bytes, tail)) end = tail;
        break;
      }
      at = index + key.length;
      if (!this.#opensKey(bytes, index)) continue;
      const start = valueStart(bytes, at);
      const stop = start < 0 ? start : stringEnd(bytes, start, this.#maxValueBytes);
      if (stop === notOurs) continue;
      if (stop === undecided) {
        end = index;
        break;
      }
      at = stop;
      if (!this.#isTarget(bytes, start, stop)) continue;
      parts ??= [];
      parts.push(bytes.subarray(taken, start), this.#toJson);
      taken = stop;
    }
    if (endOfStream) end = bytes.length;
    if (end < bytes.length) this.#held = bytes.subarray(end);
    if (end > 0) this.#before = bytes[end - 1] ?? 0;
    if (parts === undefined) {
      this.#unchanged.length = 0;
      if (end > 0) this.#unchanged.push(end === bytes.length ? bytes : bytes.subarray(0, end));
      return this.#unchanged;
    }
    if (taken < end) parts.push(bytes.subarray(taken, end));
    return parts;
  }

  #opensKey(bytes: Buffer, index: number): boolean {
    return isKeyOpening(index === 0 ? this.#before : (bytes[index - 1] ?? 0));
  }

  #isTarget(bytes: Buffer, start: number, stop: number): boolean {
    if (
      stop - start === this.#fromJson.length &&
      bytes.compare(this.#fromJson, 0, this.#fromJson.length, start, stop) === 0
    )
      return true;
    if (bytes.subarray(start, stop).indexOf(0x5c) < 0) return false;
    try {
      return JSON.parse(bytes.toString("utf8", start, stop)) === this.#from;
    } catch {
      // no JSON after all: it passes as it is
      return false;
    }
  }
}

const undecided = -1;
const notOurs = -2;

/** Offset of the quote that opens the value of a key that ends before `from`. */
function valueStart(bytes: Buffer, from: number): number {
  let seenColon = false;
  const limit = from + maxGapBytes;
  for (let at = from; at < limit; at++) {
    if (at === bytes.length) return undecided;
    const byte = bytes[at] ?? 0;
    if (seenColon && byte === 0x22) return at;
    if (byte === 0x3a && !seenColon) seenColon = true;
    else if (!isSpace(byte)) return notOurs;
  }
  return notOurs;
}

/** Offset behind the string that opens at `start`. */
function stringEnd(bytes: Buffer, start: number, maxBytes: number): number {
  const limit = start + maxBytes;
  for (let at = start + 1; at < limit; at++) {
    if (at >= bytes.length) return undecided;
    const byte = bytes[at];
    if (byte === 0x22) return at + 1;
    if (byte === 0x5c) at++;
  }
  return notOurs;
}
