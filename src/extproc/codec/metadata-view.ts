/**
 * Reads one value of metadata_context straight from its wire bytes (envoy.config.core.v3.Metadata over google.protobuf.Struct). The bytes
 * are checked once at decode, so that a look-up never throws.
 */
import { refuseDepth, type WireReader } from "./wire-reader.ts";

const field1Delimited = 0x0a;
const field2Delimited = 0x12;
const stringValue = 0x1a;
const structValue = 0x2a;
const listValue = 0x32;

/** The wire types of Value's members that hold no message: null 1, number 2, bool 4. */
const nullValue = 0x08;
const numberValue = 0x11;
const boolValue = 0x20;

/** Walks a Metadata message from the reader's position to `end`. Throws CodecError on malformed bytes. */
export function checkMetadata(reader: WireReader, end: number): void {
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === field1Delimited) checkEntry(reader, reader.delimitedEnd(end), checkStruct, 0);
    else reader.skip(tag, end);
  }
}

type Check = (reader: WireReader, end: number, depth: number) => void;

function checkEntry(reader: WireReader, end: number, checkValue: Check, depth: number): void {
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === field2Delimited) checkValue(reader, reader.delimitedEnd(end), depth + 1);
    else reader.skip(tag, end);
  }
}

function checkStruct(reader: WireReader, end: number, depth: number): void {
  refuseDepth(depth);
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === field1Delimited) checkEntry(reader, reader.delimitedEnd(end), checkValue, depth);
    else reader.skip(tag, end);
  }
}

function checkValue(reader: WireReader, end: number, depth: number): void {
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === structValue) checkStruct(reader, reader.delimitedEnd(end), depth + 1);
    else if (tag === listValue) checkList(reader, reader.delimitedEnd(end), depth + 1);
    else reader.skip(tag, end);
  }
}

function checkList(reader: WireReader, end: number, depth: number): void {
  refuseDepth(depth);
  while (reader.position < end) {
    const tag = reader.tag(end);
    if (tag === field1Delimited) checkValue(reader, reader.delimitedEnd(end), depth + 1);
    else reader.skip(tag, end);
  }
}

/** A range of a checked message; start -1 when nothing was found. */
interface Range {
  readonly start: number;
  readonly end: number;
}

/** filter_metadata[namespace][key] of a checked Metadata message in [start, end) of the reader's bytes. */
export function metadataValue(
  reader: WireReader,
  metadata: Range,
  namespace: string,
  key: string,
): string | readonly string[] | undefined {
  const struct = mapEntry(reader, metadata, namespace);
  if (struct === undefined) return undefined;
  const value = mapEntry(reader, struct, key);
  return value === undefined ? undefined : textOrList(reader, value);
}

/** The value message of the last entry with this key in a message whose field 1 is a map; an entry without a value does not count. */
function mapEntry(reader: WireReader, map: Range, key: string): Range | undefined {
  let found: Range | undefined;
  reader.position = map.start;
  while (reader.position < map.end) {
    const tag = reader.tag(map.end);
    if (tag !== field1Delimited) {
      reader.skip(tag, map.end);
      continue;
    }
    const end = reader.delimitedEnd(map.end);
    let name = "";
    let value: Range | undefined;
    while (reader.position < end) {
      const member = reader.tag(end);
      if (member !== field1Delimited && member !== field2Delimited) {
        reader.skip(member, end);
        continue;
      }
      const memberEnd = reader.delimitedEnd(end);
      if (member === field1Delimited) name = reader.bytes.toString("utf8", reader.position, memberEnd);
      else value = { start: reader.position, end: memberEnd };
      reader.position = memberEnd;
    }
    if (name === key && value !== undefined) found = value;
  }
  return found;
}

/** A Value message: a string, a list's strings, or undefined for every other kind. The last member of the oneof counts. */
function textOrList(reader: WireReader, value: Range): string | readonly string[] | undefined {
  let text: string | undefined;
  let list: Range | undefined;
  reader.position = value.start;
  while (reader.position < value.end) {
    const tag = reader.tag(value.end);
    if (tag === stringValue || tag === listValue || tag === structValue) {
      const end = reader.delimitedEnd(value.end);
      text = tag === stringValue ? reader.bytes.toString("utf8", reader.position, end) : undefined;
      list = tag === listValue ? { start: reader.position, end } : undefined;
      reader.position = end;
      continue;
    }
    if (tag === nullValue || tag === numberValue || tag === boolValue) {
      text = undefined;
      list = undefined;
    }
    reader.skip(tag, value.end);
  }
  return list === undefined ? text : listStrings(reader, list);
}

function listStrings(reader: WireReader, list: Range): readonly string[] {
  const strings: string[] = [];
  reader.position = list.start;
  while (reader.position < list.end) {
    const tag = reader.tag(list.end);
    if (tag !== field1Delimited) {
      reader.skip(tag, list.end);
      continue;
    }
    const end = reader.delimitedEnd(list.end);
    const item = textOrList(reader, { start: reader.position, end });
    if (typeof item === "string") strings.push(item);
    reader.position = end;
  }
  return strings;
}
