/** ActiveLoad of topic kv_metrics: what a worker says of its own occupancy. */
import { JsonReader } from "../encoding/json-reader.ts";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import { payloadCodecOf } from "../encoding/payload-codec.ts";
import {
  isRange,
  MalformedMessage,
  readBigInt,
  readInteger,
  readU32,
  type ValueReader,
} from "../encoding/value-reader.ts";

export interface ActiveLoad {
  readonly workerId: bigint;
  readonly dpRank: number;
  readonly activeDecodeBlocks: number | undefined;
  readonly activePrefillTokens: number | undefined;
  readonly kvUsedBlocks: number | undefined;
}

const msgpack = new MsgpackReader();
const json = new JsonReader();

/** Throws MalformedMessage. */
export function parseActiveLoad(payload: Uint8Array): ActiveLoad {
  const reader = payloadCodecOf(payload) === "json" ? json : msgpack;
  reader.open(payload);
  let workerId: bigint | undefined;
  let dpRank = 0;
  let activeDecodeBlocks: number | undefined;
  let activePrefillTokens: number | undefined;
  let kvUsedBlocks: number | undefined;
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "worker_id")) workerId = readBigInt(reader);
    else if (isRange(reader, "dp_rank")) dpRank = readU32(reader);
    else if (isRange(reader, "active_decode_blocks")) activeDecodeBlocks = optionalInteger(reader);
    else if (isRange(reader, "active_prefill_tokens")) activePrefillTokens = optionalInteger(reader);
    else if (isRange(reader, "kv_used_blocks")) kvUsedBlocks = optionalInteger(reader);
    else reader.skip();
  }
  if (workerId === undefined) throw new MalformedMessage("is a load without worker_id");
  return { workerId, dpRank, activeDecodeBlocks, activePrefillTokens, kvUsedBlocks };
}

function optionalInteger(reader: ValueReader): number | undefined {
  return reader.takeNil() ? undefined : readInteger(reader);
}
