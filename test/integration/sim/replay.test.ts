/** A workload replayed against real workers over HTTP: what is measured, what fails, and how it stops. */
import { afterEach, describe, expect, it } from "@jest/globals";
import type { WorkerOptions } from "../../../src/sim/worker/options.ts";
import { type RunningWorker, startWorker } from "../../../src/sim/worker/start-worker.ts";
import { generateWorkload } from "../../../src/sim/workload/generate.ts";
import type { ReplayResult } from "../../../src/sim/workload/replay-summary.ts";
import { replayTrace } from "../../../src/sim/workload/replayer.ts";

const running: RunningWorker[] = [];

afterEach(async () => {
  await Promise.all(running.splice(0).map((worker) => worker.close()));
});

async function start(options: Partial<WorkerOptions> = {}): Promise<RunningWorker> {
  const worker = await startWorker({ host: "127.0.0.1", port: 0, name: "w", timeScale: 100, ...options });
  running.push(worker);
  return worker;
}

const trace = generateWorkload({ seed: 2, sessions: 20, turns: 3, thinkMs: 1000 });

describe("replaying a trace", () => {
  it("measures every request, and its hits agree with the engine's own count", async () => {
    const worker = await start();
    const summary = await replayTrace(trace, { baseUrl: worker.url, timeScale: 100, tokenScale: 0.1, workers: 2 });
    expect(summary).toMatchObject({ requests: trace.requests.length, errors: 0 });
    expect(summary.perWorkerRequests).toEqual({ w: trace.requests.length });
    expect(summary.loadSpread).toBe(2);
    expect(summary.ttftMs.p50).toBeGreaterThan(0);
    expect(summary.ttftMs.p99).toBeLessThanOrEqual(summary.endToEndMs.p99);
    const { prefixQueries, prefixHits, answerTokens } = worker.stats();
    expect(summary.promptTokens).toBe(prefixQueries);
    expect(summary.prefixHitRate).toBeCloseTo(prefixHits / prefixQueries);
    expect(summary.prefixHitRate).toBeGreaterThan(0.3);
    expect(summary.outputTokens).toBe(answerTokens);
  });

  it("measures whole answers too", async () => {
    const worker = await start();
    const few = { requests: trace.requests.slice(0, 3) };
    const summary = await replayTrace(few, { baseUrl: worker.url, timeScale: 100, tokenScale: 0.1, stream: false });
    expect(summary.errors).toBe(0);
    expect(summary.promptTokens).toBe(worker.stats().prefixQueries);
  });

  it("keeps to the trace's times and to the concurrency it was allowed", async () => {
    const worker = await start({ timeScale: 1 });
    const burst = {
      requests: [0, 0, 0, 0, 400].map((timestampMs, index) => ({
        timestampMs,
        inputTokens: 10,
        outputTokens: 1,
        hashIds: [index],
      })),
    };
    let most = 0;
    const summary = await replayTrace(burst, {
      baseUrl: worker.url,
      maxConcurrency: 2,
      onResult: () => {
        most = Math.max(most, worker.stats().running + worker.stats().waiting);
      },
    });
    expect(summary.errors).toBe(0);
    expect(summary.delayed).toBe(2);
    expect(most).toBeLessThanOrEqual(2);
    expect(summary.durationMs).toBeGreaterThanOrEqual(399);
  });

  it("counts refusals, cut answers and unreachable servers as failures by kind", async () => {
    const worker = await start();
    const one = { requests: trace.requests.slice(0, 1) };
    const kindsOf = async (baseUrl: string, model: string): Promise<readonly string[]> => {
      const summary = await replayTrace(one, { baseUrl, model, tokenScale: 0.01 });
      expect(summary.errors).toBe(1);
      return Object.keys(summary.errorsByKind);
    };
    expect(await kindsOf(worker.url, "unknown")).toEqual(["status 404"]);
    worker.setFaults({ failAfterTokens: 1 });
    expect((await kindsOf(worker.url, "signalbox-sim"))[0]).toMatch(/^cut: |^ECONNRESET$/);
    await worker.close();
    expect(await kindsOf(worker.url, "signalbox-sim")).toEqual(["ECONNREFUSED"]);
  });

  it("gives up a request that is not answered in time", async () => {
    const worker = await start();
    worker.setFaults({ hang: true });
    const one = { requests: trace.requests.slice(0, 1) };
    const summary = await replayTrace(one, { baseUrl: worker.url, tokenScale: 0.01, timeoutMs: 50 });
    expect(summary.errorsByKind).toEqual({ TIMEOUT: 1 });
  });

  it("stops at an abort, with requests in flight and others to come", async () => {
    const worker = await start({ timeScale: 0.1 });
    const abort = new AbortController();
    const results: ReplayResult[] = [];
    const replaying = replayTrace(
      trace,
      { baseUrl: worker.url, tokenScale: 0.01, timeScale: 10, onResult: (result) => results.push(result) },
      abort.signal,
    );
    setTimeout(() => abort.abort(), 30);
    await expect(replaying).rejects.toMatchObject({ name: "AbortError" });
    expect(results.length).toBeLessThan(trace.requests.length);
    await expect(replayTrace(trace, { baseUrl: worker.url }, abort.signal)).rejects.toMatchObject({
      name: "AbortError",
    });
  });
});
