/**
 * The codec of the hot path: decoded messages keep offsets into the received bytes and bodies leave as the parts they came in. Everything is
 * checked at decode, so that no later look-up can fail.
 */
import type { Codec, Incoming, IncomingKind } from "../messages.ts";
import { bodyModes } from "./body-modes.ts";
import { checkHeaderMap, findHeader, visitHeaders } from "./header-map-view.ts";
import { checkMetadata, metadataValue } from "./metadata-view.ts";
import { encodeBody, encodeHeaders, encodeImmediate, encodeTrailers } from "./views-encode.ts";
import { WireReader } from "./wire-reader.ts";

/** Tags of ProcessingRequest (field × 8 + wire type). */
const requestHeaders = 0x12;
const responseHeaders = 0x1a;
const requestBody = 0x22;
const responseBody = 0x2a;
const requestTrailers = 0x32;
const responseTrailers = 0x3a;
const metadataContext = 0x42;
const observabilityMode = 0x50;
const protocolConfig = 0x5a;

/** By the number of ProcessingRequest's oneof member. */
const kinds: readonly IncomingKind[] = [
  "unknown",
  "unknown",
  "requestHeaders",
  "responseHeaders",
  "requestBody",
  "responseBody",
  "requestTrailers",
  "responseTrailers",
];

const noBytes = Buffer.alloc(0);

/** Shared by all decodes and look-ups: each sets bytes and position first, and none calls out while it relies on them. */
const reader = new WireReader();

class IncomingView implements Incoming {
  kind: IncomingKind = "unknown";
  endOfStream = false;
  body: Buffer = noBytes;
  protocolConfig: Incoming["protocolConfig"] = undefined;
  observabilityMode = false;
  headersSizeBytes = 0;
  readonly message: Buffer;
  headersStart = 0;
  headersEnd = 0;
  metadataStart = 0;
  metadataEnd = 0;

  constructor(message: Buffer) {
    this.message = message;
  }

  forEachHeader(visit: (name: string, value: string) => void): void {
    visitHeaders(reader, this.message, this.headersStart, this.headersEnd, visit);
  }

  header(name: string): string | undefined {
    return findHeader(reader, this.message, this.headersStart, this.headersEnd, name);
  }

  metadata(namespace: string, key: string): string | readonly string[] | undefined {
    if (this.metadataStart === this.metadataEnd) return undefined;
    reader.bytes = this.message;
    return metadataValue(reader, { start: this.metadataStart, end: this.metadataEnd }, namespace, key);
  }

  /** A later member of the oneof replaces an earlier one. */
  begin(kind: IncomingKind): void {
    this.kind = kind;
    this.endOfStream = false;
    this.body = noBytes;
    this.headersStart = this.headersEnd = 0;
    this.headersSizeBytes = 0;
  }
}

function decode(message: Buffer): Incoming {
  const incoming = new IncomingView(message);
  const end = message.length;
  reader.bytes = message;
  reader.position = 0;
  while (reader.position < end) {
    const tag = reader.tag(end);
    switch (tag) {
      case requestHeaders:
      case responseHeaders:
      case requestTrailers:
      case responseTrailers:
        incoming.begin(kinds[tag >>> 3] ?? "unknown");
        readHeaders(incoming, reader.delimitedEnd(end), tag < requestBody);
        break;
      case requestBody:
      case responseBody:
        incoming.begin(kinds[tag >>> 3] ?? "unknown");
        readBody(incoming, reader.delimitedEnd(end));
        break;
      case metadataContext:
        incoming.metadataEnd = reader.delimitedEnd(end);
        incoming.metadataStart = reader.position;
        checkMetadata(reader, incoming.metadataEnd);
        break;
      case observabilityMode:
        incoming.observabilityMode = reader.varint(end) !== 0;
        break;
      case protocolConfig:
        readProtocolConfig(incoming, reader.delimitedEnd(end));
        break;
      default:
        reader.skip(tag, end);
    }
  }
  return incoming;
}

/** HttpHeaders (headers 1, end_of_stream 3), or HttpTrailers (trailers 1), which has no flag. */
function readHeaders(incoming: IncomingView, end: number, hasEndOfStream: boolean): void {
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === 0x0a) {
      incoming.headersEnd = reader.delimitedEnd(end);
      incoming.headersStart = reader.position;
      incoming.headersSizeBytes = checkHeaderMap(reader, incoming.headersEnd);
    } else if (tag === 0x18 && hasEndOfStream) {
      incoming.endOfStream = reader.varint(end) !== 0;
    } else {
      reader.skip(tag, end);
    }
  }
}

/** HttpBody: body 1, end_of_stream 2, end_of_stream_without_message 3. */
function readBody(incoming: IncomingView, end: number): void {
  let endOfStream = false;
  let withoutMessage = false;
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === 0x0a) {
      const bodyEnd = reader.delimitedEnd(end);
      incoming.body = bodyEnd === reader.position ? noBytes : reader.bytes.subarray(reader.position, bodyEnd);
      reader.position = bodyEnd;
    } else if (tag === 0x10) {
      endOfStream = reader.varint(end) !== 0;
    } else if (tag === 0x18) {
      withoutMessage = reader.varint(end) !== 0;
    } else {
      reader.skip(tag, end);
    }
  }
  incoming.endOfStream = endOfStream || withoutMessage;
}

function readProtocolConfig(incoming: IncomingView, end: number): void {
  let request = 0;
  let response = 0;
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === 0x08) request = reader.varint(end);
    else if (tag === 0x10) response = reader.varint(end);
    else reader.skip(tag, end);
  }
  incoming.protocolConfig = {
    requestBodyMode: bodyModes[request] ?? "NONE",
    responseBodyMode: bodyModes[response] ?? "NONE",
  };
}

export const viewsCodec: Codec = {
  decode,
  encodeHeaders,
  encodeBody,
  encodeTrailers,
  encodeImmediate,
};
