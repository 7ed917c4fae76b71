/**
 * Whatever workers register, publish and answer, the code that reads it says so and goes on: no error but its own, no stop of the event loop, and
 * others are served meanwhile. SIGNALBOX_FUZZ_SEED replays a run, SIGNALBOX_FUZZ_ROUNDS prolongs it.
 */
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { afterEach, describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { EngineFeed } from "../../../src/data/kv-events/engine-feed.ts";
import { createEventCounters as createEngineCounters } from "../../../src/data/kv-events/event-counters.ts";
import { createKvIndex } from "../../../src/data/prefix-index/exact-kv-index.ts";
import { JsonReader } from "../../../src/dynamo/encoding/json-reader.ts";
import { MsgpackReader } from "../../../src/dynamo/encoding/msgpack-reader.ts";
import { MalformedMessage } from "../../../src/dynamo/encoding/value-reader.ts";
import { encodeEnvelope } from "../../../src/dynamo/event-plane/envelope.ts";
import { EnvelopeReceiver } from "../../../src/dynamo/event-plane/envelope-receiver.ts";
import { createEventCounters } from "../../../src/dynamo/event-plane/event-counters.ts";
import { parseActiveLoad } from "../../../src/dynamo/kv-events/active-load.ts";
import {
  encodeActiveSequenceEvents,
  parseActiveSequenceEvents,
} from "../../../src/dynamo/kv-events/active-sequences.ts";
import { RecoveryAnswer } from "../../../src/dynamo/kv-events/recovery-query.ts";
import { parseRecord } from "../../../src/dynamo/parse-record.ts";
import { bucketOf, pathOfFileName } from "../../../src/dynamo/record-keys.ts";
import { createRequestPlane } from "../../../src/dynamo/request-plane/request-plane.ts";
import { readAnnotated, readStreamItem } from "../../../src/dynamo/request-plane/stream-item.ts";
import { encodeTwoPart } from "../../../src/dynamo/request-plane/two-part.ts";
import { WorkerSets } from "../../../src/dynamo/worker-sets/worker-sets.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { createTokenHasher } from "../../../src/tokens/block-hash.ts";
import { type FakeWorker, startFakeWorker } from "../../unit/dynamo/request-plane/fake-worker.ts";
import { createRandom, mutate, type RandomSource } from "./random-bytes.ts";

const seed = Number(process.env["SIGNALBOX_FUZZ_SEED"] ?? 20_260_101);
const rounds = Number(process.env["SIGNALBOX_FUZZ_ROUNDS"] ?? 5);

const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function fuzzed(random: RandomSource, proper: readonly Buffer[]): Buffer {
  return random.below(5) === 0 ? random.bytes(random.below(200)) : mutate(random, random.pick(proper));
}

const item = { data: { tokens: [1, 2] }, id: "x", event: null, comment: ["c"], error: null };
const answers = [
  { Events: { events: [], last_event_id: 7 } },
  { TreeDump: { events: [], last_event_id: 7, reset_scope: "all" } },
  { TooNew: { requested_start: 1, requested_end: null, newest_available: 0 } },
  { Error: "no" },
];
const both = (value: unknown): Buffer[] => [Buffer.from(JSON.stringify(value)), Buffer.from(encode(value))];

describe("readers of what workers send", () => {
  const load = { worker_id: 1, dp_rank: 0, active_decode_blocks: 5, kv_used_blocks: 3 };
  const sequence = encodeActiveSequenceEvents([
    {
      requestId: "r",
      workerId: 1n,
      dpRank: 0,
      routerId: 2n,
      loraName: undefined,
      change: {
        kind: "add",
        sequenceHashes: Uint32Array.of(1, 2, 3, 4),
        trackPrefillTokens: true,
        expectedOutputTokens: 9,
        prefillTokens: 5,
        expectedPrefillMs: 1.5,
      },
    },
  ]);
  const readers: readonly (readonly [name: string, proper: readonly Buffer[], read: (bytes: Buffer) => unknown])[] = [
    ["loads", both(load), parseActiveLoad],
    ["bookings of routers", [Buffer.from(sequence)], parseActiveSequenceEvents],
    ["items of an answer, JSON", both({ data: item, complete_final: false }), (bytes) => readStreamItem(bytes, "json")],
    [
      "items of an answer, msgpack",
      both({ data: item, complete_final: true }),
      (bytes) => readStreamItem(bytes, "msgpack"),
    ],
    ["annotated items", both(item), (bytes) => readAnnotated(bytes, "msgpack")],
    ["recoveries, JSON", answers.flatMap(both), (bytes) => new RecoveryAnswer(new JsonReader()).open(bytes)],
    ["recoveries, msgpack", answers.flatMap(both), (bytes) => new RecoveryAnswer(new MsgpackReader()).open(bytes)],
  ];

  it.each(readers)("refuse with their own error, if at all: %s", (_name, proper, read) => {
    const random = createRandom(seed);
    let refused = 0;
    for (let count = 0; count < 400 * rounds; count++) {
      try {
        read(fuzzed(random, proper));
      } catch (error) {
        if (!(error instanceof MalformedMessage)) throw error;
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(0);
  });

  it("refuse envelopes and count each as what it is", () => {
    const random = createRandom(seed);
    const counters = createEventCounters();
    let handled = 0;
    const receiver = new EnvelopeReceiver("t", () => handled++, counters, silentLogger);
    const proper = [
      encodeEnvelope(1n, 2n, 3, "t", Buffer.from("payload")),
      Buffer.from('{"publisher_id":1,"sequence":2,"published_at":3,"topic":"t","payload":[1,255]}'),
    ];
    const total = 400 * rounds;
    for (let count = 0; count < total; count++) receiver.receive(fuzzed(random, proper), () => undefined);
    const { dropped, received } = counters;
    expect(received).toBe(total);
    expect(handled + dropped.malformed + dropped.topic).toBe(total);
    expect(Math.min(handled, dropped.malformed)).toBeGreaterThan(0);
  });
});

describe("discovery records", () => {
  interface Fixture {
    readonly layouts: Readonly<Record<string, { readonly files: Readonly<Record<string, string>> }>>;
  }
  const { layouts } = JSON.parse(readFileSync("test/fixtures/dynamo/discovery-records.json", "utf8")) as Fixture;
  const files = Object.values(layouts).flatMap((layout) => Object.entries(layout.files));
  const keyOf = (file: string): string => {
    const bucket = bucketOf(file) ?? "";
    return `${bucket}/${pathOfFileName(file.slice(bucket.length + 1)) ?? ""}`;
  };

  it("of any text are a record or a reason, and worker sets are made of whatever is one", () => {
    const random = createRandom(seed);
    const ignore = (): void => {};
    const listener = {
      setAdded: ignore,
      setRemoved: ignore,
      setChanged: ignore,
      workerAdded: ignore,
      workerChanged: ignore,
      workerRemoved: ignore,
      channelOpened: ignore,
      channelClosed: ignore,
    };
    const sets = new WorkerSets({ log: silentLogger, listener, filter: { kind: "all" }, enforceDisagg: false });
    const kinds = { record: 0, malformed: 0 };
    for (let count = 0; count < 400 * rounds; count++) {
      const [file, text] = random.pick(files);
      const key = keyOf(file);
      const parsed = parseRecord(key, oddText(random, text));
      kinds[parsed.kind]++;
      if (parsed.kind === "record") sets.put(key, parsed.record);
      if (parsed.kind === "record" && random.below(3) === 0) sets.removed(key, parsed.record);
    }
    expect(sets.sets.length).toBeGreaterThan(0);
    expect(Math.min(kinds.record, kinds.malformed)).toBeGreaterThan(10);
  });

  /** Values of another kind, size or sign where the text has a value; or bytes changed anywhere. */
  function oddText(random: RandomSource, text: string): string {
    if (random.below(4) === 0) return mutate(random, Buffer.from(text)).toString("utf8");
    const odd = [
      "-1",
      "1e308",
      "1e999",
      "18446744073709551615",
      "18446744073709551616",
      "null",
      '""',
      "[]",
      "{}",
      "true",
      '"NaN"',
      '"\\u0000"',
    ];
    const values = [...text.matchAll(/(?<=:)(?:-?[0-9.]+|"[^"]*"|true|false|null|\[\]|\{\})/g)];
    const { index, 0: value } = random.pick(values);
    return text.slice(0, index) + random.pick(odd) + text.slice(index + value.length);
  }
});

describe("an engine's own events", () => {
  it("of any bytes leave the index as it was or say what it holds", () => {
    const random = createRandom(seed);
    const index = createKvIndex({ random: () => random.next() });
    const feed = new EngineFeed({
      index,
      hasher: createTokenHasher(),
      blockSize: 4,
      maxBlocksPerRank: 100,
      counters: createEngineCounters(),
      adapters: new Set(),
      replayEndpoint: undefined,
      now: () => 0,
      onBlockSize: () => {},
      onRank: () => {},
    });
    const stored = ["BlockStored", [1, 2], null, [1, 2, 3, 4, 5, 6, 7, 8], 4, null, "GPU", null, null];
    const proper = [
      [1.5, [stored], 0],
      [1.5, [["BlockRemoved", [1], "GPU"], ["AllBlocksCleared"]], 0],
      [
        1.5,
        [{ type: "BlockStored", block_hashes: [3], parent_block_hash: 2, token_ids: [9, 9, 9, 9], block_size: 4 }],
        1,
      ],
    ].map((batch) => Buffer.from(encode(batch)));
    for (let sequence = 0; sequence < 400 * rounds; sequence++) {
      feed.message(random.below(10) === 0 ? random.below(2 ** 31) : sequence, fuzzed(random, proper));
    }
    expect(index.heldBlocks).toBeLessThanOrEqual(100 * index.holderCount);
  });
});

describe("the request plane", () => {
  /** Answers a call properly. */
  const answer = async (request: Parameters<FakeWorker["dial"]>[0], worker: FakeWorker): Promise<void> => {
    const line = await worker.dial(request);
    line.header({ error: null });
    line.item(Buffer.from('{"data":1,"complete_final":false}'));
    line.item(Buffer.from('{"complete_final":true}'));
    line.end();
  };

  it("answers whoever calls an honest worker while another says anything at all", async () => {
    const random = createRandom(seed);
    const plane = await createRequestPlane({ host: "127.0.0.1" });
    const proper = [
      encodeTwoPart(Buffer.from('{"error":null}')),
      encodeTwoPart(Buffer.alloc(0), Buffer.from('{"data":1,"complete_final":false}')),
      encodeTwoPart(Buffer.from('"sentinel"')),
    ];
    const strangers = new Set<Socket>();
    const honest = await startFakeWorker((request, self) => void answer(request, self));
    const liar = await startFakeWorker(
      (request, self) => {
        void self.dial(request).then((line) => {
          for (let count = random.below(6); count > 0; count--) line.write(fuzzed(random, proper));
          if (random.below(2) === 0) line.end();
        });
      },
      () => random.pick(["", "Server overloaded: x", "Decode error: x", "x".repeat(random.below(70_000))]),
    );
    closers.push(
      () => plane.close(),
      () => honest.close(),
      () => liar.close(),
      () => {
        for (const socket of strangers) socket.destroy();
        return Promise.resolve();
      },
    );
    const call = ({ instance }: FakeWorker, timeoutMs: number): Promise<string> => {
      const options = {
        codec: "json",
        answerTimeoutMs: timeoutMs,
        idleTimeoutMs: timeoutMs,
        maxItemBytes: 1e6,
      } as const;
      return new Promise((resolve) => {
        plane.call(instance, Buffer.from("{}"), options, {
          item: () => {},
          ended: (end) => resolve(end.kind === "failed" ? end.reason : end.kind),
        });
      });
    };
    const [host = "", port = ""] = plane.address.split(":");
    for (let round = 0; round < rounds; round++) {
      const lies = Array.from({ length: 40 }, () => call(liar, 200));
      for (let count = 0; count < 10; count++) {
        const stranger = connect(Number(port), host);
        stranger.on("error", () => {}).write(fuzzed(random, proper));
        strangers.add(stranger);
      }
      const truths = await Promise.all(Array.from({ length: 20 }, () => call(honest, 10_000)));
      expect(truths).toEqual(Array(20).fill("complete"));
      await Promise.all(lies);
    }
    const { calls, completed, failed, cancelled } = plane.counters;
    const ended = Object.values(failed).reduce((sum, count) => sum + count, completed + cancelled);
    expect(ended).toBe(calls);
  }, 20_000);
});
