/**
 * `node bench/dynamo-dumps.ts RANKS BLOCKS CODEC`: a worker's half of the request plane that answers recovery queries with tree dumps, one event a
 * block as Dynamo's indexer dumps them. Everything is encoded before it says where it listens, so that it costs a recovery nothing but the sending.
 */
import { decode } from "@msgpack/msgpack";
import { MsgpackWriter } from "../src/dynamo/encoding/msgpack-writer.ts";
import type { PayloadCodec } from "../src/dynamo/encoding/value-reader.ts";
import type { InstanceRecord } from "../src/dynamo/records.ts";
import { tokenHasher } from "../src/tokens/block-hash.ts";
import { startFakeWorker, type TakenRequest } from "../test/unit/dynamo/request-plane/fake-worker.ts";
import { workerIdOf } from "./dynamo-fleet.ts";

/** Blocks of one context. */
export const chainBlocks = 128;

/** What a rank's chain of blocks is: block hashes, and the sequence hashes that the engine calls them by. */
export function chainOf(rank: number, chain: number): { readonly tokens: Uint32Array; readonly sequence: Uint32Array } {
  const tokens = Uint32Array.from(
    { length: 2 * chainBlocks },
    (_, word) => (Math.imul(word + 1 + chain * 7919 + rank * 104_729, 0x9e3779b1) ^ Math.imul(chain, 40_503)) >>> 0,
  );
  const sequence = new Uint32Array(2 * chainBlocks);
  tokenHasher().chain(0, 0, false, tokens, 0, chainBlocks, sequence, 0);
  return { tokens, sequence };
}

export interface DumpPlace {
  readonly address: string;
  readonly path: string;
  readonly bytes: number;
}

/** Where the dumps of a place are asked for. */
export function instanceOf({ address, path }: DumpPlace, codec: PayloadCodec): InstanceRecord {
  return {
    type: "Endpoint",
    namespace: "ns",
    component: "backend",
    endpoint: "generate",
    instanceId: 1n,
    transport: { kind: "tcp", address, path },
    codec,
  };
}

interface Block {
  readonly rank: number;
  readonly number: number;
  /** Both as words of the chain. */
  readonly chain: ReturnType<typeof chainOf>;
  readonly index: number;
}

function u64(words: Uint32Array, index: number): bigint {
  return (BigInt(words[2 * index + 1] ?? 0) << 32n) | BigInt(words[2 * index] ?? 0);
}

function jsonEvent({ rank, number, chain, index }: Block): string {
  const parent = index === 0 ? "null" : u64(chain.sequence, index - 1);
  const block = `{"block_hash":${u64(chain.sequence, index)},"tokens_hash":${u64(chain.tokens, index)},"mm_extra_info":null}`;
  const data = `{"stored":{"parent_hash":${parent},"start_position":null,"blocks":[${block}]}}`;
  return `{"worker_id":${workerIdOf(rank)},"storage_tier":"device","residency_domain":"worker","event":{"event_id":${number},"data":${data},"dp_rank":0}}`;
}

function writeEvent(writer: MsgpackWriter, { rank, number, chain, index }: Block): void {
  const hash = (name: string, words: Uint32Array, at: number): void => {
    writer.string(name);
    writer.u64(words[2 * at] ?? 0, words[2 * at + 1] ?? 0);
  };
  writer.map(4);
  writer.string("worker_id");
  writer.bigint(workerIdOf(rank));
  writer.string("storage_tier");
  writer.string("device");
  writer.string("residency_domain");
  writer.string("worker");
  writer.string("event");
  writer.map(3);
  writer.string("event_id");
  writer.integer(number);
  writer.string("data");
  writer.map(1);
  writer.string("stored");
  writer.map(3);
  if (index === 0) {
    writer.string("parent_hash");
    writer.nil();
  } else hash("parent_hash", chain.sequence, index - 1);
  writer.string("start_position");
  writer.nil();
  writer.string("blocks");
  writer.array(1);
  writer.map(3);
  hash("block_hash", chain.sequence, index);
  hash("tokens_hash", chain.tokens, index);
  writer.string("mm_extra_info");
  writer.nil();
  writer.string("dp_rank");
  writer.integer(0);
}

function* blocksOf(rank: number, count: number): Generator<Block> {
  for (let number = 0; number < count; number += chainBlocks) {
    const chain = chainOf(rank, number / chainBlocks);
    for (let index = 0; index < Math.min(chainBlocks, count - number); index++) {
      yield { rank, number: number + index, chain, index };
    }
  }
}

/** The item {"data": {"TreeDump": …}, "complete_final": false}. */
function dumpOf(rank: number, count: number, codec: PayloadCodec): Buffer {
  if (codec === "json") {
    const events: Buffer[] = [];
    for (const block of blocksOf(rank, count))
      events.push(Buffer.from(`${block.number === 0 ? "" : ","}${jsonEvent(block)}`));
    return Buffer.concat([
      Buffer.from('{"data":{"TreeDump":{"events":['),
      ...events,
      Buffer.from(`],"last_event_id":${count},"reset_scope":"all"}},"complete_final":false}`),
    ]);
  }
  const writer = new MsgpackWriter();
  writer.map(2);
  writer.string("data");
  writer.map(1);
  writer.string("TreeDump");
  writer.map(3);
  writer.string("events");
  writer.array(count);
  for (const block of blocksOf(rank, count)) writeEvent(writer, block);
  writer.string("last_event_id");
  writer.integer(count);
  writer.string("reset_scope");
  writer.string("all");
  writer.string("complete_final");
  writer.boolean(false);
  return Buffer.from(writer.finish());
}

function encoded(value: object, codec: PayloadCodec): Buffer {
  if (codec === "json") return Buffer.from(JSON.stringify(value));
  const writer = new MsgpackWriter();
  const write = (member: unknown): void => {
    if (typeof member === "number") writer.integer(member);
    else if (typeof member === "boolean") writer.boolean(member);
    else {
      const entries = Object.entries(member as object);
      writer.map(entries.length);
      for (const [name, inner] of entries) {
        writer.string(name);
        write(inner);
      }
    }
  };
  write(value);
  return Buffer.from(writer.finish());
}

interface Question {
  readonly worker_id: bigint;
  readonly start_event_id: number | bigint | null;
}

function questionOf(body: Buffer, codec: PayloadCodec): Question {
  if (codec === "msgpack") return decode(body, { useBigInt64: true }) as Question;
  const exact = (key: string, value: unknown, context?: { readonly source?: string }): unknown =>
    key === "worker_id" ? BigInt(context?.source ?? 0) : value;
  return JSON.parse(body.toString(), exact) as Question;
}

async function main(): Promise<void> {
  const [ranks, blocks] = process.argv.slice(2, 4).map(Number) as [number, number];
  const codec: PayloadCodec = process.argv[4] === "json" ? "json" : "msgpack";
  const dumps = new Map(Array.from({ length: ranks }, (_, rank) => [workerIdOf(rank), dumpOf(rank, blocks, codec)]));
  const end = encoded({ complete_final: true }, codec);
  const nothingNewer = encoded(
    {
      data: { TooNew: { requested_start: blocks + 1, requested_end: blocks + 1, newest_available: blocks } },
      complete_final: false,
    },
    codec,
  );
  const answer = async (request: TakenRequest): Promise<void> => {
    const { worker_id, start_event_id } = questionOf(request.body, codec);
    const line = await worker.dial(request);
    line.header({ error: null });
    line.item(start_event_id === null ? (dumps.get(BigInt(worker_id)) ?? end) : nothingNewer);
    line.item(end);
  };
  const worker = await startFakeWorker((request) => {
    answer(request).catch((error: unknown) => {
      process.stderr.write(`dumps: ${String(error)}\n`);
    });
  });
  const { transport } = worker.instance;
  if (transport.kind !== "tcp") throw new Error("not reached by tcp");
  const bytes = [...dumps.values()].reduce((sum, dump) => sum + dump.length, 0);
  const place: DumpPlace = { address: transport.address, path: transport.path, bytes };
  process.stdout.write(`${JSON.stringify(place)}\n`);
  // Ends with whoever started it.
  process.stdin.resume().once("end", () => process.exit(0));
}

if (import.meta.main) await main();
