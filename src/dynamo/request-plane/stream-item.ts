/**
 * What a response stream carries: NetworkStreamWrapper {data?, complete_final} around Annotated {data?, id?, event?, comment?, error?}. Both are
 * found, not decoded: values stay ranges of the bytes that came. A large item is not walked through either: a dump of gigabytes would hold the
 * event loop for seconds.
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

const largeBytes = 64 * 1024;
/** The bytes of a wrapper before and behind its data, as workers write it. */
const frames: Readonly<
  Record<PayloadCodec, { readonly head: Buffer; readonly tails: readonly [more: Buffer, final: Buffer] }>
> = {
  json: {
    head: Buffer.from('{"data":'),
    tails: [Buffer.from(',"complete_final":false}'), Buffer.from(',"complete_final":true}')],
  },
  msgpack: {
    head: Buffer.from("\x82\xa4data", "latin1"),
    tails: [Buffer.from("\xaecomplete_final\xc2", "latin1"), Buffer.from("\xaecomplete_final\xc3", "latin1")],
  },
};

/** Throws MalformedMessage. The data of a large item may be anything. */
export function readStreamItem(body: Buffer, codec: PayloadCodec): StreamItem {
  if (body.length > largeBytes) {
    const large = largeItem(body, codec);
    if (large !== undefined) return large;
  }
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

/** Undefined for a wrapper that is written in another way. */
function largeItem(body: Buffer, codec: PayloadCodec): StreamItem | undefined {
  const { head, tails } = frames[codec];
  if (!body.subarray(0, head.length).equals(head)) return undefined;
  for (const tail of tails) {
    const end = body.length - tail.length;
    if (body.subarray(end).equals(tail)) return { data: body.subarray(head.length, end), isFinal: tail === tails[1] };
  }
  return undefined;
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
