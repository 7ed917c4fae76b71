import { describe, expect, it } from "@jest/globals";
import type { RouterWorker } from "../../../../src/prefill-router/contracts.ts";
import { createWorkerStage } from "../../../../src/prefill-router/stage/worker-stage.ts";
import type { StageRequest, WorkerStage } from "../../../../src/prefill-router/stage.ts";
import { chain, matches, only, plainSettings, request, select, unmodeled, worker } from "./fleet.ts";

function stageOf(...workers: readonly RouterWorker[]): WorkerStage {
  const stage = createWorkerStage({ stage: "decode", blockSize: 16, random: seeded(1) });
  for (const [index, each] of workers.entries()) {
    stage.upsertWorker(each);
    for (let rank = 0; rank < each.dataParallelSize; rank++) {
      stage.setHolder({ workerId: each.id, dpRank: each.dataParallelStartRank + rank }, index);
    }
  }
  return stage;
}

function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

function bookOn(stage: WorkerStage, id: string, workerId: number, members: Partial<StageRequest>) {
  const of = request({ ...members, allowedWorkerIds: only(workerId) });
  return stage.book(id, select(stage, of), of, 0);
}

function loadOf(stage: WorkerStage, workerId: number) {
  const { activePrefillTokens, activeDecodeBlocks, activeRequests } =
    stage.loads().find((load) => load.workerId === BigInt(workerId)) ??
    (() => {
      throw new Error("no such worker");
    })();
  return { tokens: activePrefillTokens, blocks: activeDecodeBlocks, requests: activeRequests };
}

describe("the choice of a worker", () => {
  it("weighs cached prefixes against load as Dynamo's documentation works it out", () => {
    const stage = stageOf(worker(1), worker(2), worker(3));
    for (const [id, blocks] of [
      [1, 10],
      [2, 5],
      [3, 9],
    ] as const) {
      const others = { ...plainSettings, trackPrefillTokens: false };
      bookOn(stage, `load${id}`, id, { sequenceHashes: chain(id, ...Array(blocks - 1).keys()), settings: others });
    }
    const of = request({ sequenceHashes: chain(...Array(10).keys()), matches: matches(2, 5, 8) });
    expect(stage.explain(of, 0).map(({ cost }) => cost)).toEqual([8 + 20, 5 + 15, 2 + 19]);
    expect(select(stage, of)).toMatchObject({ worker: { id: 2n }, cost: 20, deviceBlocks: 5, cachedTokens: 80 });
  });

  it("shares out what is computed anew among idle workers, and catches up with one that joins only as far as caches go", () => {
    const stage = stageOf(worker(1), worker(2));
    const served = new Map<bigint, number>();
    const serve = (requests: number, isl: number): void => {
      served.clear();
      for (let index = 0; index < requests; index++) {
        const of = request({ isl: isl * (1 + (index % 3)) });
        const selected = select(stage, of);
        stage.book(`${index}`, selected, of, 0).free();
        served.set(selected.worker.id, (served.get(selected.worker.id) ?? 0) + of.isl);
      }
    };
    serve(3000, 5000);
    expect(Math.abs((served.get(1n) ?? 0) / (served.get(2n) ?? 1) - 1)).toBeLessThan(0.002);
    stage.upsertWorker(worker(3));
    serve(600, 5000);
    const shares = [1n, 2n, 3n].map((id) => (served.get(id) ?? 0) / 6_000_000);
    expect(Math.abs((shares[0] ?? 0) - (shares[1] ?? 0))).toBeLessThan(0.01);
    expect(shares[2]).toBeGreaterThan(0.35);
    expect(shares[2]).toBeLessThan(0.55);
  });

  it("chooses each of the equally cheap with the same chance", () => {
    const stage = stageOf(worker(1), worker(2), worker(3), worker(4));
    const counts = new Map<bigint, number>();
    const random = seeded(5);
    for (let round = 0; round < 4000; round++) {
      const { id } = select(stage, request({ isl: 100 }), random).worker;
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(120);
    expect(counts.size).toBe(4);
  });

  it("multiplies the cost by what preferred taints say, but not that of an exact pin", () => {
    const stage = stageOf(worker(1, { taints: ["fast"] }), worker(2));
    const constraints = { requiredTaints: [], preferredTaints: new Map([["fast", 1]]) };
    const of = request({ isl: 160, constraints });
    expect(select(stage, of)).toMatchObject({ worker: { id: 1n }, cost: 10 * Math.exp(-Math.tanh(1)) });
    expect(select(stage, { ...of, pinned: { workerId: 1n, dpRank: 0 } }).cost).toBe(10);
  });

  it("takes every rank of a worker into the choice", () => {
    const stage = stageOf(worker(1, { dataParallelStartRank: 2, dataParallelSize: 2 }));
    const of = request({ isl: 160 });
    const chosen = select(stage, of);
    stage.book("a", chosen, of, 0);
    const next = select(stage, of);
    expect([chosen.dpRank, next.dpRank].toSorted((a, b) => a - b)).toEqual([2, 3]);
  });

  it("prefers the preferred rank while it is eligible, whatever it costs", () => {
    const stage = stageOf(worker(1), worker(2));
    bookOn(stage, "a", 1, { isl: 4000 });
    const preferred = { workerId: 1n, dpRank: 0 };
    expect(select(stage, request({ isl: 16, preferred })).worker.id).toBe(1n);
    stage.setSuspect(1n, true);
    expect(select(stage, request({ isl: 16, preferred })).worker.id).toBe(2n);
    stage.removeWorker(1n);
    expect(select(stage, request({ isl: 16, preferred })).worker.id).toBe(2n);
  });

  it("considers workers with the adapter only, unless none has it", () => {
    const stage = stageOf(worker(1), worker(2, { loras: new Set(["sql"]) }));
    bookOn(stage, "a", 2, { isl: 4000 });
    expect(select(stage, request({ isl: 16, loraName: "sql" })).worker.id).toBe(2n);
    expect(select(stage, request({ isl: 16, loraName: "other" })).worker.id).toBe(1n);
    expect(select(stage, request({ isl: 16, loraName: "sql", allowedWorkerIds: only(1) })).worker.id).toBe(1n);
    stage.setSuspect(2n, true);
    expect(select(stage, request({ isl: 16, loraName: "sql" })).worker.id).toBe(1n);
  });
});

describe("a refusal", () => {
  const taintless = { requiredTaints: ["gpu"], preferredTaints: new Map() };
  it.each<[string, Partial<StageRequest>, string, string]>([
    ["names allowed ids", { allowedWorkerIds: only(9) }, "filtered", "not among those the request allows"],
    ["names taints", { constraints: taintless }, "filtered", "without a required taint"],
    [
      "names an unknown pin",
      { pinned: { workerId: 9n, dpRank: 0 } },
      "pinned-unavailable",
      "worker 9 is not registered",
    ],
    ["names an unknown rank", { pinned: { workerId: 1n, dpRank: 4 } }, "pinned-unavailable", "no rank 4, but 0 to 0"],
    [
      "names a pin the request itself does not allow",
      { pinned: { workerId: 1n, dpRank: undefined }, allowedWorkerIds: only(2) },
      "pinned-unavailable",
      "not among those",
    ],
  ])("%s", (_name, members, why, message) => {
    const refusal = stageOf(worker(1), worker(2)).select(request({ isl: 16, ...members }), 0, Math.random);
    expect(refusal).toMatchObject({ kind: "none", why, message: expect.stringContaining(message) as unknown });
  });

  it("tells no workers from suspects and from overload", () => {
    const stage = stageOf();
    const refusal = () => stage.select(request({ isl: 16 }), 0, Math.random);
    expect(refusal()).toMatchObject({ why: "no-workers", message: "no decode worker is registered" });
    stage.upsertWorker(worker(1));
    stage.setSuspect(1n, true);
    expect(refusal()).toMatchObject({ why: "no-workers" });
    stage.upsertWorker(worker(1));
    expect(refusal()).toMatchObject({ kind: "selected" });
    stage.setBusyThresholds({
      activeDecodeBlocks: undefined,
      activePrefillTokens: 100,
      activePrefillTokensFraction: undefined,
    });
    bookOn(stage, "a", 1, { isl: 101 });
    expect(refusal()).toMatchObject({ why: "overloaded" });
    expect(stage.select(request({ pinned: { workerId: 1n, dpRank: 0 } }), 0, Math.random)).toMatchObject({
      why: "overloaded",
    });
  });

  it("leaves out workers whose capacity a queue needs to know", () => {
    const stage = createWorkerStage({ stage: "prefill", blockSize: 16, needsBatchedTokens: true });
    stage.upsertWorker(worker(1, { maxNumBatchedTokens: undefined }));
    expect(stage.select(request(), 0, Math.random)).toMatchObject({
      why: "no-workers",
      message: expect.stringContaining("max_num_batched_tokens") as unknown,
    });
  });
});

describe("a worker", () => {
  it("is out of the choice while all its ranks report to be busy", () => {
    const stage = stageOf(worker(1, { dataParallelSize: 2 }), worker(2));
    stage.setBusyThresholds({
      activeDecodeBlocks: 0.5,
      activePrefillTokens: undefined,
      activePrefillTokensFraction: undefined,
    });
    const of = request({ isl: 16, allowedWorkerIds: only(1) });
    stage.setReportedLoad({ workerId: 1n, dpRank: 0 }, { kvUsedBlocks: 501 });
    stage.setReportedLoad({ workerId: 9n, dpRank: 0 }, { kvUsedBlocks: 501 });
    expect(select(stage, of).worker.id).toBe(1n);
    stage.setReportedLoad({ workerId: 1n, dpRank: 1 }, { kvUsedBlocks: 501 });
    expect(stage.select(of, 0, Math.random)).toMatchObject({ why: "overloaded" });
    expect(stage.isSaturated(of, 0.5)).toBe(false);
    stage.setReportedLoad({ workerId: 1n, dpRank: 1 }, { kvUsedBlocks: 500 });
    expect(select(stage, of).worker.id).toBe(1n);
  });

  it("is not believed to have more ranks than any has", () => {
    const stage = stageOf();
    stage.upsertWorker(worker(1, { dataParallelSize: 4_000_000_000 }));
    expect(stage.loads()).toHaveLength(4096);
    stage.upsertWorker(worker(1, { dataParallelSize: 1 }));
    expect(stage.loads()).toHaveLength(1);
    for (let id = 2; id < 20; id++) stage.upsertWorker(worker(id, { dataParallelSize: 4096 }));
    expect(stage.loads()).toHaveLength(65_536);
    expect(select(stage, request({ isl: 16 })).kind).toBe("selected");
  });
});

describe("the books", () => {
  it("count a shared prefix once, and prompt tokens until the first byte", () => {
    const stage = stageOf(worker(1));
    const shared = bookOn(stage, "a", 1, { sequenceHashes: chain(1, 2, 3), isl: 50, matches: matches(2) });
    const longer = bookOn(stage, "b", 1, { sequenceHashes: chain(1, 2, 3, 4), isl: 64 });
    expect(loadOf(stage, 1)).toEqual({ tokens: 50 - 32 + 64, blocks: 4, requests: 2 });
    longer.prefillCompleted();
    longer.prefillCompleted();
    expect(loadOf(stage, 1)).toEqual({ tokens: 18, blocks: 4, requests: 2 });
    longer.free();
    expect(loadOf(stage, 1)).toEqual({ tokens: 18, blocks: 3, requests: 1 });
    shared.free();
    shared.free();
    shared.outputBlock(undefined);
    expect(loadOf(stage, 1)).toEqual({ tokens: 0, blocks: 0, requests: 0 });
    expect(stage.activeBookings).toBe(0);
  });

  it("count every block of a request alone where reuse is not assumed", () => {
    const stage = stageOf(worker(1));
    const settings = { ...plainSettings, assumeKvReuse: false };
    bookOn(stage, "a", 1, { sequenceHashes: chain(1, 2), settings });
    bookOn(stage, "b", 1, { sequenceHashes: chain(1, 2), settings });
    expect(loadOf(stage, 1).blocks).toBe(4);
    expect(select(stage, request({ sequenceHashes: chain(1, 2), settings })).potentialDecodeBlocks).toBe(6);
  });

  it("weigh down what only one request uses as its output nears its end", () => {
    const stage = stageOf(worker(1));
    const a = bookOn(stage, "a", 1, { sequenceHashes: chain(1, 2, 3, 4) });
    const b = bookOn(stage, "b", 1, { sequenceHashes: chain(1, 2) });
    a.outputBlock(undefined);
    expect(loadOf(stage, 1).blocks).toBe(5);
    a.outputBlock(0.5);
    expect(loadOf(stage, 1).blocks).toBe(4);
    a.outputBlock(undefined);
    expect(loadOf(stage, 1).blocks).toBe(5);
    b.free();
    a.outputBlock(0);
    expect(loadOf(stage, 1).blocks).toBe(0);
    a.free();
    expect(loadOf(stage, 1)).toEqual({ tokens: 0, blocks: 0, requests: 0 });
  });

  it("end with their worker, once, and tell whoever observes", () => {
    const stage = stageOf(worker(1), worker(2));
    const told: string[] = [];
    const stop = stage.observe({
      booked: (booking, rank, _request, { prefillTokens: tokens }) =>
        told.push(`booked ${booking.id} ${rank.workerId}/${rank.dpRank} ${tokens}`),
      prefillCompleted: (id) => told.push(`computed ${id}`),
      freed: (id) => told.push(`freed ${id}`),
    });
    const booking = bookOn(stage, "a", 1, { isl: 30 });
    stage.bookRemote("r", { workerId: 1n, dpRank: 0 }, chain(1), unmodeled(5), undefined, 0).free();
    stage.removeWorker(1n);
    booking.prefillCompleted();
    booking.free();
    stop();
    bookOn(stage, "b", 2, {});
    expect(told).toEqual(["booked a 1/0 30", "freed a"]);
    expect(stage.loads().map((load) => load.activeRequests)).toEqual([1]);
  });

  it("keep what runs on ranks that stay when a worker changes its ranks", () => {
    const stage = stageOf(worker(1, { dataParallelSize: 3 }));
    for (const dpRank of [0, 1, 2]) {
      const of = request({ isl: 100 + dpRank, pinned: { workerId: 1n, dpRank } });
      stage.book(`r${dpRank}`, select(stage, of), of, 0);
    }
    stage.upsertWorker(worker(1, { dataParallelStartRank: 1, dataParallelSize: 3 }));
    expect(stage.loads().map((load) => [load.dpRank, load.activePrefillTokens])).toEqual([
      [1, 101],
      [2, 102],
      [3, 0],
    ]);
    expect(stage.activeBookings).toBe(2);
  });

  it("hold a replica's booking until its worker is there", () => {
    const stage = stageOf();
    const rank = { workerId: 7n, dpRank: 0 };
    const hashes = chain(1, 2);
    stage.bookRemote("r", rank, hashes, unmodeled(12), undefined, 0);
    hashes.fill(0);
    stage.bookRemote("gone", rank, chain(9), unmodeled(5), undefined, 0).free();
    const again = stage.bookRemote("r", rank, chain(1, 2), unmodeled(12), undefined, 0);
    stage.setHolder(rank, 0);
    stage.upsertWorker(worker(7));
    expect(loadOf(stage, 7)).toEqual({ tokens: 12, blocks: 2, requests: 1 });
    const chosen = select(stage, request({ sequenceHashes: chain(1, 2, 3), matches: matches(1) }));
    expect(chosen).toMatchObject({ deviceBlocks: 1, potentialDecodeBlocks: 3 });
    again.free();
    expect(loadOf(stage, 7).requests).toBe(0);
  });

  it("are cleared of what is too old", () => {
    const stage = stageOf(worker(1));
    const of = request({ isl: 10 });
    stage.book("old", select(stage, of), of, 1000);
    stage.book("new", select(stage, of), of, 2000);
    expect([stage.reap(2999, 2000), stage.reap(3000, 2000), stage.reap(3000, 2000)]).toEqual([0, 1, 0]);
    expect(stage.activeBookings).toBe(1);
  });

  it("refuse an id that is in use", () => {
    const stage = stageOf(worker(1));
    bookOn(stage, "a", 1, {});
    expect(() => bookOn(stage, "a", 1, {})).toThrow("a booking with the id a is active");
  });

  it("grow with ranks and blocks and give the memory back", () => {
    const stage = stageOf(...Array.from({ length: 200 }, (_, id) => worker(id)));
    const before = stage.sizeBytes;
    const bookings = Array.from({ length: 200 }, (_, id) =>
      bookOn(stage, `b${id}`, id, {
        sequenceHashes: chain(1, 2, 3, ...Array.from({ length: 40 }, (_each, block) => block + id)),
      }),
    );
    const of = request({ sequenceHashes: chain(1, 2, 3, 5) });
    expect(stage.potentialLoads(of).map((load) => load.activeDecodeBlocks)).toEqual(
      Array.from({ length: 200 }, (_, id) => 43 + (id === 5 ? 0 : 1)),
    );
    for (const booking of bookings) booking.free();
    expect(stage.sizeBytes).toBeLessThanOrEqual(before);
  });
});

describe("saturation", () => {
  it("means that every eligible rank is above the threshold, strictly", () => {
    const stage = stageOf(worker(1, { maxNumBatchedTokens: 100 }), worker(2, { maxNumBatchedTokens: 100 }));
    bookOn(stage, "a", 1, { isl: 51 });
    bookOn(stage, "b", 2, { isl: 50 });
    const of = request({ isl: 1 });
    expect(stage.isSaturated(of, 0.5)).toBe(false);
    expect(stage.isSaturated(of, 0.49)).toBe(true);
    expect(stage.isSaturated({ ...of, allowedWorkerIds: only(1) }, 0.5)).toBe(true);
    expect(stage.isSaturated({ ...of, allowedWorkerIds: only(9) }, 0.5)).toBe(false);
    expect(stage.isSaturated(of, Number.POSITIVE_INFINITY, 49)).toBe(true);
    expect(stage.isSaturated(of, Number.POSITIVE_INFINITY)).toBe(false);
  });

  it("does not take a worker of unknown capacity for a small one", () => {
    const stage = stageOf(worker(1, { maxNumBatchedTokens: undefined }));
    bookOn(stage, "a", 1, { isl: 100_000 });
    expect(stage.isSaturated(request(), 1)).toBe(false);
  });

  it("knows the most tokens cached anywhere the request may go", () => {
    const stage = stageOf(worker(1), worker(2));
    const of = request({ isl: 160, matches: matches(3, 7) });
    expect(stage.bestCachedTokens(of)).toBe(7 * 16);
    expect(stage.bestCachedTokens({ ...of, allowedWorkerIds: only(1) })).toBe(3 * 16);
    expect(stage.bestCachedTokens(request({ isl: 160 }))).toBe(0);
  });
});
