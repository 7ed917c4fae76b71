/** Our router and Dynamo's own, in kv mode over the same workers: each sees what the other sends where, over both event planes. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { startNats } from "../nats.ts";
import { until } from "../unit/dynamo/until.ts";
import { send } from "./client.ts";
import { type Replica, startReplica } from "./replica.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const idle = { activeDecodeBlocks: 0, activePrefillTokens: 0, activeRequests: 0 };

function tokens(seed: number, count: number): readonly number[] {
  return Array.from({ length: count }, (_, index) => 1 + ((seed * 31 + index * 7) % 200));
}

/** Slow enough for a request to be looked at while it runs. */
async function start(kind: "zmq" | "nats", layout: "aggregated" | "disaggregated"): Promise<DynamoStack> {
  const server = kind === "nats" ? await startNats() : undefined;
  if (server !== undefined) closers.push(() => server.kill());
  const stack = await startDynamo({
    layout,
    workers: 2,
    prefill: 1,
    decode: 1,
    routerMode: "kv",
    speedup: 1,
    eventPlane: server === undefined ? "zmq" : { nats: server.url },
    frontendArgs: ["--router-replica-sync"],
  });
  closers.push(() => stack.close());
  return stack;
}

interface Served {
  readonly status: number;
  readonly workerId: bigint;
}

async function complete(stack: DynamoStack, prompt: readonly number[], maxTokens: number): Promise<Served> {
  const { status, text } = await send(`${stack.frontend.url}/v1/completions`, {
    headers: { "content-type": "application/json" },
    body: {
      model: stack.model,
      prompt,
      max_tokens: maxTokens,
      ignore_eos: true,
      nvext: { extra_fields: ["worker_id"] },
    },
  });
  if (status !== 200) throw new Error(`${status} ${text}`);
  const id = /"decode_worker_id":\s*(\d+)/.exec(text)?.[1];
  return { status, workerId: BigInt(id ?? 0) };
}

/** A gauge of the frontend by worker. */
async function gauge(stack: DynamoStack, name: string, workerId: bigint): Promise<number | undefined> {
  const { text } = await send(`${stack.frontend.url}/metrics`);
  const line = text
    .split("\n")
    .find((one) => one.startsWith(`dynamo_frontend_${name}{`) && one.includes(`"${workerId}"`));
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ") + 1));
}

/**
 * ZeroMQ tells nobody when a peer has connected: both sides talk until each has heard the other on every stage. Dynamo's books are empty then, and
 * ours as well.
 */
async function meet(stack: DynamoStack, ours: Replica): Promise<void> {
  const { counters } = ours.runtime.replicas;
  const stages = new Set(stack.workers.map(({ role }) => role)).size;
  const pending = async (): Promise<readonly (number | undefined)[]> =>
    Promise.all(
      stack.workers.map(({ role, instanceId }) =>
        gauge(stack, role === "prefill" ? "worker_active_prefill_tokens" : "worker_active_decode_blocks", instanceId),
      ),
    );
  await until(async () => {
    await complete(stack, tokens(99, 32), 1);
    return (counters?.freed ?? 0) >= stages;
  }, 10_000);
  await until(async () => {
    const plans =
      stack.workersOf("prefill").length > 0 ? [undefined] : stack.workers.map(({ instanceId }) => instanceId);
    const bookings = plans.map((workerId) => ours.plan(tokens(98, 160), workerId).booking);
    const seen = await pending();
    for (const booking of bookings) booking.free();
    return seen.every((count) => count !== undefined && count > 0);
  }, 10_000);
  await until(async () => (await pending()).every((count) => count === 0));
  for (const { role, instanceId } of stack.workers) {
    const stage = role === "prefill" ? "prefill" : "decode";
    await until(() => ours.load(instanceId, stage)?.activeRequests === 0);
  }
}

describe.each(["zmq", "nats"] as const)("beside a frontend of Dynamo in kv mode, over %s", (kind) => {
  it("its requests run in our books, and ours in its", async () => {
    const stack = await start(kind, "aggregated");
    const ours = await startReplica(stack);
    closers.push(() => ours.close());
    await meet(stack, ours);
    const ids = stack.workers.map(({ instanceId }) => instanceId);
    const busy = (): bigint | undefined => ids.find((id) => ours.load(id)?.activeRequests === 1);

    // Its request in our books: one request, its complete blocks, and no tokens once the prompt is computed.
    const prompt = tokens(1, 100);
    const answer = complete(stack, prompt, 60);
    await until(() => busy() !== undefined);
    const worker = busy() ?? 0n;
    expect(ours.load(worker)?.activeDecodeBlocks).toBe(6);
    await until(() => ours.load(worker)?.activePrefillTokens === 0);
    // The same prompt of ours on the same worker shares every block: the hashes are the same.
    const plan = ours.plan(prompt, worker);
    expect(ours.load(worker)).toMatchObject({ activeDecodeBlocks: 6, activeRequests: 2 });
    plan.booking.free();
    expect(await answer).toEqual({ status: 200, workerId: worker });
    await until(() => ours.load(worker)?.activeRequests === 0);
    expect(ours.load(worker)).toEqual(idle);

    // Ours in its books, step by step.
    const [target = 0n] = ids;
    const other = ids.find((id) => id !== target) ?? 0n;
    const mine = Array.from({ length: 6 }, (_, index) => ours.plan(tokens(index + 2, 320), target));
    const blocks = ours.load(target)?.activeDecodeBlocks;
    const pending = ours.load(target)?.activePrefillTokens;
    expect(blocks).toBeGreaterThan(20);
    expect(pending).toBeGreaterThan(320);
    await until(async () => (await gauge(stack, "worker_active_decode_blocks", target)) === blocks);
    await until(async () => (await gauge(stack, "worker_active_prefill_tokens", target)) === pending);
    // And in its choice.
    for (let index = 0; index < 4; index++) {
      expect(await complete(stack, tokens(50 + index, 64), 1)).toEqual({ status: 200, workerId: other });
    }
    for (const { booking } of mine) booking.prefillCompleted();
    for (const { booking } of mine) booking.free();
    await until(async () => (await gauge(stack, "worker_active_decode_blocks", target)) === 0);
    await until(() => ours.load(other)?.activeRequests === 0);
    expect(ours.runtime.replicas.counters).toMatchObject({ dropped: 0, ignored: { own: 0, known: 0, full: 0 } });
  });

  it("counts the prefill leg where the prefill runs", async () => {
    const stack = await start(kind, "disaggregated");
    const ours = await startReplica(stack);
    closers.push(() => ours.close());
    await meet(stack, ours);
    const [prefill] = stack.workersOf("prefill");
    const [decode] = stack.workersOf("decode");
    if (prefill === undefined || decode === undefined) throw new Error("a worker is missing");
    const before = { ...ours.runtime.replicas.counters };
    const answer = complete(stack, tokens(1, 100), 60);
    await until(() => ours.load(decode.instanceId)?.activeRequests === 1);
    expect(ours.load(decode.instanceId)).toMatchObject({ activeDecodeBlocks: 6, activePrefillTokens: 0 });
    expect((await answer).status).toBe(200);
    await until(() => ours.load(decode.instanceId)?.activeRequests === 0);
    const { booked, freed } = ours.runtime.replicas.counters;
    expect([booked - before.booked, freed - before.freed]).toEqual([2, 2]);
    expect(ours.load(prefill.instanceId, "prefill")).toEqual(idle);

    const plan = ours.plan(tokens(2, 320));
    expect(plan.mode).toBe("disaggregated");
    await until(async () => (await gauge(stack, "worker_active_prefill_tokens", prefill.instanceId)) === 320);
    await until(async () => (await gauge(stack, "worker_active_decode_blocks", decode.instanceId)) === 20);
    plan.booking.prefillCompleted();
    await until(async () => (await gauge(stack, "worker_active_prefill_tokens", prefill.instanceId)) === 0);
    plan.booking.free();
    await until(async () => (await gauge(stack, "worker_active_decode_blocks", decode.instanceId)) === 0);
  });
});

describe("prefills of known duration", () => {
  it("shrink in the books of Dynamo's frontend as they do in ours", async () => {
    const scratch = mkdtempSync(join(tmpdir(), "signalbox-prefill-load-"));
    closers.push(async () => rmSync(scratch, { recursive: true, force: true }));
    const table = join(scratch, "table.json");
    writeFileSync(table, millisecondEach);
    const stack = await start("zmq", "aggregated");
    const ours = await startReplica(stack, 16, {
      DYN_ROUTER_PREFILL_LOAD_MODEL: "ais",
      SIGNALBOX_PREFILL_LOAD_TABLE: table,
    });
    closers.push(() => ours.close());
    await meet(stack, ours);
    const [target = 0n] = stack.workers.map(({ instanceId }) => instanceId);
    const shown = async (): Promise<number> => (await gauge(stack, "worker_active_prefill_tokens", target)) ?? -1;
    /** Its gauge is of the last booking or end, which follows ours within moments; a token is a millisecond. */
    const near = 600;
    const agrees = (tokensThen: number): Promise<unknown> =>
      until(async () => Math.abs((await shown()) - tokensThen) < near);
    const loadNow = (): number => ours.load(target)?.activePrefillTokens ?? -1;

    const first = ours.plan(tokens(2, 6000), target);
    await agrees(6000);
    await until(() => loadNow() < 4400);
    // One more makes it look again: what has gone by since the first counts for all.
    const second = ours.plan(tokens(3, 1280), target);
    expect(loadNow()).toBeLessThan(6000 + 1280 - near);
    await agrees(loadNow());
    // The second ends out of turn, and the first is where it was.
    await until(() => loadNow() < 4700);
    const before = loadNow();
    second.booking.free();
    expect(Math.abs(loadNow() - before)).toBeLessThan(near);
    await agrees(loadNow());
    first.booking.free();
    await until(async () => (await shown()) === 0);
  });
});

/** A millisecond a token, cached ones none. */
const millisecondEach = JSON.stringify({
  format: "signalbox-prefill-load-table",
  version: 1,
  tokens: [1, 10_000],
  prefixTokens: [0],
  milliseconds: [[1], [10_000]],
});

describe("replicas of ours over real workers", () => {
  it("a late one rebuilds the index from the workers, and hears of what is booked from then on", async () => {
    const stack = await startDynamo({ workers: 2, routerMode: "kv" });
    closers.push(() => stack.close());
    const first = await startReplica(stack);
    closers.push(() => first.close());
    const prompts = Array.from({ length: 12 }, (_, index) => tokens(index * 3, 160));
    for (const prompt of prompts) expect((await complete(stack, prompt, 2)).status).toBe(200);
    const cached = ({ runtime, request }: typeof first, prompt: readonly number[]): number => {
      const preview = runtime.router.preview(request(prompt));
      return preview.kind === "chosen" ? preview.decode.deviceBlocks : -1;
    };
    const all = (of: typeof first): readonly number[] => prompts.map((prompt) => cached(of, prompt));
    await until(() => all(first).every((blocks) => blocks === 10));
    const late = await startReplica(stack);
    closers.push(() => late.close());
    expect(all(late)).toEqual(all(first));
    const [target = 0n] = stack.workers.map(({ instanceId }) => instanceId);
    // ZeroMQ tells nobody when a peer has connected: the first bookings may go unheard.
    await until(() => {
      const { booking } = first.plan(tokens(90, 160), target);
      booking.free();
      return (late.runtime.replicas.counters.freed ?? 0) > 0;
    });
    first.plan(tokens(91, 160), target);
    await until(() => late.load(target)?.activeRequests === 1);
    expect(late.load(target)).toEqual(first.load(target));
    // It dies without a word; its channel goes, and its bookings with it.
    await first.die();
    await until(() => late.load(target)?.activeRequests === 0);
    expect(late.runtime.replicas.counters.abandoned).toBeGreaterThan(0);
  });
});
