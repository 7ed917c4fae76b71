/**
 * EventEnvelope, what every message of the event plane is wrapped in: {publisher_id, sequence, published_at, topic, payload} as a msgpack map.
 * JSON, which NATS carried up to 1.5, is read too; there the payload is an array of bytes.
 */
import { randomBytes } from "node:crypto";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import { payloadCodecOf } from "../encoding/payload-codec.ts";
import { isRange, MalformedMessage, readBigInt } from "../encoding/value-reader.ts";

/** Overwritten by every message read. */
export class Envelope {
  publisherId: bigint;
  sequence: bigint;
  /** A view of the message's bytes. */
  payload: Buffer;
  #isTopic: boolean;
  readonly #topic: string;
  readonly #reader: MsgpackReader;

  constructor(topic: string) {
    this.publisherId = 0n;
    this.sequence = 0n;
    this.payload = Buffer.alloc(0);
    this.#isTopic = false;
    this.#topic = topic;
    this.#reader = new MsgpackReader();
  }

  /** Whether the envelope last read is of the topic this one was made for. */
  get isOfTopic(): boolean {
    return this.#isTopic;
  }

  /** Throws MalformedMessage. `bytes` are borrowed by `payload`. */
  read(bytes: Buffer): void {
    if (payloadCodecOf(bytes) === "json") this.#readJson(bytes);
    else this.#readMsgpack(bytes);
  }

  #readMsgpack(bytes: Buffer): void {
    const reader = this.#reader;
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
        reader.readBinaryRange();
        this.payload = bytes.subarray(reader.start, reader.start + reader.length);
        seen |= 8;
      } else reader.skip();
    }
    if (seen !== 15) throw new MalformedMessage("is an envelope without publisher_id, sequence, topic or payload");
  }

  #readJson(bytes: Buffer): void {
    let parsed: unknown;
    try {
      parsed = JSON.parse(bytes.toString("utf8"), exactIntegers);
    } catch (error) {
      throw new MalformedMessage("is an envelope that is no JSON", { cause: error });
    }
    const fields = parsed as Readonly<Record<string, unknown>>;
    const publisherId = fields["publisher_id"];
    const sequence = fields["sequence"];
    const payload = fields["payload"];
    if (typeof publisherId !== "bigint" || typeof sequence !== "bigint" || !Array.isArray(payload)) {
      throw new MalformedMessage("is an envelope without publisher_id, sequence or payload");
    }
    this.publisherId = publisherId;
    this.sequence = sequence;
    this.#isTopic = fields["topic"] === this.#topic;
    this.payload = Buffer.from(payload as readonly number[]);
  }
}

function exactIntegers(key: string, value: unknown, context?: { readonly source?: string }): unknown {
  const isId = key === "publisher_id" || key === "sequence";
  return isId && context?.source !== undefined && /^\d{1,20}$/.test(context.source) ? BigInt(context.source) : value;
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
