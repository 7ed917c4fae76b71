/**
 * One multi-turn trace through Dynamo's own KV router and through Envoy, the picker and Dynamo's frontend in direct mode: the same workers with the
 * same settings, started anew for each, and what their own counts of cached tokens say of both.
 */
import { generateWorkload, type WorkloadShape } from "../../src/sim/workload/generate.ts";
import type { ReplaySummary } from "../../src/sim/workload/replay-summary.ts";
import { replayTrace } from "../../src/sim/workload/replayer.ts";
import type { Trace } from "../../src/sim/workload/trace.ts";
import { startGateway } from "./picker.ts";
import { type DynamoOptions, type DynamoStack, startDynamo } from "./stack.ts";

export type Layout = "aggregated" | "disaggregated";

export interface RouterRun {
  /** Cached prompt tokens a prompt token, as the workers say. */
  readonly hitRate: number;
  readonly ttftMs: { readonly p50: number; readonly p99: number };
  readonly errors: number;
  readonly requests: number;
  readonly promptTokens: number;
  /** Requests of the busiest worker over the mean of all: 1 is even. Of disaggregated workers those that prefill. */
  readonly spread: number;
}

export interface HitRates {
  readonly dynamo: RouterRun;
  readonly ours: RouterRun;
}

/**
 * About 1,100 turns of 400 conversations in a minute, eight system prompts among them. What is talked about at a time takes about as many blocks as the
 * workers have, so that a turn sent elsewhere, or a prefix kept twice, is paid for.
 */
const shape: WorkloadShape = {
  seed: 4,
  sessions: 400,
  turns: 4,
  sessionEveryMs: 150,
  thinkMs: 4_000,
  answerTokenMs: 20,
  tenants: 8,
  systemTokens: 800,
  openingTokens: 700,
  questionTokens: 150,
  outputTokens: 40,
  maxInputTokens: 8_000,
};
/** The trace's tokens are words, which the model's tokenizer makes two tokens of. */
const wordsPerToken = 0.5;
const blocksPerWorker = 2_048;
/**
 * A prompt takes some tens of milliseconds, where a real engine takes hundreds: what a gateway adds to a request weighs several times as much here
 * as there, for a booking lasts until its answer has passed the gateway, and what is booked takes requests away from where they are cached.
 */
const speedup = 5;

/** Ends with the last conversation's first turn: what follows is talked about by ever fewer, and would double the time. */
export function hitRateTrace(changes: Partial<WorkloadShape> = {}): Trace {
  const whole = { ...shape, ...changes };
  const { requests } = generateWorkload(whole);
  const [first] = requests;
  const endMs = (first?.timestampMs ?? 0) + whole.sessions * whole.sessionEveryMs;
  return { requests: requests.filter(({ timestampMs }) => timestampMs <= endMs) };
}

function workersOf(layout: Layout): DynamoOptions {
  return {
    layout,
    ...(layout === "aggregated" ? { workers: 4 } : { prefill: 2, decode: 2 }),
    speedup,
    workerArgs: [`--num-gpu-blocks-override=${blocksPerWorker}`],
  };
}

async function replayed(stack: DynamoStack, baseUrl: string, trace: Trace, layout: Layout): Promise<RouterRun> {
  const summary: ReplaySummary = await replayTrace(trace, {
    baseUrl,
    model: stack.model,
    tokenScale: wordsPerToken,
    outputScale: 0.5,
    timeoutMs: 30_000,
  });
  return {
    hitRate: summary.prefixHitRate,
    ttftMs: { p50: summary.ttftMs.p50, p99: summary.ttftMs.p99 },
    errors: summary.errors,
    requests: summary.requests,
    promptTokens: summary.promptTokens,
    spread: await spreadOf(stack, layout),
  };
}

async function spreadOf(stack: DynamoStack, layout: Layout): Promise<number> {
  const served = await stack.served();
  const role = layout === "aggregated" ? "aggregated" : "prefill";
  const counts = stack.workersOf(role).map(({ instanceId }) => served.get(instanceId) ?? 0);
  const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
  return Math.max(...counts) / mean;
}

export async function throughDynamo(trace: Trace, layout: Layout): Promise<RouterRun> {
  const stack = await startDynamo({ ...workersOf(layout), routerMode: "kv" });
  try {
    return await replayed(stack, stack.frontend.url, trace, layout);
  } finally {
    await stack.close();
  }
}

export async function throughPicker(trace: Trace, layout: Layout): Promise<RouterRun> {
  const stack = await startDynamo({ ...workersOf(layout), routerMode: "direct" });
  try {
    const gateway = await startGateway(stack, { layout });
    try {
      const run = await replayed(stack, gateway.url, trace, layout);
      await gateway.idle();
      return run;
    } finally {
      await gateway.close();
    }
  } finally {
    await stack.close();
  }
}

/** One after the other, since they share this machine. */
export async function compareHitRates(trace: Trace, layout: Layout): Promise<HitRates> {
  const dynamo = await throughDynamo(trace, layout);
  return { dynamo, ours: await throughPicker(trace, layout) };
}
