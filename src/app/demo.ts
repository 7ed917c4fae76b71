/**
 * The demo: a real Envoy, the picker and simulated workers on this machine; one workload under the default configuration, then under random
 * picking on fresh workers. Every process is a child of this one and is ended with it.
 */
import { readFile } from "node:fs/promises";
import { generateWorkload } from "../sim/workload/generate.ts";
import type { ReplaySummary } from "../sim/workload/replay-summary.ts";
import { replayTrace } from "../sim/workload/replayer.ts";
import { parseTrace, type Trace } from "../sim/workload/trace.ts";
import { startEppChild, startWorkersChild } from "./child.ts";
import { type EnvoyMode, startEnvoy } from "./envoy.ts";

export interface DemoOptions {
  readonly envoy: string;
  readonly mode: EnvoyMode;
  readonly listenPort: number;
  readonly workers: number;
  readonly seed: number;
  /** Seconds of the trace a real second. */
  readonly timeScale: number;
  /** Tokens sent for each of the trace's. */
  readonly tokenScale: number;
  /** KV blocks of each worker. */
  readonly blocks: number;
}

export interface DemoStack {
  readonly url: string;
  readonly metricsUrl: string;
  readonly model: string;
  close(): Promise<void>;
}

const model = "signalbox-sim";
/** A large model on one accelerator, whose prompts are worth caching; prompts are sent at a quarter of their length, so this is 10,000 of the trace's. */
const prefillTokensPerSecond = 2500;

/** EndpointPickerConfig of the two runs; undefined is the default configuration. */
const randomPicking = `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: random-picker}]
schedulingProfiles: [{name: default, plugins: [{pluginRef: random-picker}]}]
`;

export type Picking = "default" | "random";

export async function startDemoStack(options: DemoOptions, picking: Picking, signal: AbortSignal): Promise<DemoStack> {
  const open: { close(): Promise<void> }[] = [];
  const close = async (): Promise<void> => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last.close();
  };
  try {
    signal.throwIfAborted();
    const workers = await startWorkersChild(options.workers, [
      `--time-scale=${options.timeScale}`,
      `--num-gpu-blocks=${options.blocks}`,
      `--prefill-tokens-per-second=${prefillTokensPerSecond}`,
      `--seed=${options.seed}`,
    ]);
    open.push(workers);
    signal.throwIfAborted();
    const picker = await startEppChild([
      `--endpoints=${workers.ready.map(({ hostPort }) => hostPort).join(",")}`,
      "--drain-timeout=0s",
      "--drain-grace=1s",
      ...(picking === "random" ? [`--config-text=${randomPicking}`] : []),
    ]);
    open.push(picker);
    signal.throwIfAborted();
    const envoy = await startEnvoy({
      mode: options.mode,
      binary: options.envoy,
      picker: { port: picker.ready.grpcPort, tls: true },
      listenPort: options.listenPort,
      fallbackPorts: workers.ready.map(({ url }) => Number(new URL(url).port)),
    });
    open.push(envoy);
    signal.throwIfAborted();
    return { url: envoy.url, metricsUrl: `http://127.0.0.1:${picker.ready.metricsPort}`, model, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Dense enough that four workers are busy, with readers quick enough that the whole takes under a minute. */
const demoShape = { sessionEveryMs: 300, thinkMs: 2500, outputTokens: 80 } as const;

/** A Mooncake trace file, or the built-in multi-turn workload. Throws with the first faults when no line can be used. */
export async function loadTrace(
  file: string,
  limit: number,
  seed: number,
): Promise<{ trace: Trace; faults: readonly string[] }> {
  if (file === "")
    return {
      trace: generateWorkload({ ...demoShape, seed, sessions: Math.max(1, Math.round(limit / 4)) }),
      faults: [],
    };
  const { trace, faults } = parseTrace(await readFile(file));
  if (trace.requests.length === 0) throw new Error(`${file} holds no request: ${faults.slice(0, 3).join("; ")}`);
  return { trace: { requests: trace.requests.slice(0, limit) }, faults };
}

export async function replayAgainst(
  stack: DemoStack,
  trace: Trace,
  options: DemoOptions,
  progress: (done: number) => void,
  signal: AbortSignal,
): Promise<ReplaySummary> {
  const given = {
    baseUrl: stack.url,
    model: stack.model,
    timeScale: options.timeScale,
    tokenScale: options.tokenScale,
    workers: options.workers,
    onResult: (_result: unknown, done: number) => progress(done),
  };
  return await replayTrace(trace, given, signal);
}
