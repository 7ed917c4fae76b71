/**
 * Reads msgpack as Dynamo's components send it. What a container's header promises but the rest of the message cannot hold is refused before anything is
 * read, so a lying size costs nothing.
 */
import { MsgpackCursor } from "./msgpack-cursor.ts";
import { MalformedMessage, maxNesting, maxWork, type PayloadCodec, type ValueReader } from "./value-reader.ts";

const noView = new DataView(new ArrayBuffer(0));

export class MsgpackReader extends MsgpackCursor implements ValueReader {
  readonly codec: PayloadCodec = "msgpack";
  view: DataView = noView;
  end = 0;
  work = 0;
  /** Items or pairs still to come of each container entered. */
  readonly #left = new Int32Array(maxNesting);
  #depth = 0;

  open(bytes: Uint8Array): void {
    const { buffer, byteOffset, byteLength } = bytes;
    this.reset(Buffer.isBuffer(bytes) ? bytes : Buffer.from(buffer, byteOffset, byteLength));
    this.view = new DataView(buffer, byteOffset, byteLength);
    this.end = byteLength;
    this.work = 0;
    this.#depth = 0;
  }

  restart(at: number): void {
    this.at = at;
    this.#depth = 0;
  }

  enterMap(): void {
    this.#enter(this.mapLength(), 2);
  }

  nextKey(): boolean {
    if (!this.nextItem()) return false;
    if (++this.work > maxWork) {
      throw new MalformedMessage(`has more than ${maxWork} keys and values before byte ${this.at}`);
    }
    this.text();
    return true;
  }

  enterArray(): void {
    this.#enter(this.arrayLength(), 1);
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
    return this.kind() === "map";
  }

  isString(): boolean {
    return this.kind() === "text";
  }

  readU64(): void {
    const { at } = this;
    const head = this.head();
    this.u64();
    // Of the heads from 0xd0 on only integers with a sign are read.
    if (head >= 0xd0 && this.high >= 0x8000_0000) throw new MalformedMessage(`has a negative number at byte ${at}`);
  }

  /** Leaves the range in `start` and `length`; the bytes are not checked to be UTF-8. */
  readStringRange(): void {
    this.text();
  }

  override skip(): void {
    this.work += this.pass(maxWork - this.work);
  }

  /** A container says its size before its items: what cannot fit into the rest of the message is refused before anything is allocated. */
  #enter(count: number, valuesEach: number): void {
    if (count * valuesEach > this.end - this.at)
      throw new MalformedMessage(`has ${count} items in too few bytes at byte ${this.at}`);
    if (this.#depth === maxNesting)
      throw new MalformedMessage(`is nested deeper than ${maxNesting} at byte ${this.at}`);
    this.#left[this.#depth++] = count;
  }
}
