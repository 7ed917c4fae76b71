/**
 * Frames between replicas: four bytes of length (little-endian, of what follows), one byte of kind, and a body. Whoever reads bounds the length
 * before it keeps a byte, so that a peer that lies about it costs nothing.
 */
import { segmentBytes } from "./change-log.ts";

export type FrameKind = (typeof frameKinds)[number];

/** The byte of a kind is its place here. */
const frameKinds = [
  "none",
  /** Reader → writer: who asks, and from where on it wants to be told. */
  "subscribe",
  /** Writer → reader: who answers. */
  "welcome",
  /** Writer → reader: why not; the connection ends. */
  "refused",
  /** All of the writer's own values follow in "own", up to "replaced". */
  "replace",
  "own",
  "replaced",
  /** Part of the log. */
  "changes",
  /** What the writer knows, for a reader that has nothing. */
  "known",
  "known-end",
  /** The writer is there, and where its log ends. */
  "alive",
  /** The writer ends in good order. */
  "bye",
  /** Reader → writer: how far it has read. */
  "read",
] as const;

const kindBytes: ReadonlyMap<FrameKind, number> = new Map(frameKinds.map((kind, byte) => [kind, byte]));

export const frameHeaderBytes = 5;
/** A segment of the log behind its offset. */
export const maxBodyBytes = segmentBytes + 8;

/** What a peer sent is no word of this protocol. The connection is of no use any more. */
export class PeerProtocolError extends Error {
  readonly code = "PEER_PROTOCOL";
  constructor(message: string) {
    super(message);
    this.name = "PeerProtocolError";
  }
}

export function encodeFrame(kind: FrameKind, body: Uint8Array = noBody): Buffer {
  const frame = Buffer.allocUnsafe(frameHeaderBytes + body.length);
  writeHeader(frame, kind, body.length);
  frame.set(body, frameHeaderBytes);
  return frame;
}

/** A frame whose body is one offset. */
export function encodeOffsetFrame(kind: FrameKind, offset: number): Buffer {
  return encodeChangesHeader(kind, offset, 0);
}

/** Header and offset of a frame whose other `length` bytes are sent apart, uncopied. */
export function encodeChangesHeader(kind: FrameKind, offset: number, length: number): Buffer {
  const head = Buffer.allocUnsafe(frameHeaderBytes + 8);
  writeHeader(head, kind, 8 + length);
  head.writeDoubleLE(offset, frameHeaderBytes);
  return head;
}

/** The offset at the start of a body. Throws PeerProtocolError where there is none. */
export function offsetOf(body: Buffer): number {
  const offset = body.length < 8 ? Number.NaN : body.readDoubleLE(0);
  if (!Number.isSafeInteger(offset) || offset < 0) throw new PeerProtocolError("a frame without a sound offset");
  return offset;
}

function writeHeader(frame: Buffer, kind: FrameKind, bodyLength: number): void {
  frame.writeUInt32LE(1 + bodyLength, 0);
  frame[4] = kindBytes.get(kind) ?? 0;
}

/** `body` is valid until the callback returns. */
export type FrameHandler = (kind: FrameKind, body: Buffer) => void;

/** Cuts a stream of bytes into frames, wherever its chunks end. */
export class FrameReader {
  readonly #maxBodyBytes: number;
  readonly #handler: FrameHandler;
  /** The beginning of a frame that is not complete yet. */
  #partial: Buffer = Buffer.alloc(0);
  #held = 0;

  constructor(maxBytes: number, handler: FrameHandler) {
    this.#maxBodyBytes = maxBytes;
    this.#handler = handler;
  }

  /** Throws PeerProtocolError, and what the handler throws. */
  receive(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#held > 0) {
        at = this.#complete(chunk, at);
        continue;
      }
      const end = chunk.length - at < 4 ? Number.POSITIVE_INFINITY : at + 4 + this.#checked(chunk.readUInt32LE(at));
      if (end > chunk.length) {
        this.#hold(chunk, at, chunk.length);
        return;
      }
      this.#handle(chunk.subarray(at + 4, end));
      at = end;
    }
  }

  /** Takes what the held frame lacks; returns where the chunk goes on. */
  #complete(chunk: Buffer, at: number): number {
    const wanted = this.#held < 4 ? 4 : 4 + this.#checked(this.#partial.readUInt32LE(0));
    const end = Math.min(chunk.length, at + wanted - this.#held);
    this.#hold(chunk, at, end);
    if (this.#held < 4 || this.#held < 4 + this.#checked(this.#partial.readUInt32LE(0))) return end;
    const frame = this.#partial.subarray(4, this.#held);
    this.#held = 0;
    // A frame as large as they get leaves no buffer of its size behind.
    if (this.#partial.length > 4096) this.#partial = Buffer.alloc(0);
    this.#handle(frame);
    return end;
  }

  #hold(chunk: Buffer, from: number, to: number): void {
    const needed = this.#held + to - from;
    if (needed > this.#partial.length) {
      const grown = Buffer.allocUnsafe(Math.max(64, 2 * needed));
      this.#partial.copy(grown, 0, 0, this.#held);
      this.#partial = grown;
    }
    chunk.copy(this.#partial, this.#held, from, to);
    this.#held = needed;
  }

  #checked(length: number): number {
    if (length < 1 || length > 1 + this.#maxBodyBytes) throw new PeerProtocolError(`a frame of ${length} bytes`);
    return length;
  }

  #handle(frame: Buffer): void {
    const kind = frameKinds[frame[0] as number];
    if (kind === undefined || kind === "none") throw new PeerProtocolError(`a frame of kind ${frame[0]}`);
    this.#handler(kind, frame.subarray(1));
  }
}

const noBody = Buffer.alloc(0);
