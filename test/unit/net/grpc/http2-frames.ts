/** A client that writes HTTP/2 frames byte by byte as a test wants them (RFC 9113 §4.1), and reads frames back. */
import { connect, type Socket } from "node:net";

export const frameType = {
  data: 0,
  headers: 1,
  resetStream: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
} as const;
export const endStream = 1;
const endHeaders = 4;
const ack = 1;
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

export interface Http2Frame {
  readonly type: number;
  readonly flags: number;
  readonly streamId: number;
  readonly payload: Buffer;
}

export function http2Frame(
  type: number,
  flags: number,
  streamId: number,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header[3] = type;
  header[4] = flags;
  header.writeUInt32BE(streamId, 5);
  return Buffer.concat([header, payload]);
}

/** HEADERS of a gRPC request, as HPACK literals that are not indexed. */
export function requestHeaders(
  streamId: number,
  path: string,
  extra: Readonly<Record<string, string>> = {},
  authority = "x",
): Buffer {
  const fields = {
    ":method": "POST",
    ":scheme": "http",
    ":path": path,
    ":authority": authority,
    "content-type": "application/grpc",
    te: "trailers",
  };
  const literals = Object.entries({ ...fields, ...extra }).map(([name, value]) =>
    Buffer.concat([Buffer.from([0, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value)]),
  );
  return http2Frame(frameType.headers, endHeaders, streamId, Buffer.concat(literals));
}

export function grpcMessage(text: string): Buffer {
  const message = Buffer.from(text);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

export class FrameClient {
  readonly frames: Http2Frame[] = [];
  /** How many frames each read from the socket brought. */
  readonly reads: Http2Frame[][] = [];
  readonly socket: Socket;
  private rest: Buffer = Buffer.alloc(0);

  constructor(port: number) {
    this.socket = connect(port, "127.0.0.1");
    this.socket.on("error", () => {});
    this.socket.on("data", (bytes: Buffer) => this.read(bytes));
    this.socket.write(Buffer.concat([Buffer.from(preface), http2Frame(frameType.settings, 0, 0)]));
  }

  write(...frames: Uint8Array[]): void {
    this.socket.write(Buffer.concat(frames));
  }

  of(type: number, streamId: number): Http2Frame[] {
    return this.frames.filter((frame) => frame.type === type && frame.streamId === streamId);
  }

  private read(bytes: Buffer): void {
    this.rest = Buffer.concat([this.rest, bytes]);
    const read: Http2Frame[] = [];
    while (this.rest.length >= 9) {
      const end = 9 + this.rest.readUIntBE(0, 3);
      if (this.rest.length < end) break;
      read.push({
        type: this.rest.readUInt8(3),
        flags: this.rest.readUInt8(4),
        streamId: this.rest.readUInt32BE(5),
        payload: this.rest.subarray(9, end),
      });
      this.rest = this.rest.subarray(end);
    }
    this.frames.push(...read);
    this.reads.push(read);
    if (read.some(({ type, flags }) => type === frameType.settings && (flags & ack) === 0)) {
      this.write(http2Frame(frameType.settings, ack, 0));
    }
  }
}
