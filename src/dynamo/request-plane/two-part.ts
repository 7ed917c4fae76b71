/**
 * TwoPartMessage, the frame of both request and response streams: u64 header length, u64 body length, u64 checksum (0 in release builds and
 * never checked), header, body; all big-endian (dynamo-runtime 1.6.1, codec/two_part.rs). The reader refuses a length above its limit before
 * it takes memory for it, and holds a message once, however many reads it came in.
 */

const prefixBytes = 24;
/** Headers are handshakes, prologues and control messages. */
const maxHeaderBytes = 64 * 1024;
const empty = Buffer.alloc(0);

export function encodeTwoPart(header: Buffer, body: Uint8Array = empty): Buffer {
  const message = Buffer.allocUnsafe(prefixBytes + header.length + body.length);
  message.writeBigUInt64BE(BigInt(header.length), 0);
  message.writeBigUInt64BE(BigInt(body.length), 8);
  message.writeBigUInt64BE(0n, 16);
  header.copy(message, prefixBytes);
  message.set(body, prefixBytes + header.length);
  return message;
}

/** Header and body are views valid until the call returns. False stops the reader: what else was read is dropped. */
export type TwoPartHandler = (header: Buffer, body: Buffer) => boolean;

export class TwoPartReader {
  /** Header and body together may not be longer. */
  maxMessageBytes: number;
  readonly #handler: TwoPartHandler;
  readonly #admits: (sizeBytes: number) => boolean;
  readonly #prefix: Buffer;
  #prefixLength: number;
  #headerLength: number;
  /** The message being put together, when it did not come in one read. */
  #message: Buffer | undefined;
  #messageLength: number;
  #filled: number;
  #isStopped: boolean;

  /** `admits` is asked before memory is taken for a message that did not come in one read. */
  constructor(maxMessageBytes: number, handler: TwoPartHandler, admits: (sizeBytes: number) => boolean = admitAll) {
    this.maxMessageBytes = maxMessageBytes;
    this.#handler = handler;
    this.#admits = admits;
    this.#prefix = Buffer.alloc(prefixBytes);
    this.#prefixLength = 0;
    this.#headerLength = 0;
    this.#message = undefined;
    this.#messageLength = 0;
    this.#filled = 0;
    this.#isStopped = false;
  }

  /** Whether a message has begun and not ended. */
  get isInMessage(): boolean {
    return this.#prefixLength > 0;
  }

  /** False when a message is longer than the limit or not admitted: nothing can follow it. */
  push(chunk: Buffer): boolean {
    let at = 0;
    while (!this.#isStopped && (at < chunk.length || this.#isWhole())) {
      if (this.#prefixLength < prefixBytes) {
        const copied = chunk.copy(this.#prefix, this.#prefixLength, at, at + prefixBytes - this.#prefixLength);
        this.#prefixLength += copied;
        at += copied;
        if (this.#prefixLength === prefixBytes && !this.#readPrefix()) return this.#stop();
        continue;
      }
      at = this.#readMessage(chunk, at);
      if (at < 0) return this.#stop();
    }
    return true;
  }

  #stop(): false {
    this.#isStopped = true;
    return false;
  }

  #isWhole(): boolean {
    return this.#prefixLength === prefixBytes && this.#messageLength === 0;
  }

  #readPrefix(): boolean {
    const headerLength = this.#prefix.readUInt32BE(0) * 0x1_0000_0000 + this.#prefix.readUInt32BE(4);
    const bodyLength = this.#prefix.readUInt32BE(8) * 0x1_0000_0000 + this.#prefix.readUInt32BE(12);
    if (headerLength > maxHeaderBytes || headerLength + bodyLength > this.maxMessageBytes) return false;
    this.#headerLength = headerLength;
    this.#messageLength = headerLength + bodyLength;
    return true;
  }

  /** Returns where the next read goes on; -1 when the message is not admitted. */
  #readMessage(chunk: Buffer, at: number): number {
    const total = this.#messageLength;
    let message = this.#message;
    if (message === undefined && chunk.length - at >= total) {
      this.#emit(chunk.subarray(at, at + total));
      return at + total;
    }
    if (message === undefined) {
      if (!this.#admits(total)) return -1;
      // Pages of a large buffer are only taken as they are written: a length that is a lie costs nothing but addresses.
      message = Buffer.allocUnsafeSlow(total);
      this.#message = message;
    }
    const copied = chunk.copy(message, this.#filled, at);
    this.#filled += copied;
    if (this.#filled === total) this.#emit(message);
    return at + copied;
  }

  #emit(message: Buffer): void {
    const header = message.subarray(0, this.#headerLength);
    const body = message.subarray(this.#headerLength);
    this.#prefixLength = 0;
    this.#messageLength = 0;
    this.#filled = 0;
    this.#message = undefined;
    if (!this.#handler(header, body)) this.#isStopped = true;
  }
}

const admitAll = (): boolean => true;
