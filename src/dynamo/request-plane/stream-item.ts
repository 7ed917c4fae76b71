/**
 * What a response stream carries: NetworkStreamWrapper {data?, complete_final} around Annotated {data?, id?, event?, comment?, error?}. Both are
 * found, not decoded: values stay ranges of the bytes that came.
 */
import { JsonReader } from "../encoding/json-reader.ts";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import {
  isRange,
  MalformedMessage,
  type PayloadCodec,
  readString,
  type ValueReader,
} from "../encoding/value-reader.ts";

const readers: Readonly<Record<PayloadCodec, ValueReader>> = { json: new JsonReader(), msgpack: new MsgpackReader() };

export interface StreamItem {
  /** A view; undefined where the wrapper has none. */
  readonly data: Buffer | undefined;
  readonly isFinal: boolean;
}

/** Throws MalformedMessage. */
export function readStreamItem(body: Buffer, codec: PayloadCodec): StreamItem {
  const reader = readers[codec];
  let data: Buffer | undefined;
  let isFinal: boolean | undefined;
  reader.open(body);
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "data")) data = rangeOfValue(reader, body);
    else if (isRange(reader, "complete_final")) isFinal = reader.readBoolean();
    else reader.skip();
  }
  if (isFinal === undefined) throw new MalformedMessage("is a stream item without complete_final");
  return { data, isFinal };
}

/** One item of an endpoint that annotates its answers (generate does; the recovery query does not). */
export interface Annotated {
  readonly data: Buffer | undefined;
  readonly id: string | undefined;
  /** "error" for a failed answer. */
  readonly event: string | undefined;
  readonly comment: readonly string[];
  /** DynamoError {error_type, class, reason, message, …}, as bytes. */
  readonly error: Buffer | undefined;
}

/** Throws MalformedMessage. Views are of `item`. */
export function readAnnotated(item: Buffer, codec: PayloadCodec): Annotated {
  const reader = readers[codec];
  let data: Buffer | undefined;
  let id: string | undefined;
  let event: string | undefined;
  let comment: string[] = [];
  let error: Buffer | undefined;
  reader.open(item);
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "data")) data = rangeOfValue(reader, item);
    else if (isRange(reader, "error")) error = rangeOfValue(reader, item);
    else if (isRange(reader, "id")) id = reader.takeNil() ? undefined : readString(reader);
    else if (isRange(reader, "event")) event = reader.takeNil() ? undefined : readString(reader);
    else if (isRange(reader, "comment")) comment = reader.takeNil() ? [] : readStrings(reader);
    else reader.skip();
  }
  return { data, id, event, comment, error };
}

function readStrings(reader: ValueReader): string[] {
  const strings: string[] = [];
  reader.enterArray();
  while (reader.nextItem()) strings.push(readString(reader));
  return strings;
}

function rangeOfValue(reader: ValueReader, bytes: Buffer): Buffer | undefined {
  if (reader.takeNil()) return undefined;
  const start = reader.at;
  reader.skip();
  return bytes.subarray(start, reader.at);
}
