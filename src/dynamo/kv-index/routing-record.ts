/** A decision written into another process's approximate index, and its answer (IndexerRecordRoutingDecisionRequest of dynamo-kv-router 1.6.1). */
import { JsonReader } from "../encoding/json-reader.ts";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import {
  isRange,
  MalformedMessage,
  type PayloadCodec,
  readBigInt,
  readString,
  readU32,
  type ValueReader,
} from "../encoding/value-reader.ts";
import { hashesText, readHashes, writeHashes } from "./block-hashes.ts";
import { encodeError } from "./index-answer.ts";

export interface RoutingRecord {
  readonly model: string;
  readonly workerId: bigint;
  readonly dpRank: number;
  /** Of the prompt's complete blocks, u64 as u32 pairs, low word first. */
  readonly blockHashes: Uint32Array;
  readonly sequenceHashes: Uint32Array;
}

export type RecordAnswer = { readonly kind: "recorded" } | { readonly kind: "error"; readonly message: string };

const maxMessageLength = 1000;
const readers: Readonly<Record<PayloadCodec, ValueReader>> = { json: new JsonReader(), msgpack: new MsgpackReader() };
const writer = new MsgpackWriter();

export function encodeRoutingRecord(record: RoutingRecord, codec: PayloadCodec): Buffer {
  const { model, workerId, dpRank, blockHashes, sequenceHashes } = record;
  if (codec === "json") {
    const worker = `{"worker_id":${workerId},"dp_rank":${dpRank}}`;
    const [local, sequence] = [hashesText(blockHashes), hashesText(sequenceHashes)];
    return Buffer.from(
      `{"model_name":${JSON.stringify(model)},"worker":${worker},"local_hashes":${local},"sequence_hashes":${sequence}}`,
    );
  }
  writer.reset();
  writer.map(4);
  writer.string("model_name");
  writer.string(model);
  writer.string("worker");
  writer.map(2);
  writer.string("worker_id");
  writer.bigint(workerId);
  writer.string("dp_rank");
  writer.integer(dpRank);
  writer.string("local_hashes");
  writeHashes(writer, blockHashes);
  writer.string("sequence_hashes");
  writeHashes(writer, sequenceHashes);
  return Buffer.from(writer.finish());
}

/** Throws MalformedMessage. */
export function readRoutingRecord(bytes: Uint8Array, codec: PayloadCodec): RoutingRecord {
  const reader = readers[codec];
  let model: string | undefined;
  let workerId: bigint | undefined;
  let dpRank: number | undefined;
  let blockHashes: Uint32Array | undefined;
  let sequenceHashes: Uint32Array | undefined;
  reader.open(bytes);
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "model_name")) model = readString(reader);
    else if (isRange(reader, "local_hashes")) blockHashes = readHashes(reader);
    else if (isRange(reader, "sequence_hashes")) sequenceHashes = readHashes(reader);
    else if (isRange(reader, "worker")) {
      reader.enterMap();
      while (reader.nextKey()) {
        if (isRange(reader, "worker_id")) workerId = readBigInt(reader);
        else if (isRange(reader, "dp_rank")) dpRank = readU32(reader);
        else reader.skip();
      }
    } else reader.skip();
  }
  if (model === undefined || workerId === undefined || dpRank === undefined) {
    throw new MalformedMessage("is a decision without its model or worker");
  }
  if (blockHashes === undefined || sequenceHashes === undefined || blockHashes.length !== sequenceHashes.length) {
    throw new MalformedMessage("is a decision whose blocks and chain do not belong together");
  }
  return { model, workerId, dpRank, blockHashes, sequenceHashes };
}

export function encodeRecordAnswer(answer: RecordAnswer, codec: PayloadCodec): Buffer {
  if (answer.kind === "error") return encodeError(answer.message, codec);
  if (codec === "json") return Buffer.from('"Recorded"');
  writer.reset();
  writer.string("Recorded");
  return Buffer.from(writer.finish());
}

/** Throws MalformedMessage. */
export function readRecordAnswer(bytes: Uint8Array, codec: PayloadCodec): RecordAnswer {
  const reader = readers[codec];
  reader.open(bytes);
  if (reader.isString()) {
    reader.readStringRange();
    if (isRange(reader, "Recorded")) return { kind: "recorded" };
    throw new MalformedMessage("is an answer of another kind");
  }
  reader.enterMap();
  if (!reader.nextKey() || !isRange(reader, "Error")) throw new MalformedMessage("is an answer of another kind");
  return { kind: "error", message: readString(reader).slice(0, maxMessageLength) };
}
