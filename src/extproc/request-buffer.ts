/**
 * Collects the chunks of one request body and hands them out contiguous. A body that comes as one chunk is never copied, unless its view
 * would keep a receive slab several times its size alive; small chunks are gathered in blocks, so that a body sent byte by byte costs
 * memory in proportion to its length.
 */

/** Chunks below this are copied into a block: a view object and its list entry cost more than the copy. */
const smallChunkBytes = 4_096;
const blockBytes = 16_384;
/** A slab may be this much larger than the view that holds it. */
const slabSlackBytes = 16_384;

const empty = Buffer.alloc(0);

export class RequestBuffer {
  #length: number;
  #first: Buffer;
  /** Undefined while one chunk is all there is. */
  #rest: Buffer[] | undefined;
  #block: Buffer | undefined;
  /** Bytes of the block that are handed out. */
  #blockUsed: number;
  /** Where in the block the last entry of the list begins, -1 when the last entry is no part of the block. */
  #blockStart: number;

  constructor() {
    this.#length = 0;
    this.#first = empty;
    this.#rest = undefined;
    this.#block = undefined;
    this.#blockUsed = 0;
    this.#blockStart = -1;
  }

  get length(): number {
    return this.#length;
  }

  /** Takes a view over; its bytes must not change afterwards. */
  append(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#length += chunk.length;
    if (this.#first.length === 0) {
      this.#first = pinsTooMuch(chunk) ? Buffer.from(chunk) : chunk;
      return;
    }
    let rest = this.#rest;
    if (rest === undefined) {
      rest = [this.#first];
      this.#rest = rest;
    }
    if (chunk.length < smallChunkBytes) {
      this.#appendToBlock(rest, chunk);
    } else {
      this.#blockStart = -1;
      rest.push(pinsTooMuch(chunk) ? Buffer.from(chunk) : chunk);
    }
  }

  #appendToBlock(rest: Buffer[], chunk: Buffer): void {
    let block = this.#block;
    if (block === undefined || this.#blockUsed + chunk.length > block.length) {
      block = Buffer.allocUnsafeSlow(blockBytes);
      this.#block = block;
      this.#blockUsed = 0;
      this.#blockStart = -1;
    }
    block.set(chunk, this.#blockUsed);
    const end = this.#blockUsed + chunk.length;
    if (this.#blockStart < 0) {
      this.#blockStart = this.#blockUsed;
      rest.push(block.subarray(this.#blockStart, end));
    } else {
      rest[rest.length - 1] = block.subarray(this.#blockStart, end);
    }
    this.#blockUsed = end;
  }

  /** The whole body. The buffer is empty afterwards. */
  take(): Buffer {
    const body = this.#rest === undefined ? this.#first : Buffer.concat(this.#rest, this.#length);
    this.clear();
    return body;
  }

  clear(): void {
    this.#length = 0;
    this.#first = empty;
    this.#rest = undefined;
    this.#block = undefined;
    this.#blockUsed = 0;
    this.#blockStart = -1;
  }
}

function pinsTooMuch(chunk: Buffer): boolean {
  return chunk.buffer.byteLength > chunk.length * 4 + slabSlackBytes;
}
