/** Asking a worker for its past over the request plane: the answer's bytes, or why there are none. */
import { afterEach, describe, expect, it } from "@jest/globals";
import type { EventSourceRecord } from "../../../../src/dynamo/records.ts";
import type { RequestPlane } from "../../../../src/dynamo/request-plane/contracts.ts";
import { createRequestPlane } from "../../../../src/dynamo/request-plane/request-plane.ts";
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
