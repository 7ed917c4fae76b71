/**
 * A picker that has lost everything: tree dumps of 2 million blocks, asked for over the request plane and put into the index by the same parts that do it
 * in the picker, while 200 requests a second are tokenized, hashed, planned and booked in the same process.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { createKvIndex } from "../src/data/prefix-index/exact-kv-index.ts";
import type { PayloadCodec } from "../src/dynamo/encoding/value-reader.ts";
import { createRequestPlane } from "../src/dynamo/request-plane/request-plane.ts";
import { KvEventIngest } from "../src/prefill-router/indexer/kv-event-ingest.ts";
import { createRecoveryQuery } from "../src/prefill-router/indexer/recovery-query.ts";
import { silentLogger } from "../src/telemetry/log.ts";
import { createDecider, type Decider } from "./dynamo-decider.ts";
import { chainOf, type DumpPlace, instanceOf } from "./dynamo-dumps.ts";
import { seeded, workerIdOf } from "./dynamo-fleet.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const ranks = 20;
const blocksPerRank = 100_000;
const requestsPerSecond = 200;
const promptBytes = 4096;
const answerTimeoutMs = 60_000;
const settledWithinMs = 120_000;

interface Dumps extends DumpPlace {
  close(): Promise<void>;
}

async function startDumps(codec: PayloadCodec): Promise<Dumps> {
  const script = join(import.meta.dirname, "dynamo-dumps.ts");
  const child = spawn(process.execPath, [script, String(ranks), String(blocksPerRank), codec], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  const first = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
  if (first.done === true) throw new Error("the worker with the dumps has ended");
  const place = JSON.parse(first.value) as DumpPlace;
  return {
    ...place,
    async close() {
      child.stdin.end();
      await exited;
    },
  };
}

/** Milliseconds from when each decision was due to when it was made. */
class OpenLoop {
  readonly delays: number[] = [];
  readonly #decide: (index: number, done: () => void) => void;
  #sent = 0;
  readonly #startMs = performance.now();
  #timer: NodeJS.Timeout | undefined;

  constructor(decide: (index: number, done: () => void) => void) {
    this.#decide = decide;
    this.#next();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  readonly #next = (): void => {
    const everyMs = 1000 / requestsPerSecond;
    for (;;) {
      const dueMs = this.#startMs + this.#sent * everyMs;
      const leftMs = dueMs - performance.now();
      if (leftMs > 0) {
        this.#timer = setTimeout(this.#next, leftMs);
        return;
      }
      this.#decide(this.#sent++, () => this.delays.push(performance.now() - dueMs));
    }
  };
}

function quantile(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0;
}

async function until(isTrue: () => boolean, withinMs: number): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!isTrue()) {
    if (performance.now() > endMs) throw new Error(`not recovered within ${withinMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

async function recovered(codec: PayloadCodec, random: () => number): Promise<Run> {
  const dumps = await startDumps(codec);
  const plane = await createRequestPlane({ host: "127.0.0.1" });
  const index = createKvIndex({ random });
  let decider: Decider | undefined;
  let ingest: KvEventIngest | undefined;
  let loop: OpenLoop | undefined;
  try {
    decider = await createDecider({ index, workers: ranks, random });
    const { router } = decider;
    ingest = new KvEventIngest({
      index,
      query: createRecoveryQuery(plane, answerTimeoutMs),
      log: silentLogger,
      holderChanged: (rank, holder) => router.setHolder(rank, holder),
    });
    const chains = Array.from({ length: 64 }, (_, chain) => chainOf(chain % ranks, chain));
    const bodies = decider.bodies(promptBytes, 2_000);
    const decide = decider;
    const ask = (number: number, done: () => void): void => {
      // Its own tokens and hashes are computed; it is planned as one whose blocks are held, the longest way through the index.
      decide.decide(bodies[number % bodies.length] ?? Buffer.alloc(0), chains[number % chains.length], done);
    };
    for (let number = 0; number < 500; number++) await new Promise<void>((resolve) => ask(number, resolve));
    loop = new OpenLoop(ask);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const before = loop.delays.length;
    const cpu = process.cpuUsage();
    const startMs = performance.now();
    for (let rank = 0; rank < ranks; rank++) {
      ingest.sourceAppeared({
        type: "EventSource",
        scope: { namespace: "ns", component: "backend", endpoint: "generate" },
        topic: "kv-events",
        publisherId: BigInt(rank + 1),
        workerId: workerIdOf(rank),
        dpRank: 0,
        recovery: instanceOf(dumps, codec),
      });
    }
    const { counters } = ingest;
    const watched = ingest;
    await until(() => counters.recoveriesDone >= ranks && watched.isSettled, settledWithinMs);
    const seconds = (performance.now() - startMs) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    const delays = loop.delays.slice(before);
    if (index.heldBlocks !== ranks * blocksPerRank) throw new Error(`${index.heldBlocks} blocks were recovered`);
    // CPU of the decisions made meanwhile is in it.
    return {
      [`recovery-${codec}-seconds`]: seconds,
      [`recovery-${codec}-cpu`]: (user + system) / 1e6,
      [`recovery-${codec}-p50`]: quantile(delays, 0.5),
      [`recovery-${codec}-p99`]: quantile(delays, 0.99),
      [`recovery-${codec}-longest`]: quantile(delays, 1),
      [`recovery-${codec}-bytes`]: dumps.bytes / 2 ** 20,
    };
  } finally {
    loop?.stop();
    ingest?.close();
    await decider?.close();
    await plane.close();
    await dumps.close();
  }
}

const codecs = ["msgpack", "json"] as const;

export const dynamoRecovery: Measurement = {
  name: "dynamo-recovery",
  what: `Recovery of ${(ranks * blocksPerRank) / 1e6} million blocks of ${ranks} workers, with ${requestsPerSecond} decisions a second meanwhile`,
  isLatency: true,
  figures: codecs.flatMap((codec) => [
    { name: `recovery-${codec}-seconds`, title: `Recovery of 2 million blocks, ${codec}`, unit: "s", digits: 1 },
    { name: `recovery-${codec}-cpu`, title: "… CPU, the decisions' own included", unit: "s", digits: 1 },
    { name: `recovery-${codec}-p50`, title: "… decisions meanwhile, p50", unit: "ms", digits: 2 },
    { name: `recovery-${codec}-p99`, title: "… decisions meanwhile, p99", unit: "ms", digits: 1 },
    { name: `recovery-${codec}-longest`, title: "… decisions meanwhile, the slowest", unit: "ms", digits: 1 },
    { name: `recovery-${codec}-bytes`, title: "… what the workers send", unit: "MiB", digits: 0 },
  ]),
  measure: (context: Context) =>
    repeat(context, async (number) => ({
      ...(await recovered("msgpack", seeded(number + 1))),
      ...(await recovered("json", seeded(number + 1))),
    })),
};

if (import.meta.main) for (const codec of codecs) console.log(await recovered(codec, seeded(1)));
