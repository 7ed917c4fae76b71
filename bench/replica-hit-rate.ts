/**
 * What sharing is for: a multi-turn trace through one picker, through three replicas that share their state, and through three that do not, each
 * behind an Envoy of its own, with requests dealt to them in turn. Needs Envoy.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Agent, createServer, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startEppChild, startWorkersChild } from "../src/app/child.ts";
import { findEnvoy, startEnvoy } from "../src/app/envoy.ts";
import { generateWorkload } from "../src/sim/workload/generate.ts";
import type { ReplaySummary } from "../src/sim/workload/replay-summary.ts";
import { replayTrace } from "../src/sim/workload/replayer.ts";
import type { Trace } from "../src/sim/workload/trace.ts";
import { type Context, type FigureSpec, type Measurement, type Run, repeat } from "./measurement.ts";
import { freePort } from "./replica-sync.ts";

const workers = 4;
const workerArgs = ["--num-gpu-blocks=2048", "--decode-step-ms=10"];
const config = `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - {type: token-load-scorer, parameters: {queueThresholdTokens: 32768}}
  - {type: prefix-cache-scorer}
schedulingProfiles:
  - name: default
    plugins: [{pluginRef: prefix-cache-scorer, weight: 3}, {pluginRef: token-load-scorer, weight: 2}]
`;

const layouts = [
  ["one", "one picker", 1, false],
  ["synced", "three replicas", 3, true],
  ["apart", "three pickers apart", 3, false],
] as const;

const figures: readonly FigureSpec[] = layouts.flatMap(([key, title]) => [
  {
    name: `replicas-${key}-hit-rate`,
    title: `Multi-turn trace, ${title}: prompt tokens found cached`,
    unit: "%",
    digits: 1,
    isRate: true as const,
  },
  {
    name: `replicas-${key}-spread`,
    title: "… computed tokens of the busiest worker over the mean",
    unit: "",
    digits: 2,
  },
  { name: `replicas-${key}-ttft`, title: "… time to first token, p90", unit: "ms", digits: 0 },
]);

function trace(): Trace {
  return generateWorkload({
    seed: 4,
    sessions: 120,
    turns: 4,
    sessionEveryMs: 200,
    thinkMs: 3000,
    answerTokenMs: 12,
    tenants: 6,
    systemTokens: 600,
    openingTokens: 600,
    questionTokens: 120,
    outputTokens: 30,
    maxInputTokens: 6000,
  });
}

async function measure(context: Context): Promise<readonly Run[]> {
  if (!context.isOurs) return [];
  return await repeat({ ...context, runs: Math.min(context.runs, 2) }, async () => {
    const run: Record<string, number> = {};
    for (const [key, title, count, isSynced] of layouts) {
      const summary = await replay(count, isSynced);
      if (summary.errors > 0) throw new Error(`${title}: ${summary.errors} of ${summary.requests} requests failed`);
      run[`replicas-${key}-hit-rate`] = 100 * summary.prefixHitRate;
      run[`replicas-${key}-spread`] = summary.loadSpread;
      run[`replicas-${key}-ttft`] = summary.ttftMs.p90;
    }
    return run;
  });
}

async function replay(count: number, isSynced: boolean): Promise<ReplaySummary> {
  const open: (() => unknown)[] = [];
  try {
    const folder = mkdtempSync(join(tmpdir(), "signalbox-bench-"));
    open.push(() => rmSync(folder, { recursive: true, force: true }));
    writeFileSync(join(folder, "config.yaml"), config);
    const engines = await startWorkersChild(workers, workerArgs);
    open.push(() => engines.close());
    const endpoints = engines.ready.map(({ hostPort }) => hostPort);
    const ports = await Promise.all(Array.from({ length: count }, freePort));
    const peers = ports.map((port) => `127.0.0.1:${port}`).join(",");
    const urls: string[] = [];
    for (const port of ports) {
      const picker = await startEppChild([
        `--config-file=${join(folder, "config.yaml")}`,
        `--endpoints=${endpoints.join(",")}`,
        "--drain-timeout=0s",
        "--drain-grace=0s",
        ...(isSynced ? [`--peers=${peers}`, `--peer-port=${port}`] : []),
      ]);
      open.push(() => picker.close());
      const envoy = await startEnvoy({
        mode: "full-duplex",
        binary: findEnvoy(process.env),
        picker: { port: picker.ready.grpcPort, tls: true },
        listenPort: 0,
        fallbackPorts: [],
      });
      open.push(() => envoy.close());
      urls.push(envoy.url);
    }
    const front = await startDealer(urls);
    open.push(() => front.close());
    return await replayTrace(trace(), { baseUrl: front.url, workers, timeoutMs: 60_000 });
  } finally {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last();
  }
}

/** Hands each request to the next of the gateways. */
async function startDealer(urls: readonly string[]): Promise<{ readonly url: string; close(): void }> {
  const agent = new Agent({ keepAlive: true });
  let turn = 0;
  const server = createServer((from, answer) => {
    const onward = request(new URL(from.url ?? "/", urls[turn++ % urls.length]), {
      method: from.method ?? "GET",
      headers: from.headers,
      agent,
    });
    onward.on("response", (reply) => {
      answer.writeHead(reply.statusCode ?? 502, reply.headers);
      reply.pipe(answer);
    });
    onward.on("error", () => answer.destroy());
    from.pipe(onward);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}`,
    close() {
      agent.destroy();
      server.closeAllConnections();
      server.close();
    },
  };
}

export const replicaHitRate: Measurement = {
  name: "replica-hit-rate",
  what: "A multi-turn trace through one picker, three replicas, and three pickers that share nothing",
  isLatency: true,
  figures,
  measure,
};
