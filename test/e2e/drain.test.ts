/** What SIGTERM does to a picker behind a real Envoy: it says so at once, serves on for the drain time, cuts no answer, exits 0. */
import { credentials } from "@grpc/grpc-js";
import { afterEach, describe, expect, it } from "@jest/globals";
import type { EnvoyMode } from "../../src/app/envoy.ts";
import { HealthClient, HealthCheckResponse_ServingStatus as serving } from "../../src/gen/health.ts";
import { chat, defaultModel, eventually, type Stack, type StackOptions, startStack } from "../stack.ts";
import { startLoad, tally } from "./load.ts";

let stack: Stack | undefined;
afterEach(async () => {
  await stack?.close();
  stack = undefined;
});

async function start(options: StackOptions): Promise<Stack> {
  stack = await startStack({ workers: 2, ...options });
  return stack;
}

/** Starts a streamed answer of so many tokens, 25 ms each; resolves when it has begun. */
async function startAnswer(url: string, tokens: number): Promise<() => Promise<string>> {
  const init = chat("a long answer", { stream: true, max_tokens: tokens });
  const response = await fetch(`${url}/v1/chat/completions`, init);
  expect(response.status).toBe(200);
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let text = decoder.decode((await reader?.read())?.value, { stream: true });
  return async () => {
    for (;;) {
      const part = await reader?.read();
      if (part === undefined || part.done) return text;
      text += decoder.decode(part.value, { stream: true });
    }
  };
}

function expectWhole(text: string, tokens: number): void {
  expect(text.match(/"delta":\{"content"/g)).toHaveLength(tokens);
  expect(text.trimEnd().endsWith("data: [DONE]")).toBe(true);
}

const pickerIsReady = async (metricsPort: number): Promise<boolean> =>
  (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok;

describe("at SIGTERM", () => {
  it("readiness turns at once, liveness stays, and requests are served for the whole drain time", async () => {
    const drainMs = 1_500;
    const { url, picker } = await start({
      workerArgs: ["--time-scale=1000"],
      eppArgs: [`--drain-timeout=${drainMs}ms`],
    });
    const { metricsPort, healthPort } = picker.ready;
    const health = new HealthClient(`127.0.0.1:${healthPort}`, credentials.createInsecure());
    const seen: number[] = [];
    const watch = health.watch({ service: "readiness" });
    watch.on("data", ({ status }: { status: number }) => seen.push(status));
    watch.on("error", () => {});
    await eventually("the first status", () => Promise.resolve(seen.length === 1));
    const load = startLoad({
      url: `${url}/v1/chat/completions`,
      concurrency: 8,
      body: () => JSON.stringify({ model: defaultModel, max_tokens: 2, messages: [{ role: "user", content: "hi" }] }),
    });
    await eventually("traffic", () => Promise.resolve(load.outcomes.length > 50));
    const signalledAtMs = performance.now();
    picker.signal("SIGTERM");
    await eventually("NOT_SERVING", () => Promise.resolve(seen.length === 2));
    expect(performance.now() - signalledAtMs).toBeLessThan(1_000);
    expect(seen).toEqual([serving.SERVING, serving.NOT_SERVING]);
    expect(await pickerIsReady(metricsPort)).toBe(false);
    expect((await fetch(`http://127.0.0.1:${metricsPort}/healthz`)).ok).toBe(true);
    const liveness = await new Promise<number | undefined>((resolve) => {
      health.check({ service: "liveness" }, (_error, response) => resolve(response?.status));
    });
    expect(liveness).toBe(serving.SERVING);
    await picker.exited;
    const exitedAfterMs = performance.now() - signalledAtMs;
    await load.stop();
    health.close();
    expect(await picker.exited).toBe(0);
    expect(exitedAfterMs).toBeGreaterThanOrEqual(drainMs);
    const during = load.outcomes.filter(({ startedAtMs }) => startedAtMs < signalledAtMs + drainMs - 200);
    expect(Object.keys(tally(during))).toEqual(["200"]);
    const last = during.at(-1);
    expect(last?.endedAtMs).toBeGreaterThan(signalledAtMs + drainMs / 2);
  }, 30_000);

  it("an idle picker stays for the whole drain time too", async () => {
    const { picker } = await start({ eppArgs: ["--drain-timeout=700ms"] });
    const signalledAtMs = performance.now();
    picker.signal("SIGTERM");
    expect(await picker.exited).toBe(0);
    expect(performance.now() - signalledAtMs).toBeGreaterThanOrEqual(700);
  }, 20_000);

  it.each<EnvoyMode>(["response-none", "buffered"])(
    "with %s no answer is cut though the picker is gone before its end",
    async (mode) => {
      const { url, picker } = await start({ mode });
      const rest = await startAnswer(url, 100);
      const signalledAtMs = performance.now();
      picker.signal("SIGTERM");
      expect(await picker.exited).toBe(0);
      const exitedAfterMs = performance.now() - signalledAtMs;
      expectWhole(await rest(), 100);
      expect(performance.now() - signalledAtMs).toBeGreaterThan(exitedAfterMs + 500);
    },
    20_000,
  );

  it("with full duplex the picker outlives the answers it carries", async () => {
    const { url, picker } = await start({ mode: "full-duplex", eppArgs: ["--drain-grace=20s"] });
    const rest = await startAnswer(url, 60);
    picker.signal("SIGTERM");
    expectWhole(await rest(), 60);
    const answeredAtMs = performance.now();
    expect(await picker.exited).toBe(0);
    expect(performance.now() - answeredAtMs).toBeLessThan(3_000);
  }, 20_000);

  it("with full duplex an answer longer than the drain grace is cut, and the picker exits 0", async () => {
    const { url, picker } = await start({ mode: "full-duplex", eppArgs: ["--drain-grace=500ms"] });
    const rest = await startAnswer(url, 400);
    const signalledAtMs = performance.now();
    picker.signal("SIGTERM");
    await expect(rest()).rejects.toThrow();
    expect(await picker.exited).toBe(0);
    expect(performance.now() - signalledAtMs).toBeLessThan(5_000);
  }, 20_000);

  it("a second one ends it at once", async () => {
    const { picker } = await start({ eppArgs: ["--drain-timeout=60s"] });
    picker.signal("SIGTERM");
    await eventually("the drain begins", async () => !(await pickerIsReady(picker.ready.metricsPort)));
    const signalledAtMs = performance.now();
    picker.signal("SIGTERM");
    expect(await picker.exited).toBe(1);
    expect(performance.now() - signalledAtMs).toBeLessThan(2_000);
  }, 20_000);
});

describe("a picker that restarts under load", () => {
  const cases: readonly [EnvoyMode, boolean, "some requests fail" | "no request fails"][] = [
    // With a duplex request body Envoy fails open for no request that has a body.
    ["full-duplex", false, "some requests fail"],
    ["full-duplex", true, "some requests fail"],
    ["response-none", true, "some requests fail"],
    ["buffered", false, "some requests fail"],
    ["buffered", true, "no request fails"],
  ];
  it.each(cases)(
    "%s with failure_mode_allow %s: %s",
    async (mode, failureModeAllow, expected) => {
      const running = await start({ mode, failureModeAllow, workerArgs: ["--time-scale=1000"] });
      const load = startLoad({
        url: `${running.url}/v1/chat/completions`,
        concurrency: 8,
        body: () => JSON.stringify({ model: defaultModel, max_tokens: 2, messages: [{ role: "user", content: "hi" }] }),
      });
      await eventually("traffic", () => Promise.resolve(load.outcomes.length > 50));
      await running.restartPicker();
      const restartedAt = load.outcomes.length;
      await eventually("traffic again", () =>
        Promise.resolve(load.outcomes.slice(restartedAt).filter(({ status }) => status === 200).length > 50),
      );
      await load.stop();
      const counts = tally(load.outcomes);
      const failures = Object.keys(counts).filter((status) => status !== "200");
      expect({ counts, failures }).toEqual({ counts, failures: expected === "no request fails" ? [] : ["500"] });
      // Once a request has gone through the new picker, none fails any more.
      const recovered = load.outcomes.slice(restartedAt).findIndex(({ status }) => status === 200) + restartedAt + 16;
      expect(Object.keys(tally(load.outcomes.slice(recovered)))).toEqual(["200"]);
    },
    30_000,
  );
});
