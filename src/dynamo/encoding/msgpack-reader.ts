/**
 * Reads msgpack. What a container's header promises but the rest of the message cannot hold is refused before anything is read, so a lying
 * size costs nothing.
 */
import { MalformedMessage, maxNesting, maxWork, type PayloadCodec, type ValueReader } from "./value-reader.ts";

export class MsgpackReader implements ValueReader {
  readonly codec: PayloadCodec = "msgpack";
  bytes: Uint8Array;
  view: DataView;
  at: number;
  end: number;
  low: number;
  high: number;
  start: number;
  length: number;
  work: number;
  /** Items or pairs still to come of each container entered. */
  readonly #left: Int32Array;
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
    this.#left = new Int32Array(maxNesting);
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
    this.#enter(this.readMapSize());
  }

  nextKey(): boolean {
    if (!this.nextItem()) return false;
    if (++this.work > maxWork) throw this.#tooMuch();
    this.readStringRange();
    return true;
  }

  enterArray(): void {
    this.#enter(this.readArraySize());
  }

  nextItem(): boolean {
    const index = this.#depth - 1;
    const left = this.#left[index] ?? 0;
    if (left === 0) {
      this.#depth = index;
      return false;
    }
    this.#left[index] = left - 1;
    return true;
  }

  isMap(): boolean {
    const tag = this.peek();
    return (tag >= 0x80 && tag <= 0x8f) || tag === 0xde || tag === 0xdf;
  }

  isString(): boolean {
    const tag = this.peek();
    return (tag >= 0xa0 && tag <= 0xbf) || (tag >= 0xd9 && tag <= 0xdb);
  }

  need(count: number): void {
    if (count > this.end - this.at) throw new MalformedMessage(`ends within a value at byte ${this.at}`);
  }

  peek(): number {
    if (this.at >= this.end) throw new MalformedMessage(`ends where a value should be at byte ${this.at}`);
    return this.view.getUint8(this.at);
  }

  unexpected(wanted: string): MalformedMessage {
    return new MalformedMessage(
      `has 0x${this.view.getUint8(this.at).toString(16)} where ${wanted} should be at byte ${this.at}`,
    );
  }

  /** Number of pairs. */
  readMapSize(): number {
    const tag = this.peek();
    if (tag >= 0x80 && tag <= 0x8f) return this.#sized(1, tag & 0x0f, 2);
    if (tag === 0xde) return this.#sized(3, this.#u16(), 2);
    if (tag === 0xdf) return this.#sized(5, this.#u32(), 2);
    throw this.unexpected("a map");
  }

  readArraySize(): number {
    const tag = this.peek();
    if (tag >= 0x90 && tag <= 0x9f) return this.#sized(1, tag & 0x0f, 1);
    if (tag === 0xdc) return this.#sized(3, this.#u16(), 1);
    if (tag === 0xdd) return this.#sized(5, this.#u32(), 1);
    throw this.unexpected("an array");
  }

  takeNil(): boolean {
    if (this.peek() !== 0xc0) return false;
    this.at++;
    return true;
  }

  readBoolean(): boolean {
    const tag = this.peek();
    if (tag !== 0xc2 && tag !== 0xc3) throw this.unexpected("a boolean");
    this.at++;
    return tag === 0xc3;
  }

  readU64(): void {
    const tag = this.peek();
    if (tag === 0xcf) {
      this.need(9);
      this.high = this.view.getUint32(this.at + 1);
      this.low = this.view.getUint32(this.at + 5);
      this.at += 9;
      return;
    }
    this.high = 0;
    if (tag <= 0x7f) {
      this.low = tag;
      this.at++;
      return;
    }
    switch (tag) {
      case 0xcc:
        this.need(2);
        this.low = this.view.getUint8(this.at + 1);
        this.at += 2;
        return;
      case 0xcd:
        this.low = this.#u16();
        this.at += 3;
        return;
      case 0xce:
        this.low = this.#u32();
        this.at += 5;
        return;
      default:
        this.#readSigned(tag);
    }
  }

  /** Leaves the range in `start` and `length`; the bytes are not checked to be UTF-8. */
  readStringRange(): void {
    const tag = this.peek();
    if (tag >= 0xa0 && tag <= 0xbf) this.#range(1, tag & 0x1f);
    else if (tag === 0xd9) this.#range(2, this.#u8());
    else if (tag === 0xda) this.#range(3, this.#u16());
    else if (tag === 0xdb) this.#range(5, this.#u32());
    else throw this.unexpected("a string");
  }

  /** Leaves the range in `start` and `length`. */
  readBinaryRange(): void {
    const tag = this.peek();
    if (tag === 0xc4) this.#range(2, this.#u8());
    else if (tag === 0xc5) this.#range(3, this.#u16());
    else if (tag === 0xc6) this.#range(5, this.#u32());
    else throw this.unexpected("bytes");
  }

  skip(): void {
    this.#skipNested(this.#depth);
  }

  #skipNested(depth: number): void {
    if (depth > maxNesting) throw new MalformedMessage(`is nested deeper than ${maxNesting} at byte ${this.at}`);
    if (++this.work > maxWork) throw this.#tooMuch();
    const tag = this.peek();
    if (tag <= 0x7f || tag >= 0xe0) {
      this.at++;
      return;
    }
    if (tag <= 0x8f || tag === 0xde || tag === 0xdf) {
      this.#skipMany(2 * this.readMapSize(), depth);
      return;
    }
    if (tag <= 0x9f || tag === 0xdc || tag === 0xdd) {
      this.#skipMany(this.readArraySize(), depth);
      return;
    }
    this.#skipScalar(tag);
  }

  #tooMuch(): MalformedMessage {
    return new MalformedMessage(
      `has more than ${maxWork} keys and values that nobody asked for before byte ${this.at}`,
    );
  }

  #enter(count: number): void {
    if (this.#depth === maxNesting)
      throw new MalformedMessage(`is nested deeper than ${maxNesting} at byte ${this.at}`);
    this.#left[this.#depth++] = count;
  }

  #skipMany(count: number, depth: number): void {
    for (let index = 0; index < count; index++) this.#skipNested(depth + 1);
  }

  #skipScalar(tag: number): void {
    const length = tag <= 0xbf ? 1 + (tag & 0x1f) : this.#scalarLength(tag);
    this.need(length);
    this.at += length;
  }

  /** Bytes of the value, its tag included. */
  #scalarLength(tag: number): number {
    switch (tag) {
      case 0xc0:
      case 0xc2:
      case 0xc3:
        return 1;
      case 0xc4:
      case 0xd9:
        return 2 + this.#u8();
      case 0xc5:
      case 0xda:
        return 3 + this.#u16();
      case 0xc6:
      case 0xdb:
        return 5 + this.#u32();
      case 0xc7:
        return 3 + this.#u8();
      case 0xc8:
        return 4 + this.#u16();
      case 0xc9:
        return 6 + this.#u32();
      case 0xcc:
      case 0xd0:
        return 2;
      case 0xcd:
      case 0xd1:
        return 3;
      case 0xca:
      case 0xce:
      case 0xd2:
        return 5;
      case 0xcb:
      case 0xcf:
      case 0xd3:
        return 9;
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return 2 + (1 << (tag - 0xd4));
      default:
        throw this.unexpected("a value");
    }
  }

  /** A container says its size before its items: what cannot fit into the rest of the message is refused before anything is allocated. */
  #sized(header: number, count: number, valuesEach: number): number {
    this.need(header);
    this.at += header;
    if (count * valuesEach > this.end - this.at)
      throw new MalformedMessage(`has ${count} items in too few bytes at byte ${this.at}`);
    return count;
  }

  #range(header: number, length: number): void {
    this.need(header + length);
    this.start = this.at + header;
    this.length = length;
    this.at += header + length;
  }

  #readSigned(tag: number): void {
    const width = tag === 0xd0 ? 1 : tag === 0xd1 ? 2 : tag === 0xd2 ? 4 : tag === 0xd3 ? 8 : 0;
    if (width === 0) throw this.unexpected("a number");
    this.need(1 + width);
    if (this.view.getInt8(this.at + 1) < 0) throw this.unexpected("a number that is not negative");
    this.high = width === 8 ? this.view.getUint32(this.at + 1) : 0;
    if (width === 8) this.low = this.view.getUint32(this.at + 5);
    else if (width === 4) this.low = this.view.getUint32(this.at + 1);
    else if (width === 2) this.low = this.view.getUint16(this.at + 1);
    else this.low = this.view.getUint8(this.at + 1);
    this.at += 1 + width;
  }

  #u8(): number {
    this.need(2);
    return this.view.getUint8(this.at + 1);
  }

  #u16(): number {
    this.need(3);
    return this.view.getUint16(this.at + 1);
  }

  #u32(): number {
    this.need(5);
    return this.view.getUint32(this.at + 1);
  }
}
