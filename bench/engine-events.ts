/**
 * Raw engine events on one core, in CPU time: a vLLM batch of 64 new blocks of 16 tokens decoded alone, and decoded, hashed, counted and indexed; and
 * the memory of reference counts. Opaque block hashes, every block new.
 */
import { encode } from "@msgpack/msgpack";
import { EngineFeed } from "../src/data/kv-events/engine-feed.ts";
import { createBatchDecoder } from "../src/data/kv-events/event-batch-decoder.ts";
import { createEventCounters } from "../src/data/kv-events/event-counters.ts";
import { createKvIndex } from "../src/data/prefix-index/exact-kv-index.ts";
import { createTokenHasher } from "../src/tokens/block-hash.ts";
import { type Measurement, type Run, repeat } from "./measurement.ts";

const blockSize = 16;
const batches = 4_000;
const blocksPerBatch = 64;
const blocks = batches * blocksPerBatch;

function batchesOfVllm(): Buffer[] {
  let hash = 0n;
  return Array.from({ length: batches }, (_, batch) => {
    const hashes = Array.from({ length: blocksPerBatch }, () => {
      hash += 0x9e37_79b9_7f4a_7c15n;
      return BigInt.asUintN(64, hash);
    });
    const tokens = Array.from(
      { length: blocksPerBatch * blockSize },
      (_unused, i) => (Math.imul(i + 1 + batch * 7919, 0x9e3779b1) >>> 0) % 150_000,
    );
    const event = ["BlockStored", hashes, null, tokens, blockSize, null, "GPU", null, null];
    return Buffer.from(encode([1_700_000_000.25 + batch, [event], 0], { useBigInt64: true }));
  });
}

function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

function decoded(payloads: readonly Buffer[]): number {
  const decoder = createBatchDecoder({ extraKeys: "bare" });
  let count = 0;
  const startMs = cpuMs();
  for (const payload of payloads) {
    decoder.open(payload);
    decoder.decode((event) => {
      count += event.hashCount;
    });
  }
  return count / (cpuMs() - startMs) / 1000;
}

function indexed(payloads: readonly Buffer[]): { readonly rate: number; readonly referenceBytes: number } {
  const feed = new EngineFeed({
    index: createKvIndex({ random: Math.random }),
    hasher: createTokenHasher(),
    blockSize,
    maxBlocksPerRank: 2 * blocks,
    counters: createEventCounters(),
    adapters: new Set(),
    replayEndpoint: undefined,
    now: () => performance.now(),
    onBlockSize: () => {},
    onRank: () => {},
  });
  const startMs = cpuMs();
  for (const [sequence, payload] of payloads.entries()) feed.message(sequence, payload);
  const rate = feed.blocks / (cpuMs() - startMs) / 1000;
  return { rate, referenceBytes: feed.sizeBytes / feed.blocks };
}

export const engineEvents: Measurement = {
  name: "engine-events",
  what: "Raw KV events of engines: batches of 64 blocks of 16 tokens",
  figures: [
    { name: "engine-events-decoded", title: "Blocks of raw engine events decoded", unit: "M/s", digits: 2 },
    { name: "engine-events-indexed", title: "… decoded, hashed, counted and indexed", unit: "M/s", digits: 2 },
    { name: "engine-event-references", title: "… added by reference counts, a block", unit: "B", digits: 0 },
  ],
  isLatency: false,
  async measure(context) {
    const payloads = batchesOfVllm();
    decoded(payloads);
    return await repeat(context, async (): Promise<Run> => {
      const { rate, referenceBytes } = indexed(payloads);
      return {
        "engine-events-decoded": decoded(payloads),
        "engine-events-indexed": rate,
        "engine-event-references": referenceBytes,
      };
    });
  },
};
