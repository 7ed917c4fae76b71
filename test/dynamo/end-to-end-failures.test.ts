/**
 * Workers, frontends and pickers that die, leave, come and come back under load, behind Envoy: who may fail, how soon nobody does any more, and
 * that nothing stays booked.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { type RunningNats, startNats } from "../nats.ts";
import { eventually } from "../stack.ts";
import { send } from "./client.ts";
import { type LoadOptions, type LoadResult, sendLoad } from "./load.ts";
import { type Decision, type Gateway, startGateway } from "./picker.ts";
import { type DynamoOptions, type DynamoStack, type DynamoWorker, startDynamo } from "./stack.ts";

const requests = 300;
const concurrency = 16;
/** A decision's time is in whole milliseconds. */
const clockMs = 2;

let stack: DynamoStack;
let gateway: Gateway;
let nats: RunningNats | undefined;

async function begin(options: DynamoOptions, requestPlane: DynamoOptions["requestPlane"] = "tcp"): Promise<void> {
  nats = requestPlane === "nats" ? await startNats() : undefined;
  stack = await startDynamo({
    ...options,
    ...(nats === undefined ? {} : { requestPlane, eventPlane: { nats: nats.url } }),
  });
  gateway = await startGateway(stack, { layout: options.layout ?? "aggregated" });
}

async function end(): Promise<void> {
  await gateway?.close();
  await stack?.close();
  await nats?.kill();
}

function load(options: Partial<LoadOptions> = {}): Promise<LoadResult> {
  return sendLoad({ url: gateway.url, requests, concurrency, maxTokens: 8, ...options });
}

function workerOf(role: DynamoWorker["role"]): DynamoWorker {
  const worker = stack.workersOf(role)[0];
  if (worker === undefined) throw new Error(`no ${role} worker`);
  return worker;
}

const failed = ({ statuses }: LoadResult): number =>
  [...statuses].reduce((sum, [status, count]) => (status === 200 ? sum : sum + count), 0);

interface Timed {
  readonly decidedAt: number;
  readonly endedAt: number;
  readonly ids: readonly string[];
  readonly isRefused: boolean;
  readonly status: number | undefined;
}

/** Decisions oldest first, by the picker's clock, to the millisecond. */
async function timeline(last: number): Promise<readonly Timed[]> {
  return (await gateway.decisions(last)).map(timed).reverse();
}

function timed(decision: Decision): Timed {
  const { at, decisionMs, end: ended, plan } = decision;
  const beganAt = Date.parse(at);
  return {
    decidedAt: beganAt + (decisionMs ?? 0),
    endedAt: beganAt + (ended?.durationMs ?? Number.POSITIVE_INFINITY),
    ids: [plan?.prefill?.workerId, plan?.decode.workerId].flatMap((id) => (id === undefined ? [] : [id])),
    isRefused: (ended?.status ?? 200) >= 500 || ended?.kind === "error",
    status: ended?.status,
  };
}

/** A frontend answers from memory, these like an engine: about 16 requests are always under way. */
const speedup = 20;
const layouts = [
  ["aggregated", { workers: 4 }],
  ["disaggregated", { layout: "disaggregated", prefill: 2, decode: 2 }],
] as const;

describe.each([
  ["aggregated", "tcp", layouts[0][1]],
  ["decode", "tcp", layouts[1][1]],
  ["prefill", "tcp", layouts[1][1]],
  ["aggregated", "nats", layouts[0][1]],
] as const)("a worker (%s, by %s)", (role, requestPlane, options) => {
  beforeAll(() => begin({ ...options, speedup }, requestPlane));
  afterAll(end);
  afterEach(() => gateway.idle());

  it.each([[false], [true]])(
    "that is killed fails what it had, and gets nothing after its first refusal (stream: %s)",
    async (stream) => {
      const killed = workerOf(role);
      const id = String(killed.instanceId);
      let killing: Promise<void> | undefined;
      const result = await load({
        stream,
        onAnswer: (done) => {
          if (done === 100) killing = stack.killWorker(killed);
        },
      });
      await killing;
      const decisions = await timeline(requests);
      const onIt = decisions.filter(({ ids }) => ids.includes(id));
      console.log(
        onIt
          .filter(({ isRefused }) => isRefused)
          .map(({ endedAt, decidedAt, status }) => `${decidedAt % 100000} ${endedAt % 100000} ${status}`)
          .join("\n"),
      );
      const firstRefusal = Math.min(...onIt.filter(({ isRefused }) => isRefused).map(({ endedAt }) => endedAt));
      expect(firstRefusal).toBeLessThan(Number.POSITIVE_INFINITY);
      expect(onIt.filter(({ decidedAt }) => decidedAt > firstRefusal + clockMs)).toEqual([]);
      const inFlight = onIt.filter(({ endedAt }) => endedAt >= firstRefusal - clockMs);
      expect({ faults: result.faults, are: failed(result) }).toEqual({
        faults: result.faults,
        are: inFlight.filter(({ isRefused }) => isRefused).length,
      });
      expect(failed(result)).toBeLessThanOrEqual(inFlight.length);
      const after = await load({ stream, requests: 100 });
      expect(after.faults).toEqual([]);
      await stack.addWorker(role);
    },
  );

  it("that is added gets requests without one failing", async () => {
    let adding: Promise<DynamoWorker> | undefined;
    const during = await load({
      onAnswer: (done) => {
        if (done === 50) adding = stack.addWorker(role);
      },
    });
    expect(during.faults).toEqual([]);
    const added = await adding;
    const after = await load();
    expect(after.faults).toEqual([]);
    expect(await added?.served()).toBeGreaterThan(20);
  });

  it("that is stopped and started again serves again; only what it had may fail", async () => {
    let stopping: Promise<void> | undefined;
    const during = await load({
      onAnswer: (done) => {
        if (done === 100) stopping = stack.stopWorker(workerOf(role));
      },
    });
    await stopping;
    expect(failed(during)).toBeLessThanOrEqual(concurrency);
    const again = await stack.addWorker(role);
    const after = await load();
    expect(after.faults).toEqual([]);
    expect(await again.served()).toBeGreaterThan(20);
  });
});

describe.each(layouts)("%s", (_, options) => {
  beforeAll(() => begin(options));
  afterAll(end);
  afterEach(() => gateway.idle());

  it("serves again without an error once the frontend is back", async () => {
    let restarting: Promise<void> | undefined;
    const over = new AbortController();
    const during = await load({
      requests: 20_000,
      signal: over.signal,
      onAnswer: (done) => {
        if (done === 50) restarting = stack.restartFrontend().finally(() => over.abort());
      },
    });
    await restarting;
    expect(during.statuses.get(200)).toBeGreaterThan(49);
    expect(during.statuses.get(503)).toBeGreaterThan(0);
    await eventually("it serves", async () => (await load({ requests: 16 })).faults.length === 0);
    const after = await load();
    expect(after.faults).toEqual([]);
  });

  const prompt = (index: number): string => `${index % 40} ${`prompt ${index % 40} `.repeat(60)}`;
  /** Part of the prompts' tokens that is cached where they go. */
  const hitRate = async (): Promise<number> => {
    const result = await load({ requests: 40, concurrency: 1, prompt });
    expect(result.faults).toEqual([]);
    let cached = 0;
    let tokens = 0;
    for (const { plan } of await gateway.decisions(40)) {
      cached += (plan?.prefill ?? plan?.decode)?.cachedTokens ?? 0;
      tokens += plan?.promptTokens ?? 0;
    }
    return cached / tokens;
  };

  it.each([["SIGTERM"], ["SIGKILL"]] as const)(
    "has its index and hit rate back once the picker is (%s)",
    async (signal) => {
      await eventually("everything is cached", async () => (await hitRate()) > 0.9);
      const before = await hitRate();
      let restarting: Promise<void> | undefined;
      const over = new AbortController();
      const during = await load({
        requests: 20_000,
        signal: over.signal,
        onAnswer: (done) => {
          if (done === 50) restarting = gateway.restartPicker(signal).finally(() => over.abort());
        },
      });
      await restarting;
      expect(during.statuses.get(200)).toBeGreaterThan(49);
      // The first requests it decides on find what the workers held before it began.
      expect(await hitRate()).toBeGreaterThanOrEqual(before - 0.02);
      const after = await load();
      expect(after.faults).toEqual([]);
    },
  );
});

it.each(layouts)("frees what clients leave half way (%s)", async (_, options) => {
  await begin({ ...options, workers: 1, prefill: 1, decode: 1, speedup: 0.5 } as DynamoOptions);
  try {
    const content = "word ".repeat(1_500);
    const outcomes = await Promise.allSettled(
      Array.from({ length: 12 }, (__, index) =>
        send(`${gateway.url}/v1/chat/completions`, {
          body: {
            model: stack.model,
            stream: index % 2 === 0,
            max_tokens: 500,
            messages: [{ role: "user", content: `${index} ${content}` }],
          },
          timeoutMs: 60 + index * 60,
        }),
      ),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toEqual([]);
    await gateway.idle();
    const counters = (await gateway.sets())[0]?.router.counters;
    expect((counters?.["planned"] ?? 0) + (counters?.["cancelled"] ?? 0)).toBeGreaterThan(0);
  } finally {
    await end();
  }
});
