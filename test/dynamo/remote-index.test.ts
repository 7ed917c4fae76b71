/** The index of Dynamo's own frontend asked by our fleet, and ours asked by theirs: over the same workers, fed by events and by decisions. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { startNats } from "../nats.ts";
import { eventually } from "../stack.ts";
import { send } from "./client.ts";
import { type RunningFleet, startFleet } from "./fleet.ts";
import { type DynamoOptions, type DynamoStack, startDynamo } from "./stack.ts";

const open: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

const blocks = 10;
const prompts = 6;
/** Ten whole blocks and a bit; every other begins like the one before and goes its own way after four blocks. */
function prompt(number: number): readonly number[] {
  const family = number >> 1;
  return Array.from({ length: 16 * blocks + 3 }, (_, index) => {
    const seed = number % 2 === 1 && index >= 64 ? number + 50 : family;
    return 1 + ((seed * 31 + index * 7) % 200);
  });
}

async function start(options: DynamoOptions): Promise<DynamoStack> {
  const nats = options.requestPlane === "nats" ? await startNats() : undefined;
  if (nats !== undefined) open.push(() => nats.kill());
  const eventPlane = nats === undefined ? {} : { eventPlane: { nats: nats.url } };
  const stack = await startDynamo({ routerMode: "kv", ...eventPlane, ...options });
  open.push(() => stack.close());
  return stack;
}

async function fleet(stack: DynamoStack, environment: Readonly<Record<string, string>>): Promise<RunningFleet> {
  const running = await startFleet(stack, environment);
  open.push(() => running.close());
  return running;
}

interface Served {
  readonly status: number;
  /** That computed the prompt. */
  readonly workerId: bigint;
}

async function complete(stack: DynamoStack, tokens: readonly number[]): Promise<Served> {
  const { status, text } = await send(`${stack.frontend.url}/v1/completions`, {
    headers: { "content-type": "application/json" },
    body: {
      model: stack.model,
      prompt: tokens,
      max_tokens: 1,
      ignore_eos: true,
      nvext: { extra_fields: ["worker_id"] },
    },
  });
  const id = /"prefill_worker_id":\s*(\d+)/.exec(text)?.[1] ?? /"decode_worker_id":\s*(\d+)/.exec(text)?.[1];
  return { status, workerId: BigInt(id ?? 0) };
}

/** Sum of all series of a family on the frontend's page. */
async function metric(stack: DynamoStack, name: string): Promise<number> {
  const { text } = await send(`${stack.frontend.url}/metrics`);
  const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}

const layouts = [
  ["aggregated", { layout: "aggregated", workers: 3 }],
  ["disaggregated", { layout: "disaggregated", prefill: 3, decode: 1 }],
  ["aggregated, by NATS,", { layout: "aggregated", workers: 3, requestPlane: "nats" }],
] as const;

/** Dynamo's frontend serves disaggregated workers only where their decode leg counts overlaps, too: with conditional disaggregation. Every prompt is long here. */
const alwaysRemote = ["--router-conditional-disagg", '--router-conditional-disagg-config={"eff_isl_threshold":0}'];

describe.each(layouts)("Dynamo's served index of %s workers", (kind, layout) => {
  it("says of every prompt and worker what our own index says", async () => {
    const conditional = kind === "disaggregated" ? alwaysRemote : [];
    const stack = await start({ ...layout, frontendArgs: ["--serve-indexer", ...conditional] });
    const ours = await fleet(stack, {});
    const remote = await fleet(stack, { DYN_USE_REMOTE_INDEXER: "true" });
    const ids = stack.workers.filter(({ role }) => role !== "decode").map(({ instanceId }) => instanceId);
    for (let number = 0; number < prompts; number++) {
      expect(await complete(stack, prompt(number))).toMatchObject({ status: 200 });
    }
    const all = (of: RunningFleet) =>
      Promise.all(Array.from({ length: prompts }, (__, number) => of.overlaps(prompt(number), ids)));
    await eventually("our own index knows every prompt", async () =>
      (await all(ours)).every((overlaps) => Math.max(...overlaps.values()) === blocks),
    );
    await eventually("theirs says the same", async () => {
      try {
        expect(await all(remote)).toEqual(await all(ours));
        return true;
      } catch {
        return false;
      }
    }).catch(async () => expect(await all(remote)).toEqual(await all(ours)));
    expect(remote.runtime.remoteIndex?.counters.answered).toBeGreaterThan(0);
    expect(remote.runtime.ingest).toBeUndefined();
  });
});

describe("Dynamo's served index that decisions feed", () => {
  it("learns ours", async () => {
    const stack = await start({ workers: 3, frontendArgs: ["--serve-indexer", "--no-router-kv-events"] });
    const remote = await fleet(stack, { DYN_USE_REMOTE_INDEXER: "true", DYN_ROUTER_USE_KV_EVENTS: "false" });
    await eventually("a decision is taken", async () => {
      await remote.plan(prompt(9));
      return (remote.runtime.remoteIndex?.counters.recorded ?? 0) > 0;
    });
    const chosen = await remote.plan(prompt(0));
    await eventually(
      "it is known there",
      async () => (await remote.overlaps(prompt(0), [chosen])).get(chosen) === blocks,
    );
    // Dynamo's own router goes by it, too.
    expect(await complete(stack, prompt(0))).toEqual({ status: 200, workerId: chosen });
  });
});

describe.each(layouts)("our served index of %s workers", (_, layout) => {
  it("is what Dynamo's frontend routes by", async () => {
    const stack = await start({ ...layout, frontendArgs: ["--use-remote-indexer"] });
    const ours = await fleet(stack, { DYN_SERVE_INDEXER: "true" });
    const answered = (): number => ours.runtime.serving?.counters.answered ?? 0;
    await eventually("the frontend asks us", async () => {
      const { status } = await complete(stack, prompt(99));
      return status === 200 && answered() > 0;
    });
    const failed = await metric(stack, "dynamo_component_router_remote_indexer_query_failures_total");
    const hits = await metric(stack, "dynamo_component_router_kv_hit_rate_sum");
    for (let number = 0; number < prompts; number += 2) {
      const { workerId } = await complete(stack, prompt(number));
      await eventually(
        "our index knows the prompt",
        async () => (await ours.overlaps(prompt(number), [workerId])).get(workerId) === blocks,
      );
      for (let turn = 0; turn < 3; turn++) {
        expect(await complete(stack, prompt(number))).toEqual({ status: 200, workerId });
      }
    }
    expect(await metric(stack, "dynamo_component_router_remote_indexer_query_failures_total")).toBe(failed);
    expect(await metric(stack, "dynamo_component_router_kv_hit_rate_sum")).toBeGreaterThan(hits + 6);
    expect(answered()).toBeGreaterThanOrEqual(12);
  });
});

describe("our served index that decisions feed", () => {
  it("learns those of Dynamo's frontend", async () => {
    const stack = await start({ workers: 3, frontendArgs: ["--use-remote-indexer", "--no-router-kv-events"] });
    const ours = await fleet(stack, { DYN_SERVE_INDEXER: "true", DYN_ROUTER_USE_KV_EVENTS: "false" });
    await eventually("the frontend tells us", async () => {
      const { status } = await complete(stack, prompt(99));
      return status === 200 && (ours.runtime.serving?.counters.recorded ?? 0) > 0;
    });
    const { workerId } = await complete(stack, prompt(0));
    await eventually(
      "it is known here",
      async () => (await ours.overlaps(prompt(0), [workerId])).get(workerId) === blocks,
    );
    for (let turn = 0; turn < 3; turn++) expect((await complete(stack, prompt(0))).workerId).toBe(workerId);
    expect(ours.runtime.serving?.counters.foreign).toBe(0);
  });
});
