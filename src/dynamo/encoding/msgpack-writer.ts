/** Writes msgpack into one growing buffer, maps with string keys as Dynamo's peers expect them. Numbers take their shortest form. */

const initialBytes = 512;

export class MsgpackWriter {
  #bytes: Buffer;
  #length: number;

  constructor() {
    this.#bytes = Buffer.allocUnsafe(initialBytes);
    this.#length = 0;
  }

  /** A view of what was written since the last `reset`, valid until the next write. */
  finish(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  reset(): void {
    this.#length = 0;
  }

  map(pairs: number): void {
    this.#size(pairs, 0x80, 0xde);
  }

  array(items: number): void {
    this.#size(items, 0x90, 0xdc);
  }

  nil(): void {
    this.#byte(0xc0);
  }

  boolean(value: boolean): void {
    this.#byte(value ? 0xc3 : 0xc2);
  }

  string(text: string): void {
    const length = Buffer.byteLength(text);
    this.#room(length + 5);
    if (length < 32) this.#byte(0xa0 | length);
    else this.#length1(length, 0xd9, 0xda, 0xdb);
    this.#bytes.write(text, this.#length);
    this.#length += length;
  }

  binary(bytes: Uint8Array): void {
    this.#room(bytes.byteLength + 5);
    this.#length1(bytes.byteLength, 0xc4, 0xc5, 0xc6);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.byteLength;
  }

  /** A safe integer that is not negative. */
  integer(value: number): void {
    this.u64(value >>> 0, Math.floor(value / 0x1_0000_0000));
  }

  bigint(value: bigint): void {
    this.u64(Number(value & 0xffff_ffffn), Number(value >> 32n));
  }

  u64(low: number, high: number): void {
    this.#room(9);
    if (high !== 0) {
      this.#byte(0xcf);
      this.#bytes.writeUInt32BE(high, this.#length);
      this.#bytes.writeUInt32BE(low, this.#length + 4);
      this.#length += 8;
    } else if (low < 0x80) this.#byte(low);
    else this.#length1(low, 0xcc, 0xcd, 0xce);
  }

  #size(count: number, fix: number, tag16: number): void {
    this.#room(5);
    if (count < 16) this.#byte(fix | count);
    else this.#length1(count, undefined, tag16, tag16 + 1);
  }

  #length1(value: number, tag8: number | undefined, tag16: number, tag32: number): void {
    this.#room(5);
    if (value < 0x100 && tag8 !== undefined) {
      this.#byte(tag8);
      this.#byte(value);
    } else if (value < 0x1_0000) {
      this.#byte(tag16);
      this.#length = this.#bytes.writeUInt16BE(value, this.#length);
    } else {
      this.#byte(tag32);
      this.#length = this.#bytes.writeUInt32BE(value, this.#length);
    }
  }

  #byte(value: number): void {
    this.#room(1);
    this.#bytes[this.#length++] = value;
  }

  #room(count: number): void {
    if (this.#length + count <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(2 * this.#bytes.length, this.#length + count));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
  }
}
