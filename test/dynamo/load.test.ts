/** The load of the other tests here: it counts what was answered and what was not, and tells who served. */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { sendLoad } from "./load.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

describe("a load", () => {
  let stack: DynamoStack;
  beforeAll(async () => {
    stack = await startDynamo({ workers: 3 });
  });
  afterAll(() => stack.close());
  const inTurn = (index: number) => ({
    "x-dynamo-worker-instance-id": String(stack.workers[index % stack.workers.length]?.instanceId),
  });

  it.each([[false], [true]])("is answered in full and served where the header says (stream: %s)", async (stream) => {
    const { url } = stack.frontend;
    const load = await sendLoad({ url, stack, stream, requests: 300, concurrency: 16, headers: inTurn });
    expect(load.faults).toEqual([]);
    expect([...load.statuses]).toEqual([[200, 300]]);
    expect([...load.served]).toEqual(stack.workers.map(({ instanceId }) => [instanceId, 100]));
    expect(load.firstByteMs).toHaveLength(300);
  });

  it("counts refusals and broken connections apart from answers", async () => {
    const { url } = stack.frontend;
    const refused = await sendLoad({ url, requests: 5, concurrency: 2 });
    expect([...refused.statuses]).toEqual([[400, 5]]);
    expect(refused.faults).toHaveLength(5);
    expect(refused.totalMs).toEqual([]);
    const unreachable = await sendLoad({ url: "http://127.0.0.1:1", requests: 3, concurrency: 3 });
    expect([...unreachable.statuses]).toEqual([[0, 3]]);
  });

  it("goes on when a worker is killed in its midst", async () => {
    const { url } = stack.frontend;
    const last = stack.workers.at(-1);
    if (last === undefined) throw new Error("no worker");
    let killed: Promise<void> | undefined;
    const load = await sendLoad({
      url,
      requests: 300,
      concurrency: 8,
      headers: (index) => ({
        "x-dynamo-worker-instance-id": String((index % 2 === 0 ? last : stack.workers[0])?.instanceId),
      }),
      onAnswer: (done) => {
        if (done === 50) killed = stack.killWorker(last);
      },
    });
    await killed;
    const answered = load.statuses.get(200) ?? 0;
    expect(answered).toBeGreaterThanOrEqual(150);
    expect(answered).toBeLessThan(300);
    expect([...load.statuses.values()].reduce((sum, count) => sum + count, 0)).toBe(300);
  });
});
