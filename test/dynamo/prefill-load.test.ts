/**
 * The prefill-load model against that of Dynamo's own frontend: AISimulate is compiled into it, and a stand-in for the Python half describes a model of
 * one operation, which takes ten milliseconds a token. Both routers then see the same loads shrink and choose alike.
 */
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { workerOf } from "../../src/prefill-router/library.ts";
import { createWorkerStage } from "../../src/prefill-router/stage/worker-stage.ts";
import type { StageBooking, WorkerStage } from "../../src/prefill-router/stage.ts";
import { until } from "../unit/dynamo/until.ts";
import { request, select } from "../unit/prefill-router/stage/fleet.ts";
import { send } from "./client.ts";
import { type Oracle, startOracle } from "./oracle.ts";
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

    // Seconds lie between what is waited for and what would be too late.
    void ask(stack, tokens(100, 1000));
    await until(() => ids.some((id) => requests(id) > 0));
    const first = ids.find((id) => requests(id) > 0) ?? 0n;
    const second = ids.find((id) => id !== first) ?? 0n;
    expect(left(first)).toBeGreaterThan(700);
    await until(() => left(first) < 400);
    void ask(stack, tokens(101, 800));
    await until(() => requests(second) === 1);
    await until(() => left(first) < 150);
    // By what they were booked with it would be the other: 1,000 tokens against 800.
    expect(left(second)).toBeGreaterThan(300);
    const preview = ours.runtime.router.preview(ours.request(tokens(102, 48)));
    expect(preview).toMatchObject({ kind: "chosen", decode: { worker: { id: first } } });
    void ask(stack, tokens(102, 48));
    await until(() => requests(first) === 2);
  });
});

/** When an answer of the oracle came about, by its clock. */
interface Answered {
  readonly value: number | null;
  readonly from_ms: number;
  readonly to_ms: number;
}

interface Booked {
  readonly id: string;
  readonly booking: StageBooking;
}

/** One rank, in the books of Dynamo's router and in ours, which is told by the other's clock when things happened. */
class TwoBooks {
  readonly #oracle: Oracle;
  readonly #stage: WorkerStage;
  #nowMs = 0;
  /** How far apart the two may be, in tokens: anchors are set within the time of an answer, and a token takes ten milliseconds. */
  #doubt = 1;

  constructor(oracle: Oracle) {
    this.#oracle = oracle;
    this.#stage = createWorkerStage({
      stage: "decode",
      blockSize: 16,
      prefillLoad: { predictMs: (count) => 10 * count },
      now: () => this.#nowMs,
    });
    this.#stage.upsertWorker(workerOf({ id: 1n }));
  }

  async book(id: string, prompt: readonly number[]): Promise<Booked> {
    await this.#ask("book", { id, token_ids: prompt });
    const of = request({ isl: prompt.length });
    return { id, booking: this.#stage.book(id, select(this.#stage, of, Math.random, this.#nowMs), of, this.#nowMs) };
  }

  async complete({ id, booking }: Booked): Promise<void> {
    await this.#ask("complete", { id });
    booking.prefillCompleted();
  }

  async free({ id, booking }: Booked): Promise<void> {
    await this.#ask("free", { id });
    booking.free();
  }

  async left(): Promise<{ readonly ours: number; readonly theirs: number; readonly doubt: number }> {
    const before = this.#doubt;
    const theirs = (await this.#ask("left", {})).value ?? -1;
    const doubt = this.#doubt;
    // Asking sets no anchor.
    this.#doubt = before;
    return { ours: this.#stage.loads()[0]?.activePrefillTokens ?? -1, theirs, doubt };
  }

  async #ask(command: string, members: object): Promise<Answered> {
    const answered = await this.#oracle.ask<Answered>(command, members);
    this.#nowMs = (answered.from_ms + answered.to_ms) / 2;
    this.#doubt += (answered.to_ms - answered.from_ms) / 20;
    return answered;
  }
}

describe("the tokens that are left of a rank's prefills", () => {
  it.each([
    { seed: 1, longest: 60, load: "a backlog" },
    { seed: 2, longest: 12, load: "little to do" },
  ])("are those of Dynamo's router with $load, whatever ends in whatever order", async ({ seed, longest }) => {
    const stack = await startDynamo({ workers: 1, routerMode: "none" });
    closers.push(() => stack.close());
    const oracle = startOracle("prefill_load.py", { ...stack.environment, ...model, DYN_LOG: "error" });
    closers.push(() => oracle.close());
    await oracle.ask("open", { endpoint: `${stack.namespace}.backend.generate`, block_size: 16 });
    const books = new TwoBooks(oracle);
    const random = seeded(seed);
    const open: Booked[] = [];
    let most = 0;
    for (let step = 0; step < 120; step++) {
      const what = random(4);
      const index = random(Math.max(1, open.length));
      const one = open[index];
      if (what < 2 || one === undefined) {
        open.push(await books.book(`r${step}`, tokens(step, 1 + random(longest))));
      } else if (what === 2) {
        await books.complete(one);
      } else {
        await books.free(one);
        open.splice(index, 1);
      }
      await new Promise((resolve) => setTimeout(resolve, random(40)));
      const { ours, theirs, doubt } = await books.left();
      expect([step, ours, theirs, Math.abs(ours - theirs) <= doubt]).toEqual([step, ours, theirs, true]);
      most = Math.max(most, theirs);
    }
    // There was something to compare.
    expect(most).toBeGreaterThan(longest);
  });
});

/** Random, the same each time. */
function seeded(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 0x1_0000_0000) * below);
  };
}
