/**
 * EventEnvelope, what every message of the event plane is wrapped in: {publisher_id, sequence, published_at, topic, payload} as a msgpack map.
 * JSON, which NATS carried up to 1.5, is read too; there the payload is an array of bytes.
 */
import { randomBytes } from "node:crypto";
import { JsonReader } from "../encoding/json-reader.ts";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import { payloadCodecOf } from "../encoding/payload-codec.ts";
import { isRange, MalformedMessage, readBigInt, readU32, type ValueReader } from "../encoding/value-reader.ts";

/** Overwritten by every message read. */
export class Envelope {
  publisherId: bigint;
  sequence: bigint;
  /** A view of the message's bytes. */
  payload: Buffer;
  #isTopic: boolean;
  readonly #topic: string;
  readonly #msgpack: MsgpackReader;
  readonly #json: JsonReader;

  constructor(topic: string) {
    this.publisherId = 0n;
    this.sequence = 0n;
    this.payload = Buffer.alloc(0);
    this.#isTopic = false;
    this.#topic = topic;
    this.#msgpack = new MsgpackReader();
    this.#json = new JsonReader();
  }

  /** Whether the envelope last read is of the topic this one was made for. */
  get isOfTopic(): boolean {
    return this.#isTopic;
  }

  /** Throws MalformedMessage. `bytes` are borrowed by `payload`. */
  read(bytes: Buffer): void {
    const reader: ValueReader = payloadCodecOf(bytes) === "json" ? this.#json : this.#msgpack;
    let seen = 0;
    reader.open(bytes);
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "publisher_id")) {
        this.publisherId = readBigInt(reader);
        seen |= 1;
      } else if (isRange(reader, "sequence")) {
        this.sequence = readBigInt(reader);
        seen |= 2;
      } else if (isRange(reader, "topic")) {
        reader.readStringRange();
        this.#isTopic = isRange(reader, this.#topic);
        seen |= 4;
      } else if (isRange(reader, "payload")) {
        this.payload = this.#readPayload(reader, bytes);
        seen |= 8;
      } else reader.skip();
    }
    if (seen !== 15) throw new MalformedMessage("is an envelope without publisher_id, sequence, topic or payload");
  }

  #readPayload(reader: ValueReader, bytes: Buffer): Buffer {
    if (reader === this.#json) return readByteList(reader, bytes.length);
    this.#msgpack.binary();
    return bytes.subarray(reader.start, reader.start + reader.length);
  }
}

/** The payload as JSON writes it, [1, 2, …]; a copy. */
function readByteList(reader: ValueReader, maxBytes: number): Buffer {
  const list = Buffer.allocUnsafe(maxBytes);
  let count = 0;
  reader.enterArray();
  while (reader.nextItem()) {
    const byte = readU32(reader);
    if (byte > 0xff) throw new MalformedMessage(`has ${byte} where a byte should be before byte ${reader.at}`);
    list[count++] = byte;
  }
  return list.subarray(0, count);
}

const writer = new MsgpackWriter();

/** A copy of its own. */
export function encodeEnvelope(
  publisherId: bigint,
  sequence: bigint,
  publishedAtMs: number,
  topic: string,
  payload: Uint8Array,
): Buffer {
  writer.reset();
  writer.map(5);
  writer.string("publisher_id");
  writer.bigint(publisherId);
  writer.string("sequence");
  writer.bigint(sequence);
  writer.string("published_at");
  writer.integer(publishedAtMs);
  writer.string("topic");
  writer.string(topic);
  writer.string("payload");
  writer.binary(payload);
  return Buffer.from(writer.finish());
}

/** 53 bits, so that discovery records may carry it as a JSON number. */
export function randomPublisherId(): bigint {
  return randomBytes(8).readBigUInt64BE() & 0x1f_ffff_ffff_ffffn;
}
