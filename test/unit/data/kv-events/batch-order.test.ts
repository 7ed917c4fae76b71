import { describe, expect, it } from "@jest/globals";
import { BatchOrder } from "../../../../src/data/kv-events/batch-order.ts";
import { createEventCounters } from "../../../../src/data/kv-events/event-counters.ts";

/** One run of an engine: batch n of run r is the text "r.n", and its time stamp r + n / 1000. */
const batchOf = (run: number, sequence: number): Buffer => Buffer.from(`${run}.${sequence}`);

function timestampOf(payload: Buffer): number {
  const [run, sequence] = payload.toString().split(".").map(Number);
  return (run ?? 0) + (sequence ?? 0) / 1000;
}

function setUp(withReplay = true, isReady = () => true) {
  const applied: string[] = [];
  const asked: number[] = [];
  const cancelled: number[] = [];
  const counters = createEventCounters();
  const order = new BatchOrder(
    {
      batch: (payload) => {
        applied.push(payload.toString());
        return timestampOf(payload);
      },
      timestampOf,
      restarted: () => {
        applied.push("restarted");
      },
    },
    withReplay
      ? {
          get isReady() {
            return isReady();
          },
          start: (from) => {
            asked.push(from);
            return { cancel: () => cancelled.push(from) };
          },
        }
      : undefined,
    counters,
  );
  const live = (run: number, ...sequences: number[]): void => {
    for (const sequence of sequences) order.live(sequence, batchOf(run, sequence));
  };
  const replay = (run: number, from: number, to: number, isComplete = true): void => {
    for (let sequence = from; sequence <= to; sequence++) order.replayed(sequence, batchOf(run, sequence));
    order.replayEnded(isComplete);
  };
  return { order, applied, asked, cancelled, counters, live, replay };
}

describe("the order of an engine's batches", () => {
  it("applies what comes in order, from the first on", () => {
    const { live, applied, asked } = setUp();
    live(1, 0, 1, 2);
    expect(applied).toEqual(["1.0", "1.1", "1.2"]);
    expect(asked).toEqual([]);
  });

  it("asks for what came before it joined, and applies what came meanwhile after it, once", () => {
    const { live, replay, applied, asked, counters } = setUp();
    live(1, 5, 6);
    expect(applied).toEqual([]);
    replay(1, 0, 6);
    live(1, 7);
    expect(asked).toEqual([0]);
    expect(applied).toEqual([0, 1, 2, 3, 4, 5, 6, 7].map((n) => `1.${n}`));
    expect(counters).toMatchObject({ gaps: 0, restarts: 0, replays: 1, failedReplays: 0, batches: 8 });
  });

  it("takes a publisher that counts from 1 for what it is", () => {
    const { live, replay, applied, counters } = setUp();
    live(1, 1);
    replay(1, 1, 1);
    live(1, 2);
    expect(applied).toEqual(["1.1", "1.2"]);
    expect(counters.gaps).toBe(0);
  });

  it("fills a gap by replay, and what the replay brings twice is applied once", () => {
    const { live, replay, applied, asked } = setUp();
    live(1, 0, 1, 4);
    live(1, 5);
    replay(1, 1, 4);
    live(1, 5 + 1);
    expect(asked).toEqual([1]);
    expect(applied).toEqual([0, 1, 2, 3, 4, 5, 6].map((n) => `1.${n}`));
  });

  it("counts a gap that nothing can fill, and goes on", () => {
    const { live, applied, counters } = setUp(false);
    live(1, 0, 4, 5);
    expect(applied).toEqual(["1.0", "1.4", "1.5"]);
    expect(counters).toMatchObject({ gaps: 1, restarts: 0 });
  });

  it("gives up after replays that bring nothing", () => {
    const { live, replay, applied, asked, counters } = setUp();
    live(1, 0, 4);
    for (let attempt = 0; attempt < 3; attempt++) replay(1, 0, 0);
    expect(asked).toEqual([0, 0, 0]);
    expect(applied).toEqual(["1.0", "1.4"]);
    expect(counters.gaps).toBe(1);
    live(1, 5, 7);
    expect(asked).toEqual([0, 0, 0, 5]);
  });

  it("leaves a replay that is not ready alone", () => {
    const { live, applied, asked } = setUp(true, () => false);
    live(1, 3, 5);
    expect(asked).toEqual([]);
    expect(applied).toEqual(["1.3", "1.5"]);
  });

  it("notices a restart when the count begins anew", () => {
    const { live, applied, counters } = setUp();
    live(1, 0, 1, 2);
    live(2, 0, 1);
    expect(applied).toEqual(["1.0", "1.1", "1.2", "restarted", "2.0", "2.1"]);
    expect(counters).toMatchObject({ gaps: 0, restarts: 1 });
  });

  it("notices a restart during a replay, and drops what the replay was of", () => {
    const { live, order, applied, cancelled, asked } = setUp();
    live(1, 0, 5);
    live(2, 2);
    expect(cancelled).toEqual([0]);
    expect(asked).toEqual([0, 0]);
    order.replayed(0, batchOf(2, 0));
    order.replayed(1, batchOf(2, 1));
    order.replayEnded(true);
    expect(applied).toEqual(["1.0", "restarted", "2.0", "2.1", "2.2"]);
  });

  it("notices by the time stamp that a replay is of another run, though the count went up", () => {
    const { live, order, applied, asked, counters } = setUp();
    live(1, 0, 1, 2);
    order.disconnected();
    live(2, 7);
    expect(asked).toEqual([2]);
    order.replayed(2, batchOf(2, 2));
    expect(asked).toEqual([2, 0]);
    for (let sequence = 0; sequence <= 7; sequence++) order.replayed(sequence, batchOf(2, sequence));
    order.replayEnded(true);
    expect(applied.slice(3)).toEqual(["restarted", ...[0, 1, 2, 3, 4, 5, 6, 7].map((n) => `2.${n}`)]);
    expect(counters).toMatchObject({ restarts: 1, gaps: 0 });
  });

  it.each([
    ["another run's, which has come as far by chance", 2, ["restarted", "2.0", "2.1", "2.2", "2.3"], 1],
    ["its own", 1, ["1.3"], 0],
  ] as const)("looks whether the very next batch after a lost connection is %s", (_, run, more, restarts) => {
    const { live, order, applied, asked, counters } = setUp();
    live(1, 0, 1, 2);
    order.disconnected();
    live(run, 3);
    expect(asked).toEqual([2]);
    order.replayed(2, batchOf(run, 2));
    if (run === 2) for (let sequence = 0; sequence < 3; sequence++) order.replayed(sequence, batchOf(run, sequence));
    order.replayed(3, batchOf(run, 3));
    order.replayEnded(true);
    expect(applied).toEqual(["1.0", "1.1", "1.2", ...more]);
    expect(counters).toMatchObject({ restarts, gaps: 0 });
    live(run, 4);
    expect([applied.at(-1), asked.length]).toEqual([`${run}.4`, run]);
  });

  it("takes the very next batch after a lost connection for the same run's where nobody can be asked, or nobody answers", () => {
    const alone = setUp(false);
    alone.live(1, 0, 1);
    alone.order.disconnected();
    alone.live(1, 2);
    expect(alone.applied).toEqual(["1.0", "1.1", "1.2"]);
    const silent = setUp();
    silent.live(1, 0, 1);
    silent.order.disconnected();
    silent.live(1, 2);
    for (let time = 0; time < 3; time++) silent.order.replayEnded(true);
    expect(silent.applied).toEqual(["1.0", "1.1", "1.2"]);
  });

  it("forgets everything when a connection was lost, batches too, and nothing tells whether the engine is the same", () => {
    const { live, order, applied } = setUp(false);
    live(1, 0, 1);
    order.disconnected();
    live(1, 2);
    order.disconnected();
    live(2, 9);
    expect(applied).toEqual(["1.0", "1.1", "1.2", "restarted", "2.9"]);
  });

  it("keeps a bounded number of batches waiting, and asks again for those it dropped", () => {
    const { live, replay, applied, asked } = setUp();
    live(1, 1);
    for (let sequence = 2; sequence < 12_000; sequence++) live(1, sequence);
    replay(1, 0, 500);
    expect(asked.length).toBe(2);
    replay(1, 500, 11_999);
    expect(applied.length).toBe(12_000);
    expect(new Set(applied).size).toBe(12_000);
  });

  it("applies nothing of a replay after it was closed", () => {
    const { live, order, replay, applied, cancelled } = setUp();
    live(1, 3);
    order.close();
    replay(1, 0, 3);
    expect([applied, cancelled]).toEqual([[], [0]]);
  });
});

describe("catching up with an engine before anything of it was heard", () => {
  it("asks for everything once, and goes on with what is heard live", () => {
    const { order, live, replay, applied, asked } = setUp();
    order.catchUp();
    order.catchUp();
    expect([asked, order.isReplaying]).toEqual([[0], true]);
    live(1, 2, 3);
    replay(1, 0, 2);
    live(1, 4);
    expect(applied).toEqual(["1.0", "1.1", "1.2", "1.3", "1.4"]);
    expect([asked, order.isReplaying]).toEqual([[0], false]);
  });

  it("asks for nothing where batches have come, or nowhere", () => {
    const joined = setUp();
    joined.live(1, 0);
    joined.order.catchUp();
    expect(joined.asked).toEqual([]);
    const { order } = setUp(false);
    order.catchUp();
    expect(order.isReplaying).toBe(false);
  });

  it("asks for what was published between the past and the first batch heard", () => {
    const { order, live, replay, applied, asked } = setUp();
    order.catchUp();
    replay(1, 0, 1);
    live(1, 4);
    expect(asked).toEqual([0, 1]);
    replay(1, 1, 3);
    expect(applied).toEqual(["1.0", "1.1", "1.2", "1.3", "1.4"]);
  });

  it("drops a batch that the past had too", () => {
    const { order, live, replay, applied } = setUp();
    order.catchUp();
    replay(1, 0, 2);
    live(1, 2, 3);
    expect(applied).toEqual(["1.0", "1.1", "1.2", "1.3"]);
  });

  it.each([0, 2])("forgets the past when the first batch heard, %i, is another run's", (sequence) => {
    const { order, live, replay, applied } = setUp();
    order.catchUp();
    replay(1, 0, 2);
    live(2, sequence);
    if (sequence > 0) replay(2, 0, sequence - 1);
    const run = Array.from({ length: sequence + 1 }, (_, n) => `2.${n}`);
    expect(applied).toEqual(["1.0", "1.1", "1.2", "restarted", ...run]);
  });

  it("asks again when something is heard after the past could not be had", () => {
    const { order, live, replay, applied, asked } = setUp();
    order.catchUp();
    order.replayEnded(false);
    live(1, 1);
    expect(asked).toEqual([0, 0]);
    replay(1, 0, 0);
    expect(applied).toEqual(["1.0", "1.1"]);
  });
});
