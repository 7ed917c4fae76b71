/**
 * Reads JSON bytes the way the msgpack reader reads its own, with every integer exact: digits become two u32, never a double. White space may
 * stand anywhere; keys with escapes match nothing and are skipped.
 */
import { MalformedMessage, maxNesting, maxWork, type PayloadCodec, type ValueReader } from "./value-reader.ts";

const quote = 0x22;
const comma = 0x2c;
const colon = 0x3a;
const backslash = 0x5c;
const openBracket = 0x5b;
const closeBracket = 0x5d;
const openBrace = 0x7b;
const closeBrace = 0x7d;

/** What bytes of strings and of white space count for beside a key or a value. */
const bytesPerWork = 8;
const maxNumberBytes = 1024;
const maxWhiteSpace = 64 * 1024;

export class JsonReader implements ValueReader {
  readonly codec: PayloadCodec = "json";
  bytes: Uint8Array;
  view: DataView;
  at: number;
  end: number;
  low: number;
  high: number;
  start: number;
  length: number;
  work: number;
  /** For each container entered, whether an item was read. */
  readonly #begun: Uint8Array;
  #depth: number;

  constructor() {
    this.bytes = new Uint8Array(0);
    this.view = new DataView(this.bytes.buffer);
    this.at = 0;
    this.end = 0;
    this.low = 0;
    this.high = 0;
    this.start = 0;
    this.length = 0;
    this.work = 0;
    this.#begun = new Uint8Array(maxNesting);
    this.#depth = 0;
  }

  open(bytes: Uint8Array): void {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
    this.end = bytes.byteLength;
    this.work = 0;
    this.#depth = 0;
  }

  restart(at: number): void {
    this.at = at;
    this.#depth = 0;
  }

  enterMap(): void {
    this.#enter(openBrace);
  }

  nextKey(): boolean {
    if (!this.#next(closeBrace)) return false;
    this.#spend(1);
    this.readStringRange();
    this.#expect(colon);
    return true;
  }

  enterArray(): void {
    this.#enter(openBracket);
  }

  nextItem(): boolean {
    return this.#next(closeBracket);
  }

  isMap(): boolean {
    return this.#peek() === openBrace;
  }

  isString(): boolean {
    return this.#peek() === quote;
  }

  takeNil(): boolean {
    if (this.#peek() !== 0x6e) return false;
    this.#literal("null");
    return true;
  }

  readBoolean(): boolean {
    const isTrue = this.#peek() === 0x74;
    this.#literal(isTrue ? "true" : "false");
    return isTrue;
  }

  readU64(): void {
    let byte = this.#peek();
    if (byte < 0x30 || byte > 0x39) throw this.#unexpected("a number that is not negative");
    // low × 10 stays far below 2^53, so the carry into high is exact.
    let low = 0;
    let high = 0;
    let digits = 0;
    while (byte >= 0x30 && byte <= 0x39) {
      const grown = low * 10 + (byte - 0x30);
      low = grown >>> 0;
      high = high * 10 + (grown - low) / 0x1_0000_0000;
      if (++digits > 20 || high > 0xffff_ffff) throw new MalformedMessage(`has a number above 2^64 at byte ${this.at}`);
      this.at++;
      byte = this.at < this.end ? this.view.getUint8(this.at) : 0;
    }
    if (byte === 0x2e || byte === 0x65 || byte === 0x45) throw this.#unexpected("an integer");
    this.low = low;
    this.high = high;
  }

  readStringRange(): void {
    this.#expect(quote);
    const start = this.at;
    let at = start;
    const { view } = this;
    // What may still be spent ends the string as the end of the bytes does.
    const end = Math.min(this.end, start + (maxWork - this.work) * bytesPerWork);
    for (;;) {
      if (at >= end && end < this.end) throw this.#tooMuch();
      if (at >= end) throw new MalformedMessage(`ends within a string at byte ${start}`);
      const byte = view.getUint8(at);
      if (byte === quote) break;
      at += byte === backslash ? 2 : 1;
    }
    this.start = start;
    this.length = at - start;
    this.work += this.length / bytesPerWork;
    this.at = at + 1;
  }

  skip(): void {
    this.#skipNested(this.#depth);
  }

  #skipNested(depth: number): void {
    if (depth > maxNesting) throw new MalformedMessage(`is nested deeper than ${maxNesting} at byte ${this.at}`);
    this.#spend(1);
    switch (this.#peek()) {
      case openBrace:
        this.#skipContainer(depth, openBrace, closeBrace);
        return;
      case openBracket:
        this.#skipContainer(depth, openBracket, closeBracket);
        return;
      case quote:
        this.readStringRange();
        return;
      case 0x74:
        this.#literal("true");
        return;
      case 0x66:
        this.#literal("false");
        return;
      case 0x6e:
        this.#literal("null");
        return;
      default:
        this.#skipNumber();
    }
  }

  #skipContainer(depth: number, open: number, close: number): void {
    this.#expect(open);
    if (this.#peek() === close) {
      this.at++;
      return;
    }
    for (;;) {
      if (close === closeBrace) {
        this.readStringRange();
        this.#expect(colon);
      }
      this.#skipNested(depth + 1);
      if (this.#peek() === close) break;
      this.#expect(comma);
    }
    this.at++;
  }

  #skipNumber(): void {
    const start = this.at;
    const end = Math.min(this.end, start + maxNumberBytes);
    for (; this.at < end; this.at++) {
      const byte = this.view.getUint8(this.at);
      const isPart =
        (byte >= 0x30 && byte <= 0x39) ||
        byte === 0x2d ||
        byte === 0x2b ||
        byte === 0x2e ||
        byte === 0x65 ||
        byte === 0x45;
      if (!isPart) break;
    }
    if (this.at === start) throw this.#unexpected("a value");
  }

  #enter(open: number): void {
    this.#expect(open);
    if (this.#depth === maxNesting)
      throw new MalformedMessage(`is nested deeper than ${maxNesting} at byte ${this.at}`);
    this.#begun[this.#depth++] = 0;
  }

  #next(close: number): boolean {
    const index = this.#depth - 1;
    const byte = this.#peek();
    if (byte === close) {
      this.at++;
      this.#depth = index;
      return false;
    }
    if (this.#begun[index] === 1) this.#expect(comma);
    else this.#begun[index] = 1;
    return true;
  }

  #literal(text: string): void {
    this.#peek();
    for (let index = 0; index < text.length; index++) {
      if (this.at >= this.end || this.view.getUint8(this.at) !== text.charCodeAt(index)) throw this.#unexpected(text);
      this.at++;
    }
  }

  #expect(wanted: number): void {
    if (this.#peek() !== wanted) throw this.#unexpected(String.fromCharCode(wanted));
    this.at++;
  }

  #spend(count: number): void {
    this.work += count;
    if (this.work > maxWork) throw this.#tooMuch();
  }

  #tooMuch(): MalformedMessage {
    return new MalformedMessage(
      `has more than ${maxWork} keys and values that nobody asked for before byte ${this.at}`,
    );
  }

  /** The next byte that is not white space. */
  #peek(): number {
    const start = this.at;
    while (this.at < this.end) {
      const byte = this.view.getUint8(this.at);
      if (byte > 0x20) {
        if (this.at - start >= bytesPerWork) this.#spend((this.at - start) / bytesPerWork);
        return byte;
      }
      if (this.at - start > maxWhiteSpace) throw this.#tooMuch();
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) break;
      this.at++;
    }
    if (this.at >= this.end) throw new MalformedMessage(`ends where a value should be at byte ${this.at}`);
    throw this.#unexpected("a value");
  }

  #unexpected(wanted: string): MalformedMessage {
    if (this.at >= this.end) return new MalformedMessage(`ends where ${wanted} should be at byte ${this.at}`);
    return new MalformedMessage(
      `has 0x${this.view.getUint8(this.at).toString(16)} where ${wanted} should be at byte ${this.at}`,
    );
  }
}
