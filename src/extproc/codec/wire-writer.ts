/**
 * Writes one protobuf message from its last byte to its first into a shared slab, so that lengths of nested messages are known when they
 * are written and nothing is measured twice. A message may end in a tail of foreign bytes (a body) which are counted and never copied.
 *
 *     slab   ……[free][message, growing to the left ◂][earlier messages, read-only from now on]
 */
const slabBytes = 64 * 1024;

export class WireWriter {
  private slab: Buffer;
  private position: number;
  private messageEnd: number;
  private tailBytes: number;

  constructor() {
    this.slab = Buffer.allocUnsafeSlow(slabBytes);
    this.position = slabBytes;
    this.messageEnd = slabBytes;
    this.tailBytes = 0;
  }

  /** Begins a message that will be followed by `tailBytes` bytes which the caller appends. */
  begin(tailBytes: number): void {
    this.messageEnd = this.position;
    this.tailBytes = tailBytes;
  }

  /** The bytes written since `begin`. The view stays valid: the slab is not written there again. */
  finish(): Buffer {
    return this.slab.subarray(this.position, this.messageEnd);
  }

  /** Bytes of the message so far, its tail included: a mark for `delimited`. */
  get written(): number {
    return this.messageEnd - this.position + this.tailBytes;
  }

  /** Makes what was written since `mark` the content of a length-delimited field with this one-byte tag. */
  delimited(tag: number, mark: number): void {
    this.varint(this.messageEnd - this.position + this.tailBytes - mark);
    this.byte(tag);
  }

  /** A field of one-byte tag with a varint that is below 2^32. */
  varintField(tag: number, value: number): void {
    this.varint(value);
    this.byte(tag);
  }

  doubleField(tag: number, value: number): void {
    this.reserve(8);
    this.position -= 8;
    this.slab.writeDoubleLE(value, this.position);
    this.byte(tag);
  }

  stringField(tag: number, text: string): void {
    const mark = this.written;
    this.text(text);
    this.delimited(tag, mark);
  }

  private byte(value: number): void {
    this.reserve(1);
    this.slab[--this.position] = value;
  }

  private varint(value: number): void {
    this.reserve(5);
    const { slab } = this;
    if (value < 0x80) {
      slab[--this.position] = value;
      return;
    }
    let size = 2;
    for (let rest = value >>> 14; rest !== 0; rest >>>= 7) size++;
    this.position -= size;
    let at = this.position;
    let rest = value;
    while (rest >= 0x80) {
      slab[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    slab[at] = rest;
  }

  private text(text: string): void {
    const { length } = text;
    this.reserve(length);
    const { slab } = this;
    let at = this.position;
    for (let index = length - 1; index >= 0; index--) {
      const code = text.charCodeAt(index);
      if (code >= 0x80) {
        this.wideText(text);
        return;
      }
      slab[--at] = code;
    }
    this.position = at;
  }

  private wideText(text: string): void {
    const size = Buffer.byteLength(text);
    this.reserve(size);
    this.position -= size;
    this.slab.write(text, this.position);
  }

  /** Moves an unfinished message to a new slab when the free part is too small. */
  private reserve(count: number): void {
    if (this.position >= count) return;
    const size = this.messageEnd - this.position;
    const slab = Buffer.allocUnsafeSlow(Math.max(slabBytes, (size + count) * 2));
    this.slab.copy(slab, slab.length - size, this.position, this.messageEnd);
    this.slab = slab;
    this.messageEnd = slab.length;
    this.position = slab.length - size;
  }
}
