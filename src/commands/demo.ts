/** `signalbox demo`: what routing gains, on this machine, in about a minute. */
import { type DemoOptions, loadTrace, type Picking, replayAgainst, startDemoStack } from "../app/demo.ts";
import { type EnvoyMode, findEnvoy } from "../app/envoy.ts";
import type { ReplaySummary } from "../sim/workload/replay-summary.ts";
import type { Trace } from "../sim/workload/trace.ts";
import { defineCommand, exitCode } from "./command.ts";

const isTerminal = process.stdout.isTTY === true;
const bold = (text: string): string => (isTerminal ? `\u001b[1m${text}\u001b[0m` : text);

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** A line that is rewritten on a terminal and printed every few seconds elsewhere. */
function progressOf(label: string, total: number): (done: number) => void {
  let printedAtMs = performance.now();
  return (done) => {
    const nowMs = performance.now();
    if (done < total && nowMs - printedAtMs < (isTerminal ? 200 : 5_000)) return;
    printedAtMs = nowMs;
    process.stdout.write(
      isTerminal
        ? `\r${label}: ${done} of ${total} answers${done === total ? "\n" : ""}`
        : `${label}: ${done} of ${total} answers\n`,
    );
  };
}

function ms(value: number): string {
  return `${value.toFixed(0)} ms`;
}

function table(runs: ReadonlyMap<Picking, ReplaySummary>): readonly string[] {
  const rows: readonly (readonly [string, (summary: ReplaySummary) => string])[] = [
    ["time to first token, p50", ({ ttftMs }) => ms(ttftMs.p50)],
    ["time to first token, p99", ({ ttftMs }) => ms(ttftMs.p99)],
    ["prefix cache hit rate", ({ prefixHitRate }) => `${(prefixHitRate * 100).toFixed(1)} %`],
    ["load spread (busiest / mean)", ({ loadSpread }) => loadSpread.toFixed(2)],
    ["throughput", ({ throughputTokensPerSecond }) => `${throughputTokensPerSecond.toFixed(0)} tok/s`],
    ["failed requests", ({ errors }) => String(errors)],
  ];
  const columns = [...runs.keys()];
  return [
    bold(`${"".padEnd(30)}${columns.map((name) => `${name} picking`.padStart(18)).join("")}`),
    ...rows.map(
      ([label, show]) => label.padEnd(30) + [...runs.values()].map((summary) => show(summary).padStart(18)).join(""),
    ),
  ];
}

function curlLine(url: string): string {
  return (
    `curl -sN ${url}/v1/chat/completions -H 'content-type: application/json' ` +
    `-d '{"model":"signalbox-sim","stream":true,"max_tokens":16,"messages":[{"role":"user","content":"Where does this go?"}]}'`
  );
}

async function compare(
  options: DemoOptions,
  trace: Trace,
  signal: AbortSignal,
): Promise<ReadonlyMap<Picking, ReplaySummary>> {
  const runs = new Map<Picking, ReplaySummary>();
  for (const picking of ["default", "random"] as const) {
    const stack = await startDemoStack(options, picking, signal);
    try {
      runs.set(
        picking,
        await replayAgainst(stack, trace, options, progressOf(`${picking} picking`, trace.requests.length), signal),
      );
    } finally {
      await stack.close();
    }
  }
  return runs;
}

async function keepRunning(options: DemoOptions, signal: AbortSignal): Promise<void> {
  const stack = await startDemoStack(options, "default", signal);
  try {
    print(`Envoy:      ${stack.url}`);
    print(
      `picker:     ${stack.metricsUrl}/metrics, ${stack.metricsUrl}/debug/decisions, ${stack.metricsUrl}/debug/endpoints`,
    );
    print("");
    print(curlLine(stack.url));
    print("");
    print("Running until Ctrl-C.");
    await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
  } finally {
    await stack.close();
  }
}

export const demo = defineCommand({
  name: "demo",
  summary: "Envoy, the picker and four simulated workers, with traffic and a comparison",
  description:
    "Starts a real Envoy, the picker and simulated workers on loopback, replays a multi-turn workload under the default configuration and then under random picking, and prints both. Leaves nothing running.",
  examples: [
    "signalbox demo",
    "signalbox demo --keep",
    "signalbox demo --trace trace.jsonl --requests 500 --mode response-none",
  ],
  flags: {
    port: {
      type: "int",
      default: 8080,
      min: 0,
      max: 65535,
      help: "Envoy's client port on 127.0.0.1; 0 picks a free one.",
    },
    mode: {
      type: "string",
      default: "full-duplex",
      oneOf: ["full-duplex", "response-none", "buffered"],
      help: "The gateway configuration of deploy/envoy to run.",
    },
    workers: { type: "int", default: 4, min: 1, max: 64, help: "Simulated workers." },
    blocks: { type: "int", default: 2048, min: 16, help: "KV blocks of 16 tokens of each worker." },
    trace: {
      type: "string",
      default: "",
      placeholder: "file",
      help: "A trace in the Mooncake format (JSON lines). Default: a built-in multi-turn workload.",
    },
    requests: { type: "int", default: 300, min: 1, help: "About how many requests to replay." },
    seed: { type: "int", default: 1, help: "Seed of the workload and of the workers." },
    "time-scale": {
      type: "number",
      default: 4,
      min: 0.01,
      max: 1000,
      help: "How much faster than real time traffic and engines run.",
    },
    "token-scale": {
      type: "number",
      default: 0.25,
      min: 0.001,
      max: 10,
      help: "Tokens sent for each token of the trace.",
    },
    keep: { type: "bool", default: false, help: "Start everything and keep it running, without traffic." },
  },
  async run(values) {
    const abort = new AbortController();
    const stop = (): void => abort.abort();
    process.once("SIGINT", stop);
    process.once("SIGTERM", stop);
    const options: DemoOptions = {
      envoy: findEnvoy(process.env),
      mode: values.mode as EnvoyMode,
      listenPort: values.port,
      workers: values.workers,
      seed: values.seed,
      timeScale: values["time-scale"],
      tokenScale: values["token-scale"],
      blocks: values.blocks,
    };
    try {
      if (values.keep) {
        await keepRunning(options, abort.signal);
        return exitCode.ok;
      }
      const { trace, faults } = await loadTrace(values.trace, values.requests, values.seed);
      if (faults.length > 0) print(`${values.trace}: ${faults.length} lines left out, the first: ${faults[0]}`);
      print(
        `${trace.requests.length} requests through Envoy (${values.mode}) to ${values.workers} simulated workers, ${values["time-scale"]} times as fast as real ones`,
      );
      const runs = await compare(options, trace, abort.signal);
      print("");
      for (const line of table(runs)) print(line);
      print("");
      print("Times are of the simulated engines, sped up. To try it yourself, run `make up` and then:");
      print(curlLine(`http://127.0.0.1:${values.port === 0 ? 8080 : values.port}`));
      return [...runs.values()].some(({ errors }) => errors > 0) ? exitCode.failed : exitCode.ok;
    } catch (error) {
      if (abort.signal.aborted) {
        print("stopped");
        return 130;
      }
      process.stderr.write(`signalbox demo: ${error instanceof Error ? error.message : String(error)}\n`);
      return exitCode.failed;
    } finally {
      process.off("SIGINT", stop);
      process.off("SIGTERM", stop);
    }
  },
});
