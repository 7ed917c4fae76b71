/** What a cache behind all workers costs a picker: looking a prompt's pages up, taking its events in, and the memory of what it has. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { MooncakeCache, type OpenSource } from "../src/prefill-router/shared-cache/mooncake-cache.ts";
import { createSharedCacheCounters } from "../src/prefill-router/shared-cache/shared-cache-counters.ts";
import { silentLogger } from "../src/telemetry/log.ts";
import { encodeBatch, pageHashes, plainLayout, storedPages } from "../test/mooncake.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const promptTokens = 4_000;
const longTokens = 128_000;
/** What a Mooncake master puts into one batch at most. */
const batchEvents = 64;
const filledPages = 100_000;
const lookUps = 400;
const fillArgument = "fill";

type Handler = Parameters<OpenSource>[0]["handler"];

/** The cache, and its events' receiver in the place of a socket's. */
function opened(pageSize: number): { readonly cache: MooncakeCache; readonly handler: Handler } {
  let handler: Handler | undefined;
  const cache = new MooncakeCache({
    endpoint: "tcp://127.0.0.1:1",
    layout: { ...plainLayout, pageSize },
    counters: createSharedCacheCounters(),
    log: silentLogger,
    open: (options) => {
      handler = options.handler;
      return { close: () => Promise.resolve() };
    },
  });
  if (handler === undefined) throw new Error("the cache has not opened its source");
  return { cache, handler };
}

function batchesOf(hashes: readonly string[]): Buffer[] {
  const events = storedPages(hashes);
  return Array.from({ length: Math.ceil(events.length / batchEvents) }, (_, index) =>
    encodeBatch(events.slice(index * batchEvents, (index + 1) * batchEvents)),
  );
}

function cpuMicros(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

const topic = Buffer.alloc(0);

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
/** What is fed to a cache, held while its memory is taken. */
const fed: Buffer[] = [];

/** After collections that free no more: one leaves what was in use when it began. */
async function heldBytes(): Promise<number> {
  let held = Number.POSITIVE_INFINITY;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    if (heapUsed + arrayBuffers > held - 65_536) return held;
    held = heapUsed + arrayBuffers;
  }
}

/** Every page of the prompt is there. */
function lookUpMicros(tokenCount: number, pageSize: number, calls: number): number {
  const { cache, handler } = opened(pageSize);
  const tokens = Array.from({ length: tokenCount }, (_, index) => (index * 7919) % 50_000);
  for (const [sequence, batch] of batchesOf(pageHashes(tokens, pageSize)).entries()) {
    handler.message(topic, sequence, batch);
  }
  const prompt = Uint32Array.from(tokens);
  const pages = Math.floor(tokenCount / pageSize);
  const look = (): void => {
    const [from, to] = cache.hitsOf(prompt);
    if (from !== 0 || to !== pages) throw new Error(`${from} to ${to} of ${pages} pages were found`);
  };
  for (let warm = 0; warm < calls; warm++) look();
  const startedAt = cpuMicros();
  for (let call = 0; call < calls; call++) look();
  return (cpuMicros() - startedAt) / calls;
}

/** Apart, so that nothing of the making is held. */
function prepareFeed(): void {
  fed.push(...batchesOf(Array.from({ length: filledPages }, (_, page) => page.toString(16).padStart(64, "0"))));
}

async function fill(): Promise<Run> {
  const { cache, handler } = opened(16);
  prepareFeed();
  const bytesBefore = await heldBytes();
  const startedAt = cpuMicros();
  for (const [sequence, batch] of fed.entries()) handler.message(topic, sequence, batch);
  const micros = cpuMicros() - startedAt;
  const bytes = (await heldBytes()) - bytesBefore;
  fed.length = 0;
  if (cache.pages !== filledPages) throw new Error(`${cache.pages} pages are known`);
  return { "shared-cache-event-cpu": micros / (2 * filledPages), "shared-cache-page-bytes": bytes / filledPages };
}

/** In a process of its own: what others have left behind would be counted with it. */
async function filled(): Promise<Run> {
  const { stdout } = await promisify(execFile)(process.execPath, [import.meta.filename, fillArgument]);
  return JSON.parse(stdout) as Run;
}

async function measureOnce(): Promise<Run> {
  return {
    "shared-cache-4000-cpu": lookUpMicros(promptTokens, 16, lookUps),
    "shared-cache-4000-64-cpu": lookUpMicros(promptTokens, 64, lookUps),
    "shared-cache-128000-64-cpu": lookUpMicros(longTokens, 64, 20),
    ...(await filled()),
  };
}

export const sharedCache: Measurement = {
  name: "shared-cache",
  what: "Looking prompts up in a Mooncake store behind all workers, and following its events.",
  figures: [
    { name: "shared-cache-4000-cpu", title: "Shared cache: 4,000 tokens in pages of 16", unit: "µs", digits: 0 },
    { name: "shared-cache-4000-64-cpu", title: "… in pages of 64", unit: "µs", digits: 0 },
    { name: "shared-cache-128000-64-cpu", title: "… 128,000 tokens in pages of 64", unit: "µs", digits: 0 },
    { name: "shared-cache-event-cpu", title: "An event of it", unit: "µs", digits: 1 },
    { name: "shared-cache-page-bytes", title: "A page that is known of", unit: "bytes", digits: 0 },
  ],
  isLatency: false,
  measure: (context: Context) => repeat(context, measureOnce),
};

if (import.meta.main) {
  if (process.argv[2] === fillArgument) console.log(JSON.stringify(await fill()));
  else for (let run = 0; run < 3; run++) console.log(await measureOnce());
}
