/** Asking a worker for its past over the request plane: the answer's bytes, or why there are none. */
import { afterEach, describe, expect, it } from "@jest/globals";
import type { EventSourceRecord } from "../../../../src/dynamo/records.ts";
import type { RequestPlane } from "../../../../src/dynamo/request-plane/contracts.ts";
import { createRequestPlane } from "../../../../src/dynamo/request-plane/request-plane.ts";
import { AnswerMemory } from "../../../../src/prefill-router/indexer/answer-memory.ts";
import { createRecoveryQuery } from "../../../../src/prefill-router/indexer/recovery-query.ts";
import { type FakeWorker, startFakeWorker } from "../../dynamo/request-plane/fake-worker.ts";
import { until } from "../../dynamo/until.ts";

const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Lab {
  readonly plane: RequestPlane;
  readonly worker: FakeWorker;
  readonly source: EventSourceRecord;
}

/** A worker that answers with these items. */
async function lab(...items: readonly string[]): Promise<Lab> {
  const plane = await createRequestPlane({ host: "127.0.0.1" });
  const worker = await startFakeWorker((request, self) => {
    void self.dial(request).then((line) => {
      line.header({ error: null });
      for (const item of items) line.item(Buffer.from(`{"data":${item},"complete_final":false}`));
      if (items.length > 0) line.item(Buffer.from('{"complete_final":true}'));
    });
  });
  closers.push(
    () => plane.close(),
    () => worker.close(),
  );
  const source: EventSourceRecord = {
    type: "EventSource",
    scope: { namespace: "ns", component: "backend", endpoint: "generate" },
    topic: "kv-events",
    publisherId: 1n,
    workerId: 0xffff_ffff_ffff_fff0n,
    dpRank: 2,
    recovery: worker.instance,
  };
  return { plane, worker, source };
}

const never = new AbortController().signal;

describe("the recovery query", () => {
  it("asks in the codec of the instance and hands on the first item's bytes", async () => {
    const { plane, worker, source } = await lab('{"TooNew":{"newest_available":3}}', '"later"');
    const { codec, bytes } = await createRecoveryQuery(plane, 1000)(source, 9, never);
    expect({ codec, text: bytes.toString() }).toEqual({ codec: "json", text: '{"TooNew":{"newest_available":3}}' });
    expect(worker.requests[0]?.body.toString()).toContain(
      '"worker_id":18446744073709551600,"dp_rank":2,"start_event_id":9',
    );
  });

  it("rejects with the reason when the worker does not answer", async () => {
    const { plane, worker, source } = await lab();
    await expect(createRecoveryQuery(plane, 40)(source, undefined, never)).rejects.toMatchObject({ code: "idle" });
    await worker.close();
    closers.pop();
    await expect(createRecoveryQuery(plane, 1000)(source, undefined, never)).rejects.toMatchObject({
      code: "unreachable",
    });
    await expect(createRecoveryQuery(plane, 1000)({ ...source, recovery: undefined }, 1, never)).rejects.toMatchObject({
      code: "no-recovery",
    });
  });

  it("takes the memory of an answer until it is released, and refuses what there is no room for", async () => {
    const dump = JSON.stringify("x".repeat(500_000));
    const { plane, source } = await lab(dump);
    const memory = new AnswerMemory(800_000);
    const query = createRecoveryQuery(plane, 1000, memory);
    const first = await query(source, undefined, never);
    expect(first.bytes.toString()).toBe(dump);
    expect(memory.freeBytes).toBeLessThan(300_000);
    await expect(query(source, undefined, never)).rejects.toMatchObject({ code: "item-too-large" });
    first.release?.();
    first.release?.();
    expect(memory.freeBytes).toBe(800_000);
    (await query(source, undefined, never)).release?.();
    expect(memory.freeBytes).toBe(800_000);
  });

  it("gives up on a worker whose answer comes by drips, with its memory", async () => {
    const plane = await createRequestPlane({ host: "127.0.0.1" });
    const drips: NodeJS.Timeout[] = [];
    const worker = await startFakeWorker((request, self) => {
      void self.dial(request).then((line) => {
        line.header({ error: null });
        const prefix = Buffer.alloc(24);
        prefix.writeBigUInt64BE(100_000n, 8);
        line.write(prefix);
        drips.push(setInterval(() => line.write(Buffer.of(0)), 5));
      });
    });
    closers.push(
      () => plane.close(),
      () => worker.close(),
      () => Promise.resolve(drips.forEach(clearInterval)),
    );
    const { source } = await lab();
    const memory = new AnswerMemory(200_000);
    const asked = createRecoveryQuery(plane, 400, memory)({ ...source, recovery: worker.instance }, undefined, never);
    await until(() => memory.freeBytes === 100_000);
    await expect(asked).rejects.toMatchObject({ code: "too-slow" });
    expect(memory.freeBytes).toBe(200_000);
  });

  it("cancels the call when it is aborted", async () => {
    const { plane, worker, source } = await lab();
    const abort = new AbortController();
    const asked = createRecoveryQuery(plane, 1000)(source, undefined, abort.signal);
    await until(() => worker.requests.length === 1);
    abort.abort();
    await expect(asked).rejects.toMatchObject({ code: "cancelled" });
    expect(plane.counters.cancelled).toBe(1);
    await expect(createRecoveryQuery(plane, 1000)(source, undefined, abort.signal)).rejects.toMatchObject({
      code: "cancelled",
    });
  });
});
