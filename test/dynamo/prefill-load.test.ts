/**
 * The prefill-load model against that of Dynamo's own frontend: AISimulate is compiled into it, and a stand-in for the Python half describes a model of
 * one operation, which takes ten milliseconds a token. Both routers then see the same loads shrink and choose alike.
 */
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { until } from "../unit/dynamo/until.ts";
import { send } from "./client.ts";
import { startReplica } from "./replica.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

const standIn = join(import.meta.dirname, "../fixtures/aisimulate/compiled");
const model = {
  DYN_ROUTER_PREFILL_LOAD_MODEL: "ais",
  DYN_ROUTER_TRACK_ACTIVE_BLOCKS: "false",
  DYN_AIS_PERF_CONFIG: JSON.stringify({
    backend: "vllm",
    system: "stand_in",
    model: "m",
    worker_type: "aggregated",
    estimation_mode: "op_level",
    database_mode: "SOL",
  }),
  PYTHONPATH: standIn,
  PYTHONDONTWRITEBYTECODE: "1",
};

const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function tokens(seed: number, count: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => 1 + ((seed * 31 + index * 7) % 200));
}

/** Resolves when its time is over, or the stack's: there is no answer. */
function ask(stack: DynamoStack, prompt: readonly number[], timeoutMs = 60_000): Promise<unknown> {
  const body = { model: stack.model, prompt, max_tokens: 4, ignore_eos: true };
  return send(`${stack.frontend.url}/v1/completions`, { body, timeoutMs }).catch(() => undefined);
}

describe("beside a frontend of Dynamo with a prefill-load model", () => {
  it("its bookings shrink here by its own predictions, and both choose the worker that should be done", async () => {
    // So slow that no prompt is computed while the test looks.
    const stack = await startDynamo({
      workers: 2,
      routerMode: "kv",
      speedup: 1e-4,
      frontendArgs: ["--router-replica-sync"],
      frontendEnvironment: model,
    });
    closers.push(() => stack.close());
    const ours = await startReplica(stack, 16, { ...model, PATH: process.env["PATH"] ?? "" });
    closers.push(() => ours.close());
    const ids = stack.workers.map(({ instanceId }) => instanceId);
    const left = (id: bigint): number => ours.load(id)?.activePrefillTokens ?? -1;
    const requests = (id: bigint): number => ours.load(id)?.activeRequests ?? -1;

    // Until one is heard: ZeroMQ tells nobody when a peer has connected. Nothing may be left of them, since what has gone by on a rank counts on.
    await until(async () => {
      await ask(stack, tokens(1, 32), 200);
      return (ours.runtime.replicas.counters.freed ?? 0) > 0;
    }, 10_000);
    await until(() => ids.every((id) => requests(id) === 0));

    void ask(stack, tokens(100, 400));
    await until(() => ids.some((id) => requests(id) > 0));
    const first = ids.find((id) => requests(id) > 0) ?? 0n;
    const second = ids.find((id) => id !== first) ?? 0n;
    expect(left(first)).toBeGreaterThan(300);
    await until(() => left(first) < 150);
    void ask(stack, tokens(101, 300));
    await until(() => requests(second) === 1);
    await until(() => left(first) < 50);
    // By what they were booked with it would be the other: 400 tokens against 300.
    expect(left(second)).toBeGreaterThan(100);
    const preview = ours.runtime.router.preview(ours.request(tokens(102, 48)));
    expect(preview).toMatchObject({ kind: "chosen", decode: { worker: { id: first } } });
    void ask(stack, tokens(102, 48));
    await until(() => requests(first) === 2);
  });
});
