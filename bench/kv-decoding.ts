/**
 * KV events of Dynamo's event plane decoded alone, in CPU time: messages of one stored event with 64 blocks, as workers publish a prompt, in both codecs.
 * Raw engine events are measured in engine-events.ts.
 */
import { encode } from "@msgpack/msgpack";
import { JsonReader } from "../src/dynamo/encoding/json-reader.ts";
import { MsgpackReader } from "../src/dynamo/encoding/msgpack-reader.ts";
import type { PayloadCodec, ValueReader } from "../src/dynamo/encoding/value-reader.ts";
import { RouterEventReader } from "../src/dynamo/kv-events/router-event-reader.ts";
import { encodeExactJson } from "../src/dynamo/record-json.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const messages = 2_000;
const blocksPerMessage = 64;
const rounds = 4;

function payloadsOf(codec: PayloadCodec): Buffer[] {
  let hash = 1n;
  const next = (): bigint => {
    hash = BigInt.asUintN(64, hash * 0x9e37_79b9_7f4a_7c15n + 0x1234_5677n);
    return hash;
  };
  return Array.from({ length: messages }, (_, message) => {
    const blocks = Array.from({ length: blocksPerMessage }, () => ({
      block_hash: next(),
      tokens_hash: next(),
      mm_extra_info: null,
    }));
    const data = { stored: { parent_hash: next(), start_position: null, blocks } };
    const event = { event_id: message + 1, data, dp_rank: 0 };
    const events = [{ worker_id: next(), storage_tier: "device", residency_domain: "worker", event }];
    return codec === "json" ? Buffer.from(encodeExactJson(events)) : Buffer.from(encode(events, { useBigInt64: true }));
  });
}

/** Blocks a microsecond: millions a second. */
function rateOf(payloads: readonly Buffer[], reader: ValueReader): number {
  const events = new RouterEventReader(reader);
  let blocks = 0;
  let before = process.cpuUsage();
  for (let round = 0; round <= rounds; round++) {
    if (round === 1) {
      before = process.cpuUsage();
      blocks = 0;
    }
    for (const payload of payloads) {
      reader.open(payload);
      events.begin(reader);
      while (events.next()) blocks += events.event.count;
    }
  }
  const { user, system } = process.cpuUsage(before);
  if (blocks !== rounds * messages * blocksPerMessage) throw new Error(`${blocks} blocks were decoded`);
  return blocks / (user + system);
}

export const kvDecoding: Measurement = {
  name: "kv-decoding",
  what: `Decoding of Dynamo's KV events, ${blocksPerMessage} blocks each`,
  isLatency: false,
  figures: [
    {
      name: "kv-decode-msgpack",
      title: "Blocks of Dynamo's KV events decoded, msgpack",
      unit: "M/s",
      digits: 1,
      isRate: true,
    },
    {
      name: "kv-decode-json",
      title: "Blocks of Dynamo's KV events decoded, JSON",
      unit: "M/s",
      digits: 1,
      isRate: true,
    },
  ],
  measure(context: Context) {
    const msgpack = payloadsOf("msgpack");
    const json = payloadsOf("json");
    return repeat(
      context,
      (): Promise<Run> =>
        Promise.resolve({
          "kv-decode-msgpack": rateOf(msgpack, new MsgpackReader()),
          "kv-decode-json": rateOf(json, new JsonReader()),
        }),
    );
  },
};

if (import.meta.main) {
  await kvDecoding.measure({ runs: 3, progress: (text: string) => console.log(text) } as Context);
}
