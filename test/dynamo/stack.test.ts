/** The launcher itself: what the other tests of this folder rely on. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import { type DynamoStack, type DynamoWorker, startDynamo } from "./stack.ts";

function ask(stack: DynamoStack, headers: Readonly<Record<string, string>>, model = stack.model): Promise<Response> {
  return fetch(`${stack.frontend.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model, max_tokens: 2, messages: [{ role: "user", content: "hello" }] }),
  });
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe("a disaggregated stack", () => {
  let stack: DynamoStack;
  let startMs = 0;
  beforeAll(async () => {
    const startedAt = performance.now();
    stack = await startDynamo({ layout: "disaggregated", prefill: 2, decode: 2 });
    startMs = performance.now() - startedAt;
  });
  afterAll(async () => {
    const pids = [stack.frontend.process.pid, ...stack.workers.map((worker) => worker.pid)];
    await stack.close();
    expect(pids.filter(isRunning)).toEqual([]);
    expect(existsSync(dirname(stack.storePath))).toBe(false);
  });
  const decodeHeaders = (worker: DynamoWorker) => ({
    "x-dynamo-worker-instance-id": String(worker.instanceId),
    "x-dynamo-prefill-instance-id": String(stack.workersOf("prefill")[0]?.instanceId),
  });

  it("is up in 5 s with workers in the order of their roles, each with its own id and process", () => {
    expect(startMs).toBeLessThan(5_000);
    expect(stack.workers.map(({ role }) => role)).toEqual(["prefill", "prefill", "decode", "decode"]);
    expect(new Set(stack.workers.map(({ instanceId }) => instanceId)).size).toBe(4);
    expect(new Set(stack.workers.map(({ pid }) => pid)).size).toBe(4);
  });

  it("tells which workers served", async () => {
    const [prefill, , , decode] = stack.workers;
    if (prefill === undefined || decode === undefined) throw new Error("four workers were asked for");
    expect((await ask(stack, decodeHeaders(decode))).status).toBe(200);
    const served = await stack.served();
    expect([...served].filter(([, count]) => count > 0)).toEqual([
      [prefill.instanceId, 1],
      [decode.instanceId, 1],
    ]);
  });

  it("adds a worker that the frontend serves at once, and stops it", async () => {
    const added = await stack.addWorker("decode");
    expect((await ask(stack, decodeHeaders(added))).status).toBe(200);
    expect(await added.served()).toBe(1);
    await stack.stopWorker(added);
    expect(isRunning(added.pid)).toBe(false);
    await eventually(
      "the worker's record is gone",
      async () => !(await stack.frontend.instances()).has(added.instanceId),
    );
  });

  it("kills a worker so that its record stays, and adds another beside it", async () => {
    const killed = await stack.addWorker("decode");
    await stack.killWorker(killed);
    expect(isRunning(killed.pid)).toBe(false);
    expect(await stack.frontend.instances()).toContain(killed.instanceId);
    expect(stack.workers).toHaveLength(4);
    const added = await stack.addWorker("decode");
    expect((await ask(stack, decodeHeaders(added))).status).toBe(200);
    await stack.stopWorker(added);
  });

  it("restarts the frontend on its port with every worker known", async () => {
    const { url, process: before } = stack.frontend;
    await stack.restartFrontend();
    expect(stack.frontend.url).toBe(url);
    expect(stack.frontend.process.pid).not.toBe(before.pid);
    const [, , decode] = stack.workers;
    if (decode === undefined) throw new Error("four workers were asked for");
    const answer = await ask(stack, decodeHeaders(decode));
    expect([answer.status, await answer.text()]).toEqual([200, expect.stringContaining('"choices"')]);
  });
});

it("runs several workers in one process, each with its own counts and raw event ports", async () => {
  const stack = await startDynamo({ workers: 3, shareProcess: true, rawKvEvents: true, dataParallel: 2 });
  try {
    expect(new Set(stack.workers.map(({ pid }) => pid)).size).toBe(1);
    expect(new Set(stack.workers.map(({ kvEventsPort }) => kvEventsPort)).size).toBe(3);
    const [, second] = stack.workers;
    expect((await ask(stack, { "x-dynamo-worker-instance-id": String(second?.instanceId) })).status).toBe(200);
    expect([...(await stack.served()).values()]).toEqual([0, 1, 0]);
  } finally {
    await stack.close();
  }
});

it.each([["aggregated"], ["disaggregated"]] as const)("serves LoRA adapters beside the model (%s)", async (layout) => {
  const stack = await startDynamo({ layout, prefill: 1, decode: 1, workers: 1, adapters: ["law", "math"] });
  try {
    const [first] = stack.workers;
    const last = stack.workers.at(-1);
    const headers = {
      "x-dynamo-worker-instance-id": String(last?.instanceId),
      "x-dynamo-prefill-instance-id": String(first?.instanceId),
    };
    for (const model of ["tiny", "law", "math"]) {
      const answer = await ask(stack, headers, model);
      expect([answer.status, ((await answer.json()) as { model: string }).model]).toEqual([200, model]);
    }
    expect(await last?.served()).toBe(3);
    expect(await first?.served()).toBe(3);
  } finally {
    await stack.close();
  }
});

it("says why a worker does not start, with the end of its log", async () => {
  await expect(startDynamo({ workers: 1, workerArgs: ["--no-such-flag"] })).rejects.toThrow(
    /aggregated-1 ended \(2\)[\s\S]*unrecognized arguments: --no-such-flag/,
  );
});

it("leaves no process behind when the one that started it is killed", async () => {
  const code = `
    const { startDynamo } = await import(${JSON.stringify(join(import.meta.dirname, "stack.ts"))});
    const { workers, frontend, storePath } = await startDynamo({ workers: 1 });
    console.log(JSON.stringify({ pids: [workers[0].pid, frontend.process.pid], storePath }));
    setInterval(() => {}, 1_000);`;
  const starter = spawn(process.execPath, ["--input-type=module", "--eval", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(starter.stdout, "data")) as [Buffer];
  const { pids, storePath } = JSON.parse(line.toString()) as { pids: number[]; storePath: string };
  expect(pids.every(isRunning)).toBe(true);
  starter.kill("SIGKILL");
  await eventually("its processes are gone", async () => !pids.some(isRunning));
  rmSync(dirname(storePath), { recursive: true, force: true });
});
