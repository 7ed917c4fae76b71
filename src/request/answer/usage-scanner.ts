/**
 * Finds the usage object in an answer that passes by in pieces cut anywhere. It looks for the key's bytes alone: inside a JSON string its
 * quotes would be escaped, so that no state of the document has to be kept and neither SSE framing nor the answer's length matters.
 * Memory is bounded: an object of more than maxObjectBytes is passed over.
 *
 *   searching ──key──▶ colon ──:──▶ value ──{──▶ inside ──matching }──▶ searching
 *       ▲                │            │             │
 *       └── another byte ┴────────────┴── too long ─┘
 */
import { isKeyOpening, isSpace, tailPrefixLength } from "./json-key.ts";

const maxObjectBytes = 65_536;
/** A piece of up to this size is searched here: a call into node costs more than looking at every seventh byte of an event. */
const smallPieceBytes = 2_048;

const searching = 0;
const colon = 1;
const value = 2;
const inside = 3;

/** A key made ready once for all answers. */
export interface ScannedKey {
  readonly bytes: Buffer;
  /** By the byte under the key's last: how far the key moves on (Horspool's search). */
  readonly shifts: Uint8Array;
}

/** `key` with its quotes. */
export function scannedKey(key: string): ScannedKey {
  const bytes = Buffer.from(key);
  const shifts = new Uint8Array(256).fill(bytes.length);
  for (let at = 0; at < bytes.length - 1; at++) shifts[bytes[at] ?? 0] = bytes.length - 1 - at;
  return { bytes, shifts };
}

export class UsageScanner {
  readonly #key: Buffer;
  readonly #shifts: Uint8Array;
  readonly #found: (json: string) => void;
  #state = searching;
  /** Bytes of the key that the last piece ended with. */
  #matched = 0;
  #matchedOpensKey = false;
  /** The byte before the next piece; a space stands for the beginning. */
  #before = 0x20;
  #depth = 0;
  #inString = false;
  #escaped = false;
  /** The object's bytes in earlier pieces. */
  #head: Buffer[] = [];
  #headBytes = 0;

  /** `found` gets the text of each object that is the value of that key. */
  constructor({ bytes, shifts }: ScannedKey, found: (json: string) => void) {
    this.#key = bytes;
    this.#shifts = shifts;
    this.#found = found;
  }

  push(piece: Buffer): void {
    let at = 0;
    while (at < piece.length) {
      switch (this.#state) {
        case searching:
          at = this.#search(piece, at);
          break;
        case colon:
          at = this.#expect(piece, at, 0x3a, value);
          break;
        case value:
          at = this.#expect(piece, at, 0x7b, inside);
          break;
        default:
          at = this.#collect(piece, at);
      }
    }
    if (piece.length > 0) this.#before = piece[piece.length - 1] ?? 0;
  }

  #search(piece: Buffer, from: number): number {
    let at = from;
    if (this.#matched > 0) {
      while (at < piece.length && this.#matched < this.#key.length && piece[at] === this.#key[this.#matched]) {
        at++;
        this.#matched++;
      }
      if (this.#matched === this.#key.length) {
        this.#matched = 0;
        if (this.#matchedOpensKey) this.#state = colon;
        return at;
      }
      if (at === piece.length) return at;
      // no proper prefix of the key ends as the key begins: the search goes on at the byte that did not fit
      this.#matched = 0;
    }
    const index = piece.length <= smallPieceBytes ? this.#indexIn(piece, at) : piece.indexOf(this.#key, at);
    if (index >= 0) {
      if (isKeyOpening(index === 0 ? this.#before : (piece[index - 1] ?? 0))) this.#state = colon;
      return index + this.#key.length;
    }
    this.#matched = tailPrefixLength(piece, at, this.#key);
    const tail = piece.length - this.#matched;
    this.#matchedOpensKey = isKeyOpening(tail === 0 ? this.#before : (piece[tail - 1] ?? 0));
    return piece.length;
  }

  #indexIn(piece: Buffer, from: number): number {
    const key = this.#key;
    const last = key.length - 1;
    for (let end = from + last; end < piece.length; end += this.#shifts[piece[end] ?? 0] ?? 1) {
      let back = 0;
      while (back <= last && piece[end - back] === key[last - back]) back++;
      if (back > last) return end - last;
    }
    return -1;
  }

  #expect(piece: Buffer, from: number, byte: number, next: number): number {
    let at = from;
    while (at < piece.length && isSpace(piece[at] ?? 0)) at++;
    if (at === piece.length) return at;
    if (piece[at] !== byte) {
      this.#state = searching;
      return at;
    }
    this.#state = next;
    // the opening brace is the object's first byte
    return next === inside ? at : at + 1;
  }

  #collect(piece: Buffer, from: number): number {
    const limit = Math.min(piece.length, from + maxObjectBytes - this.#headBytes);
    for (let at = from; at < limit; at++) {
      const byte = piece[at] ?? 0;
      if (this.#escaped) this.#escaped = false;
      else if (this.#inString) {
        if (byte === 0x22) this.#inString = false;
        else if (byte === 0x5c) this.#escaped = true;
      } else if (byte === 0x22) this.#inString = true;
      else if (byte === 0x7b || byte === 0x5b) this.#depth++;
      else if ((byte === 0x7d || byte === 0x5d) && --this.#depth === 0) {
        this.#complete(piece.subarray(from, at + 1));
        return at + 1;
      }
    }
    if (limit < piece.length) {
      this.#reset();
      return limit;
    }
    this.#head.push(piece.subarray(from));
    this.#headBytes += piece.length - from;
    return piece.length;
  }

  #complete(tail: Buffer): void {
    const text = this.#head.length === 0 ? tail : Buffer.concat([...this.#head, tail]);
    this.#reset();
    this.#found(text.toString());
  }

  #reset(): void {
    this.#state = searching;
    this.#depth = 0;
    this.#inString = false;
    this.#escaped = false;
    this.#head = [];
    this.#headBytes = 0;
  }
}
