/** The stage where it is known how long prefills take: who is asked, what is told, and where the tokens that are left count. */
import { describe, expect, it } from "@jest/globals";
import type { RouterWorker } from "../../../../src/prefill-router/contracts.ts";
import { createWorkerStage, type WorkerStageOptions } from "../../../../src/prefill-router/stage/worker-stage.ts";
import type { PrefillLoad, StageRequest } from "../../../../src/prefill-router/stage.ts";
import { chain, matches, only, plainSettings, request, select, worker } from "./fleet.ts";

interface Asked {
  readonly tokens: number;
  readonly prefixTokens: number;
}

/** A millisecond a token. */
function build(workers: readonly RouterWorker[], options: Partial<WorkerStageOptions> = {}) {
  const clock = { nowMs: 0 };
  const asked: Asked[] = [];
  const told: PrefillLoad[] = [];
  const stage = createWorkerStage({
    stage: "decode",
    blockSize: 16,
    prefillLoad: {
      predictMs: (tokens, prefixTokens) => {
        asked.push({ tokens, prefixTokens });
        return tokens;
      },
    },
    now: () => clock.nowMs,
    ...options,
  });
  for (const [index, each] of workers.entries()) {
    stage.upsertWorker(each);
    stage.setHolder({ workerId: each.id, dpRank: 0 }, index);
  }
  stage.observe({ booked: (_booking, _rank, _request, prefill) => told.push(prefill) });
  const book = (id: string, workerId: number, members: Partial<StageRequest>) => {
    const of = request({ ...members, allowedWorkerIds: only(workerId) });
    return stage.book(id, select(stage, of, Math.random, clock.nowMs), of, clock.nowMs);
  };
  const tokensLeft = () => stage.loads().map(({ activePrefillTokens }) => activePrefillTokens);
  return { clock, asked, told, stage, book, tokensLeft };
}

describe("a stage that knows how long prefills take", () => {
  it("asks for the tokens to compute after those that are cached, and tells observers", () => {
    const { asked, told, book } = build([worker(1)]);
    book("a", 1, { isl: 100, sequenceHashes: chain(1, 2, 3, 4, 5, 6), matches: matches(4) });
    expect(asked).toEqual([{ tokens: 36, prefixTokens: 64 }]);
    expect(told).toMatchObject([{ prefillTokens: 36, expectedPrefillMs: 36 }]);
  });

  it("asks nothing where no token is to be computed, or none counts", () => {
    const { asked, told, book } = build([worker(1)]);
    book("cached", 1, { isl: 32, sequenceHashes: chain(1, 2), matches: matches(2) });
    book("decode leg", 1, { isl: 32, settings: { ...plainSettings, trackPrefillTokens: false } });
    expect(asked).toEqual([]);
    expect(told).toMatchObject([
      { prefillTokens: 0, expectedPrefillMs: undefined },
      { prefillTokens: 0, expectedPrefillMs: undefined },
    ]);
  });

  it("chooses, explains and shows by what is left at the time", () => {
    const { clock, stage, book, tokensLeft } = build([worker(1), worker(2)]);
    const settings = { ...plainSettings, trackActiveBlocks: false };
    book("a", 1, { isl: 1600, settings });
    clock.nowMs = 1500;
    book("b", 2, { isl: 800, settings });
    const next = request({ isl: 16, settings });
    expect(select(stage, next, Math.random, 1500)).toMatchObject({ worker: { id: 1n }, activePrefillTokens: 100 });
    clock.nowMs = 1550;
    expect(tokensLeft()).toEqual([50, 750]);
    const costs = (nowMs: number) => stage.explain(next, nowMs).map(({ cost }) => cost);
    expect(costs(1550)[0]).toBeCloseTo(66 / 16, 9);
    expect(costs(9000)).toEqual([1, 1]);
    const potential = stage.potentialLoads(next).map(({ activePrefillTokens }) => activePrefillTokens);
    expect(potential).toEqual([66, 766]);
  });

  it("is saturated for as long as what is left exceeds the threshold", () => {
    const { clock, stage, book } = build([worker(1, { maxNumBatchedTokens: 100 })]);
    book("a", 1, { isl: 100 });
    const states = [0, 49, 50, 99].map((nowMs) => {
      clock.nowMs = nowMs;
      return stage.isSaturated(request({ isl: 1 }), 0.5);
    });
    expect(states).toEqual([true, true, false, false]);
  });

  it("compares with the busy thresholds what was left at the rank's last change, as Dynamo's monitor does", () => {
    const busyThresholds = {
      activeDecodeBlocks: undefined,
      activePrefillTokens: 100,
      activePrefillTokensFraction: undefined,
    };
    const { clock, stage, book } = build([worker(1)], { busyThresholds });
    book("a", 1, { isl: 150 });
    clock.nowMs = 140;
    const next = request({ isl: 1 });
    expect(stage.select(next, 140, Math.random)).toMatchObject({ kind: "none", why: "overloaded" });
    // Another router's booking is a change.
    const rank = { workerId: 1n, dpRank: 0 };
    stage.bookRemote("b", rank, chain(1), { prefillTokens: 20, expectedPrefillMs: 20 }, undefined, 140);
    expect(stage.select(next, 140, Math.random)).toMatchObject({ kind: "selected", activePrefillTokens: 30 });
  });

  it("counts what other routers tell of durations without knowing any itself", () => {
    const { clock, stage, tokensLeft } = build([worker(1)], { prefillLoad: undefined });
    const rank = { workerId: 1n, dpRank: 0 };
    const booking = stage.bookRemote("a", rank, chain(1), { prefillTokens: 80, expectedPrefillMs: 40 }, undefined, 0);
    clock.nowMs = 10;
    expect(tokensLeft()).toEqual([60]);
    booking.prefillCompleted();
    booking.free();
    expect(tokensLeft()).toEqual([0]);
  });

  it("counts from its booking one that another router placed on a worker nobody knew yet", () => {
    const { clock, stage, tokensLeft } = build([]);
    const rank = { workerId: 1n, dpRank: 0 };
    stage.bookRemote("a", rank, chain(1), { prefillTokens: 80, expectedPrefillMs: 80 }, undefined, 5);
    clock.nowMs = 25;
    stage.upsertWorker(worker(1));
    expect(tokensLeft()).toEqual([60]);
  });

  it("begins anew with a rank that takes the place of one that left", () => {
    const { clock, stage, book, tokensLeft } = build([worker(1)]);
    book("a", 1, { isl: 50 });
    book("b", 1, { isl: 50 });
    clock.nowMs = 20;
    stage.removeWorker(1n);
    stage.upsertWorker(worker(2));
    expect(tokensLeft()).toEqual([0]);
    book("c", 2, { isl: 50 });
    clock.nowMs = 30;
    expect(tokensLeft()).toEqual([40]);
  });
});
