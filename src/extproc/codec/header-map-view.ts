// biome-ignore-all lint/style/noNonNullAssertion: hot loops over bytes; each index was compared with an end within the buffer.
/**
 * Reads header maps (envoy.config.core.v3.HeaderMap) in place. `checkHeaderMap` walks the bytes once at decode; afterwards the map can be
 * read any number of times without a fault.
 */
import type { WireReader } from "./wire-reader.ts";

const keyTag = 0x0a;
const valueTag = 0x12;
const rawValueTag = 0x1a;
const headersTag = 0x0a;

/** Where the parts of the header read last lie. Owned by the one walk in progress; nothing here is re-entrant. */
const at = { keyStart: 0, keyEnd: 0, valueStart: 0, valueEnd: 0 };

/** Reads one HeaderValue that ends at `end`. raw_value is preferred; an empty one leaves `value` to speak (proto3 cannot tell it from absence). */
function readHeader(reader: WireReader, end: number): void {
  at.keyStart = at.keyEnd = 0;
  at.valueStart = at.valueEnd = 0;
  let rawStart = 0;
  let rawEnd = 0;
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag !== keyTag && tag !== valueTag && tag !== rawValueTag) {
      reader.skip(tag, end);
      continue;
    }
    const fieldEnd = reader.delimitedEnd(end);
    if (tag === keyTag) {
      at.keyStart = reader.position;
      at.keyEnd = fieldEnd;
    } else if (tag === rawValueTag) {
      rawStart = reader.position;
      rawEnd = fieldEnd;
    } else {
      at.valueStart = reader.position;
      at.valueEnd = fieldEnd;
    }
    reader.position = fieldEnd;
  }
  if (rawEnd > rawStart) {
    at.valueStart = rawStart;
    at.valueEnd = rawEnd;
  }
}

/** Reads up to the next header of a map that ends at `end`; false when there is none. */
function nextHeader(reader: WireReader, end: number): boolean {
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === headersTag) {
      readHeader(reader, reader.delimitedEnd(end));
      return true;
    }
    reader.skip(tag, end);
  }
  return false;
}

/** Walks the map from the reader's position to `end`; returns the sum of name and value bytes. Throws CodecError on malformed bytes. */
export function checkHeaderMap(reader: WireReader, end: number): number {
  let sizeBytes = 0;
  while (nextHeader(reader, end)) sizeBytes += at.keyEnd - at.keyStart + at.valueEnd - at.valueStart;
  return sizeBytes;
}

/** Visits the headers of a checked map in wire order. The visitor may read other messages with the same reader. */
export function visitHeaders(
  reader: WireReader,
  message: Buffer,
  start: number,
  end: number,
  visit: (name: string, value: string) => void,
): void {
  let position = start;
  for (;;) {
    reader.bytes = message;
    reader.position = position;
    if (!nextHeader(reader, end)) return;
    position = reader.position;
    visit(lowerCaseName(message, at.keyStart, at.keyEnd), message.toString("utf8", at.valueStart, at.valueEnd));
  }
}

/** The last value of a lower-case ASCII name in a checked map. */
export function findHeader(
  reader: WireReader,
  message: Buffer,
  start: number,
  end: number,
  name: string,
): string | undefined {
  reader.bytes = message;
  reader.position = start;
  let valueStart = -1;
  let valueEnd = -1;
  while (nextHeader(reader, end)) {
    if (at.keyEnd - at.keyStart === name.length && isName(message, at.keyStart, name)) {
      valueStart = at.valueStart;
      valueEnd = at.valueEnd;
    }
  }
  return valueStart === -1 ? undefined : message.toString("utf8", valueStart, valueEnd);
}

function isName(message: Buffer, start: number, name: string): boolean {
  for (let index = 0; index < name.length; index++) {
    let byte = message[start + index]!;
    if (byte >= 0x41 && byte <= 0x5a) byte += 0x20;
    if (byte !== name.charCodeAt(index)) return false;
  }
  return true;
}

/** Names that most requests have, by their length: comparing bytes costs less than making a string of them. */
const usualNames: readonly (readonly string[])[] = namesByLength(
  ":authority :method :path :scheme accept accept-encoding authorization connection content-length content-type host traceparent user-agent",
  "x-envoy-external-address x-envoy-expected-rq-timeout-ms x-forwarded-for x-forwarded-proto x-request-id",
  ":status date server transfer-encoding x-envoy-upstream-service-time",
);

function namesByLength(...lines: readonly string[]): readonly (readonly string[])[] {
  const names = lines.flatMap((line) => line.split(" "));
  const longest = Math.max(...names.map((name) => name.length));
  return Array.from({ length: longest + 1 }, (_, length) => names.filter((name) => name.length === length));
}

function lowerCaseName(message: Buffer, start: number, end: number): string {
  const usual = usualNames[end - start];
  if (usual !== undefined) {
    for (let index = 0; index < usual.length; index++) {
      const name = usual[index]!;
      if (isName(message, start, name)) return name;
    }
  }
  for (let index = start; index < end; index++) {
    const byte = message[index]!;
    if (byte >= 0x80 || (byte >= 0x41 && byte <= 0x5a)) return message.toString("utf8", start, end).toLowerCase();
  }
  return message.toString("latin1", start, end);
}
