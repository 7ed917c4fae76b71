/**
 * The request connection from the side of who is asked: takes the frames that request-frame.ts writes out of a stream of bytes, however they
 * come. What is too long is refused as soon as its length is read, before memory is taken for it.
 */
import { MalformedMessage, type PayloadCodec } from "../encoding/value-reader.ts";

export interface ReceivedRequest {
  readonly codec: PayloadCodec;
  /** Where the answer is wanted, and what is to be said there. */
  readonly home: { readonly address: string; readonly subject: string };
  /** A view, valid until the call returns. */
  readonly body: Buffer;
}

/** One frame as it stands; views, valid until the call returns. */
export type FrameHandler = (path: Buffer, payload: Buffer) => void;

const twoPartPrefixBytes = 24;

export class RequestReader {
  readonly #maxFrameBytes: number;
  readonly #handler: FrameHandler;
  #held: Buffer = Buffer.alloc(0);
  #heldLength = 0;

  constructor(maxFrameBytes: number, handler: FrameHandler) {
    this.#maxFrameBytes = maxFrameBytes;
    this.#handler = handler;
  }

  /** Bytes of a frame that has begun and not ended. */
  get heldBytes(): number {
    return this.#heldLength;
  }

  /** False when a frame is longer than the limit: nothing can follow it. */
  push(chunk: Buffer): boolean {
    let bytes = this.#heldLength === 0 ? chunk : this.#append(chunk);
    for (;;) {
      const size = frameSize(bytes);
      if (size > this.#maxFrameBytes) return false;
      if (size === 0 || bytes.length < size) break;
      const [path, payload] = partsOf(bytes.subarray(0, size));
      this.#handler(path, payload);
      bytes = bytes.subarray(size);
    }
    this.#keep(bytes);
    return true;
  }

  #append(chunk: Buffer): Buffer {
    const length = this.#heldLength + chunk.length;
    if (length > this.#held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(length, 2 * this.#held.length));
      this.#held.copy(grown, 0, 0, this.#heldLength);
      this.#held = grown;
    }
    chunk.copy(this.#held, this.#heldLength);
    this.#heldLength = length;
    return this.#held.subarray(0, length);
  }

  #keep(rest: Buffer): void {
    // Already at the front of what is held: nothing of it was taken.
    if (rest.length === this.#heldLength && rest.buffer === this.#held.buffer) return;
    this.#held = rest.length === 0 ? Buffer.alloc(0) : Buffer.from(rest);
    this.#heldLength = rest.length;
  }
}

/** 0 where its lengths have not all come. */
function frameSize(bytes: Buffer): number {
  if (bytes.length < 2) return 0;
  const headersAt = 2 + bytes.readUInt16BE(0);
  if (bytes.length < headersAt + 2) return 0;
  const payloadAt = headersAt + 2 + bytes.readUInt16BE(headersAt);
  return bytes.length < payloadAt + 4 ? 0 : payloadAt + 4 + bytes.readUInt32BE(payloadAt);
}

function partsOf(frame: Buffer): readonly [path: Buffer, payload: Buffer] {
  const pathEnd = 2 + frame.readUInt16BE(0);
  const headersEnd = pathEnd + 2 + frame.readUInt16BE(pathEnd);
  return [frame.subarray(2, pathEnd), frame.subarray(headersEnd + 4)];
}

/** The request in a payload: a TwoPartMessage of RequestControlMessage and body. Throws MalformedMessage. */
export function readRequest(payload: Buffer): ReceivedRequest {
  if (payload.length < twoPartPrefixBytes) throw new MalformedMessage("is no two-part message");
  const headerEnd = twoPartPrefixBytes + lengthAt(payload, 0);
  if (headerEnd + lengthAt(payload, 8) !== payload.length) throw new MalformedMessage("is no two-part message");
  const control = objectOf(payload.toString("utf8", twoPartPrefixBytes, headerEnd));
  const connection = control["connection_info"];
  if (!isObject(connection) || typeof connection["info"] !== "string") {
    throw new MalformedMessage("does not say where its answer is wanted");
  }
  const { address, subject, context } = objectOf(connection["info"]);
  if (typeof address !== "string" || typeof subject !== "string" || context !== control["id"]) {
    throw new MalformedMessage("does not say where its answer is wanted");
  }
  const codec = control["payload_codec"] ?? "json";
  if (codec !== "json" && codec !== "msgpack") throw new MalformedMessage("is in an unknown codec");
  return { codec, home: { address, subject }, body: payload.subarray(headerEnd) };
}

function lengthAt(payload: Buffer, at: number): number {
  return payload.readUInt32BE(at) * 0x1_0000_0000 + payload.readUInt32BE(at + 4);
}

type Members = Readonly<Record<string, unknown>>;

function objectOf(text: string): Members {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new MalformedMessage("has a control message that is no JSON", { cause: error });
  }
  if (!isObject(value)) throw new MalformedMessage("has a control message that is no object");
  return value;
}

function isObject(value: unknown): value is Members {
  return typeof value === "object" && value !== null;
}
