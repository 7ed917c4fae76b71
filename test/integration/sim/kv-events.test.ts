/** KV events as a subscriber sees them: a real ZeroMQ SUB and a replaying DEALER against a running worker. */

import { afterEach, describe, expect, it } from "@jest/globals";
import { decode } from "@msgpack/msgpack";
import { Dealer, Subscriber } from "zeromq";
import type { WorkerOptions } from "../../../src/sim/worker/options.ts";
import { type RunningWorker, startWorker } from "../../../src/sim/worker/start-worker.ts";

interface Closable {
  close(): void | Promise<void>;
}
const open: Closable[] = [];

afterEach(async () => {
  for (const closable of open.splice(0).reverse()) await closable.close();
});

async function start(options: Partial<WorkerOptions> = {}): Promise<RunningWorker> {
  const worker = await startWorker({
    host: "127.0.0.1",
    port: 0,
    timeScale: 100,
    numGpuBlocks: 20,
    servedModelNames: ["m"],
    kvEventsEndpoint: "tcp://127.0.0.1:0",
    kvReplayEndpoint: "tcp://127.0.0.1:0",
    ...options,
  });
  open.push(worker);
  return worker;
}

/** A subscriber that has certainly joined: the worker is asked until a first event arrives. */
async function subscribe(worker: RunningWorker): Promise<Subscriber> {
  const subscriber = new Subscriber({ linger: 0, receiveTimeout: 3000 });
  open.push(subscriber);
  subscriber.subscribe("kv@");
  const joined = subscriber.events.receive();
  subscriber.connect(worker.kvEventsEndpoint ?? "");
  await joined;
  return subscriber;
}

async function ask(worker: RunningWorker, prompt: readonly number[], more: object = {}): Promise<void> {
  const response = await fetch(`${worker.url}/v1/completions`, {
    method: "POST",
    body: JSON.stringify({ prompt, max_tokens: 1, ...more }),
  });
  expect(response.status).toBe(200);
  await response.arrayBuffer();
}

interface Batch {
  readonly topic: string;
  readonly sequence: bigint;
  readonly payload: Uint8Array;
  readonly ts: number;
  readonly events: readonly (readonly unknown[])[];
  readonly rank: number;
}

function batchOf(frames: readonly Uint8Array[]): Batch {
  expect(frames).toHaveLength(3);
  const [topic = new Uint8Array(), sequence = new Uint8Array(), payload = new Uint8Array()] = frames;
  expect(sequence).toHaveLength(8);
  const [ts, events, rank] = decode(payload, { useBigInt64: true }) as [number, unknown[][], number];
  return {
    topic: Buffer.from(topic).toString(),
    sequence: Buffer.from(sequence).readBigUInt64BE(),
    payload,
    ts,
    events,
    rank,
  };
}

const tokens = (from: number, count: number): number[] => Array.from({ length: count }, (_, index) => from + index);

/** Asks fresh prompts until the subscription, which ZeroMQ settles in its own time, delivers. */
async function nextBatch(subscriber: Subscriber, worker: RunningWorker): Promise<Batch> {
  const received = subscriber.receive();
  let isSettled = false;
  const settled = received.finally(() => {
    isSettled = true;
  });
  for (let attempt = 0; !isSettled && attempt < 200; attempt++) {
    await ask(worker, tokens(100_000 + attempt * 100, 16));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return batchOf(await settled);
}

async function replay(worker: RunningWorker, from: bigint): Promise<readonly Uint8Array[][]> {
  const dealer = new Dealer({ linger: 0, receiveTimeout: 3000 });
  open.push(dealer);
  dealer.connect(worker.kvReplayEndpoint ?? "");
  const start = Buffer.alloc(8);
  start.writeBigUInt64BE(from);
  await dealer.send([Buffer.alloc(0), start]);
  const answers: Uint8Array[][] = [];
  for (;;) {
    const [, sequence = Buffer.alloc(0), payload = Buffer.alloc(0)] = await dealer.receive();
    if (sequence.every((byte) => byte === 0xff)) {
      expect(payload).toHaveLength(0);
      return answers;
    }
    answers.push([sequence, payload]);
  }
}

describe("KV events", () => {
  it("tell a subscriber what was stored, in vLLM's frames and field order", async () => {
    const worker = await start();
    const subscriber = await subscribe(worker);
    const first = await nextBatch(subscriber, worker);
    expect(first.topic).toBe(`kv@127.0.0.1:${worker.port}@m`);
    expect(first.topic).toBe(worker.kvEventsTopic);
    expect(first.rank).toBe(0);
    expect(Math.abs(first.ts - Date.now() / 1000)).toBeLessThan(5);
    expect(Number.isInteger(first.ts)).toBe(false);

    await ask(worker, tokens(500, 40));
    let batch = first;
    const stored = (candidate: Batch): readonly unknown[] | undefined =>
      candidate.events.find((event) => event[0] === "BlockStored" && (event[3] as number[])[0] === 500);
    while (stored(batch) === undefined) {
      const next = batchOf(await subscriber.receive());
      expect(next.sequence).toBe(batch.sequence + 1n);
      batch = next;
    }
    const [tag, hashes, parent, ids, blockSize, loraId, medium, loraName, extraKeys] = stored(batch) ?? [];
    expect([tag, parent, blockSize, loraId, medium, loraName, extraKeys]).toEqual([
      "BlockStored",
      null,
      16,
      null,
      "GPU",
      null,
      null,
    ]);
    expect(ids).toEqual(tokens(500, 32));
    expect(hashes).toHaveLength(2);
    expect((hashes as unknown[]).every((hash) => typeof hash === "bigint" || typeof hash === "number")).toBe(true);

    // The next turn stores one block more, whose parent is the last one known.
    await ask(worker, tokens(500, 50));
    const more = batchOf(await subscriber.receive());
    expect(more.events).toHaveLength(1);
    expect(more.events[0]?.[2]).toEqual((hashes as unknown[])[1]);
    expect(more.events[0]?.[3]).toEqual(tokens(532, 16));
  });

  it("tell what was evicted before what took its place", async () => {
    const worker = await start({ numGpuBlocks: 4 });
    const subscriber = await subscribe(worker);
    const known = new Set<unknown>();
    const note = (batch: Batch): void => {
      for (const [tag, hashes] of batch.events) {
        for (const hash of hashes as unknown[]) {
          if (tag === "BlockStored") known.add(hash);
          else known.delete(hash);
        }
      }
      expect(known.size).toBeLessThanOrEqual(4);
    };
    note(await nextBatch(subscriber, worker));
    // Each needs every block there is, so each evicts the one before it.
    for (const from of [1000, 2000, 3000]) await ask(worker, tokens(from, 63));
    let removed = 0;
    let last: Batch | undefined;
    while (last?.events.some((event) => event[0] === "BlockStored" && (event[3] as number[])[0] === 3000) !== true) {
      last = batchOf(await subscriber.receive());
      note(last);
      removed += last.events.filter(([tag]) => tag === "BlockRemoved").length;
      expect(last.events.map(([tag]) => tag).at(-1)).toBe("BlockStored");
    }
    expect(removed).toBeGreaterThanOrEqual(2);
    expect(worker.stats().cachedBlocks).toBe(known.size);
  });

  it("name the adapter and the cache salt", async () => {
    const worker = await start({ loraModules: ["sql"] });
    await ask(worker, tokens(1, 40), { model: "sql", cache_salt: "tenant" });
    const [batch] = await replay(worker, 0n);
    const [, events] = decode(batch?.[1] ?? new Uint8Array(), { useBigInt64: true }) as [number, unknown[][]];
    expect(events[0]?.[7]).toBe("sql");
    expect(events[0]?.[8]).toEqual([["sql", "tenant"], ["sql"]]);
  });

  it("say when everything was cleared", async () => {
    const worker = await start();
    await ask(worker, tokens(1, 20));
    await fetch(`${worker.url}/reset_prefix_cache`, { method: "POST" });
    const batches = await replay(worker, 0n);
    const [, events] = decode(batches.at(-1)?.[1] ?? new Uint8Array()) as [number, unknown[][]];
    expect(events).toEqual([["AllBlocksCleared"]]);
  });

  it("are replayed from a sequence number on, the same bytes, then the end mark", async () => {
    const worker = await start();
    const subscriber = await subscribe(worker);
    const live = await nextBatch(subscriber, worker);
    for (const from of [1000, 2000, 3000]) await ask(worker, tokens(from, 20));
    const all = await replay(worker, 0n);
    const sequences = all.map(([sequence]) => Buffer.from(sequence ?? []).readBigUInt64BE());
    expect(sequences).toEqual(sequences.map((_, index) => BigInt(index)));
    expect(all[Number(live.sequence)]?.[1]).toEqual(Buffer.from(live.payload));
    const tail = await replay(worker, BigInt(all.length - 2));
    expect(tail).toHaveLength(2);
    expect(await replay(worker, 1_000_000n)).toEqual([]);
  });

  it("are kept for replay no longer than told", async () => {
    const worker = await start({ kvReplayBatches: 2 });
    for (const from of [1000, 2000, 3000, 4000]) await ask(worker, tokens(from, 20));
    const kept = await replay(worker, 0n);
    expect(kept.map(([sequence]) => Buffer.from(sequence ?? []).readBigUInt64BE())).toEqual([2n, 3n]);
  });

  it("fail the start clearly when their endpoint is unusable, and leave nothing open", async () => {
    const first = await start();
    const taken = first.kvReplayEndpoint ?? "";
    await expect(start({ kvReplayEndpoint: taken })).rejects.toThrow(/cannot open KV event sockets/);
  });
});
