/**
 * What this replica has to say, in the order it happened, as one stream of bytes that every peer reads at its own pace: written once however
 * many peers there are. The newest bytes are kept; a peer that falls behind them gets everything anew, so nobody's slowness costs memory.
 */
import { maxSharedPayloadBytes } from "../shared-state.ts";

/** Before each payload: its length and its topic, four bytes each. */
export const entryHeaderBytes = 8;

export const segmentBytes = 65_536;
const defaultMaxBytes = 8 * 1024 * 1024;

interface Segment {
  /** Offset of its first byte. */
  readonly from: number;
  /** Never written twice, as sockets may still hold views of it. */
  readonly bytes: Buffer;
  used: number;
}

export class ChangeLog {
  readonly #maxSegments: number;
  readonly #segments: Segment[] = [];
  #head = 0;

  constructor(maxBytes: number = defaultMaxBytes) {
    this.#maxSegments = Math.max(2, Math.floor(maxBytes / segmentBytes));
  }

  /** Offset of the byte that is written next. */
  get head(): number {
    return this.#head;
  }

  /** Offset of the oldest byte that is kept. */
  get first(): number {
    return this.#segments[0]?.from ?? this.#head;
  }

  /** Copies the payload. False where it is too long to be told. */
  append(topicId: number, payload: Uint8Array, length: number): boolean {
    if (length > maxSharedPayloadBytes) return false;
    const segment = this.#roomFor(entryHeaderBytes + length);
    const { bytes } = segment;
    let at = bytes.writeUInt32LE(length, segment.used);
    at = bytes.writeUInt32LE(topicId, at);
    bytes.set(length === payload.length ? payload : payload.subarray(0, length), at);
    segment.used = at + length;
    this.#head += entryHeaderBytes + length;
    return true;
  }

  /** Whole entries from the offset on, as many as lie together; undefined where the offset is not kept, empty at the head. */
  read(offset: number): Buffer | undefined {
    if (offset === this.#head) return nothing;
    for (let i = this.#segments.length - 1; i >= 0; i--) {
      const { from, bytes, used } = this.#segments[i] as Segment;
      if (offset >= from) return offset < from + used ? bytes.subarray(offset - from, used) : undefined;
    }
    return undefined;
  }

  #roomFor(length: number): Segment {
    const last = this.#segments.at(-1);
    if (last !== undefined && last.used + length <= segmentBytes) return last;
    const segment = { from: this.#head, bytes: Buffer.allocUnsafeSlow(segmentBytes), used: 0 };
    this.#segments.push(segment);
    if (this.#segments.length > this.#maxSegments) this.#segments.shift();
    return segment;
  }
}

const nothing = Buffer.alloc(0);
