/** Pre-encoded bytes of a gRPC stream over HTTP/2: frames, a constant header block (static table and literals only), protobuf fields. */

export const frameType = {
  data: 0,
  headers: 1,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
export const frameHeaderBytes = 9;
export const endStreamFlag = 1;
const endHeadersFlag = 4;

/** A stream never runs out of what we grant; the connection's window is topped up. */
const streamWindowBytes = 2 ** 30;
export const connectionWindowBytes = 2 ** 30;

export function writeFrameHeader(
  target: Buffer,
  at: number,
  length: number,
  type: number,
  flags: number,
  id: number,
): void {
  target.writeUIntBE(length, at, 3);
  target[at + 3] = type;
  target[at + 4] = flags;
  target.writeUInt32BE(id, at + 5);
}

function frame(type: number, flags: number, id: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(frameHeaderBytes + payload.length);
  writeFrameHeader(bytes, 0, payload.length, type, flags, id);
  bytes.set(payload, frameHeaderBytes);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function windowUpdate(id: number, increment: number): Buffer {
  return frame(frameType.windowUpdate, 0, id, uint32(increment));
}

/** What a connection opens with: preface, SETTINGS with a large stream window and no push, a large connection window. */
export function connectionStart(): Buffer {
  const settings = Buffer.alloc(12);
  settings.writeUInt16BE(2, 0);
  settings.writeUInt16BE(4, 6);
  settings.writeUInt32BE(streamWindowBytes, 8);
  return Buffer.concat([
    Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    frame(frameType.settings, 0, 0, settings),
    windowUpdate(0, connectionWindowBytes - 65_535),
  ]);
}

export const settingsAck = frame(frameType.settings, 1, 0, Buffer.alloc(0));

function literal(name: string, value: string): Buffer {
  const [n, v] = [Buffer.from(name), Buffer.from(value)];
  return Buffer.concat([Buffer.from([0x00, n.length]), n, Buffer.from([v.length]), v]);
}

/** HEADERS of one Process call as Envoy sends them; the id at byte 5 is filled in for each stream. */
export function processHeaders(authority: string): Buffer {
  const path = Buffer.from("/envoy.service.ext_proc.v3.ExternalProcessor/Process");
  return frame(
    frameType.headers,
    endHeadersFlag,
    0,
    Buffer.concat([
      // Static table: POST is entry 3, the scheme http entry 6, :path entry 4 and :authority entry 1 by name.
      Buffer.from([0x83, 0x86, 0x04, path.length]),
      path,
      Buffer.from([0x01, authority.length]),
      Buffer.from(authority),
      literal("te", "trailers"),
      literal("content-type", "application/grpc"),
      literal("x-envoy-internal", "true"),
      literal("x-forwarded-for", "10.1.2.3"),
    ]),
  );
}

/** RST_STREAM as Envoy ends an ext_proc stream (INTERNAL_ERROR is the code it uses). */
export const resetFrame = frame(frameType.rstStream, 0, 0, uint32(2));
/** Empty DATA with END_STREAM. */
export const halfCloseFrame = frame(frameType.data, endStreamFlag, 0, Buffer.alloc(0));

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return bytes;
}

/** One protobuf field: varint for numbers and booleans, length-delimited for the rest. */
export function field(number: number, value: number | boolean | string | Uint8Array): Buffer {
  if (typeof value === "number" || typeof value === "boolean") {
    return Buffer.from([...varint(number << 3), ...varint(Number(value))]);
  }
  const bytes = typeof value === "string" ? Buffer.from(value) : value;
  return Buffer.concat([Buffer.from([...varint((number << 3) | 2), ...varint(bytes.length)]), bytes]);
}

/** A gRPC message: uncompressed flag, length, bytes. */
export function grpcMessage(...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([Buffer.from([0]), uint32(length), ...parts]);
}
