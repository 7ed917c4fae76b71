/** What a router asks of a served index: who holds the blocks of a prompt (IndexerQueryRequest of dynamo-kv-router 1.6.1). */
import { JsonReader } from "../encoding/json-reader.ts";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import {
  isRange,
  MalformedMessage,
  type PayloadCodec,
  readString,
  type ValueReader,
} from "../encoding/value-reader.ts";
import { hashesText, readHashes, writeHashes } from "./block-hashes.ts";

export interface IndexQuestion {
  /** The model's own name: one process may serve several on a component. */
  readonly model: string;
  /** XXH3 of each complete block, u64 as u32 pairs, low word first. */
  readonly blockHashes: Uint32Array;
  /** Lower tiers are not asked for. */
  readonly isDeviceOnly: boolean;
}

const readers: Readonly<Record<PayloadCodec, ValueReader>> = { json: new JsonReader(), msgpack: new MsgpackReader() };
const writer = new MsgpackWriter();

export function encodeIndexQuestion({ model, blockHashes, isDeviceOnly }: IndexQuestion, codec: PayloadCodec): Buffer {
  if (codec === "json") {
    const blocks = hashesText(blockHashes);
    return Buffer.from(
      `{"model_name":${JSON.stringify(model)},"block_hashes":${blocks},"device_only":${isDeviceOnly}}`,
    );
  }
  writer.reset();
  writer.map(3);
  writer.string("model_name");
  writer.string(model);
  writer.string("block_hashes");
  writeHashes(writer, blockHashes);
  writer.string("device_only");
  writer.boolean(isDeviceOnly);
  return Buffer.from(writer.finish());
}

/** Throws MalformedMessage. */
export function readIndexQuestion(bytes: Uint8Array, codec: PayloadCodec): IndexQuestion {
  const reader = readers[codec];
  let model: string | undefined;
  let blockHashes: Uint32Array | undefined;
  let isDeviceOnly = false;
  reader.open(bytes);
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "model_name")) model = readString(reader);
    else if (isRange(reader, "block_hashes")) blockHashes = readHashes(reader);
    else if (isRange(reader, "device_only")) isDeviceOnly = reader.readBoolean();
    else reader.skip();
  }
  if (model === undefined || blockHashes === undefined) {
    throw new MalformedMessage("is a question without model_name or block_hashes");
  }
  return { model, blockHashes, isDeviceOnly };
}
