// biome-ignore-all lint/style/noNonNullAssertion: hot loops over bytes; each index was compared with an end within the buffer.
/**
 * A cursor over protobuf wire bytes (protobuf.dev/programming-guides/encoding). Every read is checked against the end it is given, so no
 * byte outside the message is ever looked at; groups and malformed varints throw CodecError.
 */
import { CodecError } from "../messages.ts";

/** Deeper nesting than this is refused (protobuf's own default limit is 100). */
const maxDepth = 100;

export class WireReader {
  bytes: Buffer;
  position: number;

  constructor() {
    this.bytes = Buffer.alloc(0);
    this.position = 0;
  }

  /** Exact up to 2^53; larger values stay non-zero and larger than any length. */
  varint(end: number): number {
    const { bytes } = this;
    let position = this.position;
    if (position >= end) throw truncated();
    let byte = bytes[position++]!;
    if (byte < 0x80) {
      this.position = position;
      return byte;
    }
    let value = byte & 0x7f;
    let scale = 128;
    for (let count = 1; count < 10; count++) {
      if (position >= end) throw truncated();
      byte = bytes[position++]!;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        this.position = position;
        return value;
      }
      scale *= 128;
    }
    throw new CodecError("a varint is longer than 10 bytes");
  }

  /** Field number × 8 + wire type. */
  tag(end: number): number {
    const tag = this.varint(end);
    if (tag < 8 || tag > 0xffffffff) throw new CodecError("a field number is out of range");
    return tag;
  }

  /** Reads the length of a delimited field and returns where the field ends. */
  delimitedEnd(end: number): number {
    const length = this.varint(end);
    if (length > end - this.position) throw truncated();
    return this.position + length;
  }

  skip(tag: number, end: number): void {
    switch (tag & 7) {
      case 0:
        this.varint(end);
        return;
      case 1:
        this.advance(8, end);
        return;
      case 2:
        this.position = this.delimitedEnd(end);
        return;
      case 5:
        this.advance(4, end);
        return;
      default:
        throw new CodecError("a field has a wire type that is not supported");
    }
  }

  private advance(count: number, end: number): void {
    if (end - this.position < count) throw truncated();
    this.position += count;
  }
}

export function refuseDepth(depth: number): void {
  if (depth > maxDepth) throw new CodecError("metadata is nested too deeply");
}

function truncated(): CodecError {
  return new CodecError("the message is truncated");
}
