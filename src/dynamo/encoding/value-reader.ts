/**
 * One way to walk what Dynamo's components send, whichever of their two codecs it is in. A reader creates no values: it is a position, the
 * last number as two u32 and the last string as a range of the bytes. Every read is checked against the end of the bytes.
 */

/** The bytes are not what they should be; the message says where and why. Thrown inside a codec and turned into a value at its border. */
export class MalformedMessage extends Error {
  readonly code = "MALFORMED";
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "MalformedMessage";
  }
}

export const maxNesting = 64;

/** Keys read and values skipped in one go take some 20 ns each: more than any message has, and no more than the event loop can wait for. */
export const maxWork = 1 << 20;

/** Longer strings are not made into text. */
const maxTextBytes = 1024 * 1024;

export type PayloadCodec = "json" | "msgpack";

export interface ValueReader {
  readonly codec: PayloadCodec;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Where the next read begins. May be set to an earlier position at which a container begins, outside all others. */
  at: number;
  readonly end: number;
  /** The last u64 read. */
  readonly low: number;
  readonly high: number;
  /** The last key or string read, as a range of `bytes`. */
  readonly start: number;
  readonly length: number;
  /** Keys read and values skipped since `open`, or since the caller set it to 0; beyond `maxWork` the bytes count as malformed. */
  work: number;
  /** The bytes are borrowed until the next `open`. */
  open(bytes: Uint8Array): void;
  /** Forgets all containers entered and goes on at `at`. */
  restart(at: number): void;
  enterMap(): void;
  /** Reads a key, or leaves the map and says false. Its value is to be read or skipped before the next call. */
  nextKey(): boolean;
  enterArray(): void;
  /** Whether another item stands here; else leaves the array. */
  nextItem(): boolean;
  isMap(): boolean;
  isString(): boolean;
  /** Consumes a nil when one stands here. */
  takeNil(): boolean;
  readBoolean(): boolean;
  /** Leaves the number in `low` and `high`; a negative number or a fraction is malformed. */
  readU64(): void;
  readStringRange(): void;
  skip(): void;
}

const utf8 = new TextDecoder("utf-8", { fatal: true });
const two32 = 0x1_0000_0000;

/** A count or an id that a Number holds exactly. */
export function readInteger(reader: ValueReader): number {
  reader.readU64();
  if (reader.high > 0x1f_ffff) throw new MalformedMessage(`has a number above 2^53 before byte ${reader.at}`);
  return reader.high * two32 + reader.low;
}

export function readU32(reader: ValueReader): number {
  reader.readU64();
  if (reader.high !== 0) throw new MalformedMessage(`has a number above 2^32 before byte ${reader.at}`);
  return reader.low;
}

export function readBigInt(reader: ValueReader): bigint {
  reader.readU64();
  return bigintOf(reader.low, reader.high);
}

export function bigintOf(low: number, high: number): bigint {
  return (BigInt(high) << 32n) | BigInt(low);
}

export function readString(reader: ValueReader): string {
  reader.readStringRange();
  const text = rangeText(reader);
  return reader.codec === "json" && text.includes("\\") ? unescapeJson(text) : text;
}

/** The range last read, as text (escapes of JSON stand as they are). */
export function rangeText(reader: ValueReader): string {
  if (reader.length > maxTextBytes)
    throw new MalformedMessage(`has a string of ${reader.length} bytes at byte ${reader.start}`);
  try {
    return utf8.decode(reader.bytes.subarray(reader.start, reader.start + reader.length));
  } catch (error) {
    throw new MalformedMessage(`has a string that is no UTF-8 at byte ${reader.start}`, { cause: error });
  }
}

/** Whether the range last read is this text; `text` is ASCII. */
export function isRange(reader: ValueReader, text: string): boolean {
  if (reader.length !== text.length) return false;
  const { view, start } = reader;
  for (let index = 0; index < text.length; index++) {
    if (view.getUint8(start + index) !== text.charCodeAt(index)) return false;
  }
  return true;
}

function unescapeJson(text: string): string {
  try {
    return JSON.parse(`"${text}"`) as string;
  } catch (error) {
    throw new MalformedMessage("has a bad escape in a string", { cause: error });
  }
}
