/**
 * The request connection's frame: u16 path length, path, u16 headers length, headers as a JSON object, u32 payload length, payload; and the
 * worker's acknowledgements, u32 length and bytes, in the order of the requests (dynamo-runtime 1.6.1, network/codec.rs).
 */

import type { PayloadCodec } from "../encoding/value-reader.ts";
import { encodeTwoPart } from "./two-part.ts";

export interface RequestFrame {
  /** Of the instance's record, as it stands. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly control: ControlMessage;
  readonly body: Uint8Array;
}

export interface ControlMessage {
  readonly id: string;
  readonly codec: PayloadCodec;
  /** Where the worker is to dial, and what it is to say there. */
  readonly address: string;
  readonly subject: string;
  readonly metadata: Readonly<Record<string, string>> | undefined;
}

/** Undefined when path, headers or body do not fit their length fields. */
export function encodeRequestFrame(
  { path, headers, control, body }: RequestFrame,
  maxMessageBytes: number,
): Buffer | undefined {
  const pathBytes = Buffer.from(path);
  const headerBytes = Buffer.from(JSON.stringify({ ...headers, "x-endpoint-path": path }));
  const payload = encodePayload(control, body);
  const total = 8 + pathBytes.length + headerBytes.length + payload.length;
  if (pathBytes.length > 0xffff || headerBytes.length > 0xffff || total > maxMessageBytes) return undefined;
  const frame = Buffer.allocUnsafe(total);
  let at = frame.writeUInt16BE(pathBytes.length, 0);
  at += pathBytes.copy(frame, at);
  at = frame.writeUInt16BE(headerBytes.length, at);
  at += headerBytes.copy(frame, at);
  at = frame.writeUInt32BE(payload.length, at);
  payload.copy(frame, at);
  return frame;
}

/** What the worker reads, however it is reached. */
export function encodePayload(control: ControlMessage, body: Uint8Array): Buffer {
  return encodeTwoPart(Buffer.from(controlText(control)), body);
}

function controlText({ id, codec, address, subject, metadata }: ControlMessage): string {
  return JSON.stringify({
    id,
    request_type: "single_in",
    response_type: "many_out",
    payload_codec: codec,
    connection_info: {
      transport: "tcp_server",
      info: JSON.stringify({ address, subject, context: id, stream_type: "response" }),
    },
    ...(metadata === undefined ? {} : { metadata }),
  });
}

const maxAckBytes = 64 * 1024;

export class AckReader {
  readonly #onAck: (text: Buffer) => void;
  #held: Buffer;

  constructor(onAck: (text: Buffer) => void) {
    this.#onAck = onAck;
    this.#held = Buffer.alloc(0);
  }

  /** False when what comes is no acknowledgement. */
  push(chunk: Buffer): boolean {
    let bytes = this.#held.length === 0 ? chunk : Buffer.concat([this.#held, chunk]);
    while (bytes.length >= 4) {
      const length = bytes.readUInt32BE(0);
      if (length > maxAckBytes) return false;
      if (bytes.length < 4 + length) break;
      this.#onAck(bytes.subarray(4, 4 + length));
      bytes = bytes.subarray(4 + length);
    }
    this.#held = Buffer.from(bytes);
    return true;
  }
}

export type AckVerdict = "accepted" | "overloaded" | "unavailable" | "rejected";

/** Empty is yes. Text that is no known refusal is read as yes too, as Dynamo's own clients do: such a worker calls home or times out. */
export function readAck(text: Buffer): AckVerdict {
  if (text.length === 0) return "accepted";
  const message = text.toString("latin1");
  if (message.startsWith("Server overloaded:")) return "overloaded";
  if (message.startsWith("Server unavailable:")) return "unavailable";
  return refusals.some((prefix) => message.startsWith(prefix)) ? "rejected" : "accepted";
}

const refusals = ["Unknown endpoint", "Decode error", "Request too large", "Server error", "Error"] as const;
