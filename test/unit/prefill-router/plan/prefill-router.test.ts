import { describe, expect, it } from "@jest/globals";
import type { PlanExplanation, PlanRequest, RouterWorker } from "../../../../src/prefill-router/contracts.ts";
import type { PlannedEvent } from "../../../../src/prefill-router/plan/contracts.ts";
import type { FakeStage } from "./fake-stage.ts";
import { anyIndex, harness, planned, refusal, request, worker } from "./harness.ts";

function openOf(stage: FakeStage): number {
  return [...stage.open().values()].reduce((sum, ids) => sum + ids.length, 0);
}

const disaggregated = [worker(1, "prefill"), worker(2, "prefill"), worker(11, "decode"), worker(12, "decode")];
const aggregated = [worker(1, "aggregated"), worker(2, "aggregated")];

describe("topology", () => {
  it.each<[string, readonly ReturnType<typeof worker>[], boolean, string]>([
    ["no workers", [], false, "no-workers at decode: no workers are registered"],
    ["aggregated workers", aggregated, true, "aggregated"],
    ["prefill and decode workers", disaggregated, true, "disaggregated"],
    ["decode workers alone", [worker(1, "decode")], false, "aggregated"],
    ["decode workers alone, enforced", [worker(1, "decode")], true, "not-ready: no prefill workers are registered yet"],
    ["prefill workers alone", [worker(1, "prefill")], false, "no-workers at decode: no decode workers are registered"],
  ])("plans with %s (%#)", (_name, workers, isDisaggEnforced, expected) => {
    const { outcome } = harness({ workers, config: { isDisaggEnforced } }).plan(request(64));
    if (outcome?.kind === "planned") {
      expect(outcome.plan.mode).toBe(expected);
      return;
    }
    const { kind, message, ...rest } = refusal(outcome);
    expect(`${kind}${"stage" in rest ? ` at ${rest.stage}` : ""}: ${message}`).toBe(expected);
  });

  it("serves decode workers alone only while no prefill worker is registered, suspect or not", () => {
    const { router, plan } = harness({ workers: [worker(11, "decode")] });
    expect(planned(plan(request(64)).outcome).mode).toBe("aggregated");
    router.upsertWorker(worker(1, "prefill"));
    expect(planned(plan(request(64)).outcome).mode).toBe("disaggregated");
    router.suspectWorker(1n, 1000);
    expect(refusal(plan(request(64)).outcome)).toMatchObject({ kind: "no-workers", stage: "prefill" });
    router.removeWorker(1n);
    expect(planned(plan(request(64)).outcome).mode).toBe("aggregated");
  });

  it("computes a prompt on the decode worker where no prefill worker can be chosen, if it is told to", () => {
    const config = { servesWithoutPrefill: true };
    const { router, plan, prefill, decode } = harness({
      workers: [worker(1, "prefill"), worker(11, "decode")],
      config,
    });
    expect(planned(plan(request(64)).outcome).mode).toBe("disaggregated");
    router.suspectWorker(1n, 1000);
    let explained: PlanExplanation | undefined;
    const explain = (explanation: PlanExplanation): void => {
      explained = explanation;
    };
    const { mode, booking } = planned(plan(request(64, { explain })).outcome);
    expect([mode, explained?.mode, openOf(prefill), openOf(decode)]).toEqual(["aggregated", "aggregated", 1, 2]);
    // With the load of the prompt, and with what is cached there.
    expect(decode.selections.at(-1)?.settings).toMatchObject({ overlapScoreCredit: 1, trackPrefillTokens: true });
    booking.free();
    const pinned = { pinned: { prefill: { workerId: 1n, dpRank: undefined } } };
    expect(refusal(plan(request(64, pinned)).outcome)).toMatchObject({ stage: "prefill" });
    router.suspectWorker(1n, 0);
    expect(planned(plan(request(64)).outcome).mode).toBe("disaggregated");
  });

  it("moves a worker that changes its role, and ends what it ran", () => {
    const { router, plan, prefill, decode } = harness({ workers: [worker(1, "aggregated")] });
    planned(plan(request(64)).outcome);
    router.upsertWorker(worker(1, "prefill"));
    expect([prefill.workers.size, decode.workers.size, openOf(decode)]).toEqual([1, 0, 0]);
    expect(router.snapshot().topology).toBe("waiting");
  });
});

describe("a plan", () => {
  it("books both legs under one minted id, and frees both", () => {
    const { plan, prefill, decode } = harness({ workers: disaggregated });
    const first = planned(plan(request(64)).outcome);
    const second = planned(plan(request(64)).outcome);
    expect(first.booking.id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-/);
    expect(first.booking.id).not.toBe(second.booking.id);
    expect(prefill.open().get("1:0")).toEqual([first.booking.id]);
    expect(decode.open().get("11:0")).toEqual([first.booking.id]);
    first.booking.free();
    first.booking.free();
    expect([openOf(prefill), openOf(decode)]).toEqual([1, 1]);
    second.booking.free();
    expect([openOf(prefill), openOf(decode)]).toEqual([0, 0]);
  });

  it("ends the prefill leg at the first byte, and keeps the decode leg without its prompt", () => {
    const { plan, prefill, decode } = harness({ workers: disaggregated });
    const { booking } = planned(plan(request(640)).outcome);
    expect(prefill.loads()[0]).toMatchObject({ activePrefillTokens: 640 });
    booking.prefillCompleted();
    booking.prefillCompleted();
    booking.outputBlock();
    expect([openOf(prefill), openOf(decode)]).toEqual([0, 1]);
    booking.free();
    booking.prefillCompleted();
    booking.outputBlock(0.5);
    expect(openOf(decode)).toBe(0);
  });

  it("asks each leg with its own settings, matches, pins and allowed workers", () => {
    const { plan, prefill, decode } = harness({ workers: disaggregated, index: anyIndex() });
    const asked: PlanRequest = request(640, {
      pinned: { prefill: { workerId: 2n, dpRank: undefined } },
      preferred: { decode: { workerId: 12n, dpRank: 0 } },
      allowed: { decode: new Set([12n]) },
    });
    expect(planned(plan(asked).outcome)).toMatchObject({
      prefill: { worker: { id: 2n } },
      decode: { worker: { id: 12n } },
    });
    expect(prefill.selections[0]).toMatchObject({
      pinned: { workerId: 2n },
      settings: { overlapScoreCredit: 1, trackPrefillTokens: true },
    });
    expect(prefill.selections[0]?.allowedWorkerIds).toBeUndefined();
    expect(decode.selections[0]).toMatchObject({
      preferred: { workerId: 12n },
      settings: { overlapScoreCredit: 0, assumeKvReuse: false, trackPrefillTokens: false },
    });
    // A decode leg after a remote prefill has no credit, so its matches would count nothing.
    expect(decode.selections[0]?.matches).toBeUndefined();
  });

  it.each<[string, Partial<PlanRequest>, string]>([
    ["decode", { allowed: { decode: new Set([99n]) } }, "no-workers"],
    ["prefill", { allowed: { prefill: new Set() } }, "no-workers"],
    ["decode", { pinned: { decode: { workerId: 99n, dpRank: 0 } } }, "pinned-unavailable"],
  ])("refused at %s leaves no load anywhere (%#)", (stage, changes, kind) => {
    const { plan, prefill, decode, router } = harness({ workers: disaggregated });
    expect(refusal(plan(request(64, changes)).outcome)).toMatchObject({ kind, stage });
    expect([openOf(prefill), openOf(decode), router.snapshot().bookings]).toEqual([0, 0, 0]);
  });

  it("leaves no half booking when a stage breaks", () => {
    const { plan, prefill, decode } = harness({ workers: disaggregated });
    decode.failNextBook = true;
    expect(() => plan(request(64))).toThrow("book failed");
    expect([openOf(prefill), openOf(decode)]).toEqual([0, 0]);
  });

  it("is freed when its owner fails on being answered", () => {
    const { router, prefill, decode } = harness({ workers: disaggregated });
    const fail = () => {
      throw new Error("owner");
    };
    expect(() => router.plan(request(64), fail)).toThrow("owner");
    expect([openOf(prefill), openOf(decode), router.snapshot().bookings]).toEqual([0, 0, 0]);
  });

  it("is answered before plan returns, once, without a queue", () => {
    const { plan } = harness({ workers: aggregated });
    const made = plan(request(64));
    expect(made.calls).toBe(1);
    made.cancel();
    expect(made.calls).toBe(1);
  });

  it("previews without booking, binding or forgetting anything", () => {
    const affinity = { ttlMs: 1000, mode: "hard" as const, maxSessions: 10 };
    const { router, plan, prefill, decode } = harness({ workers: disaggregated, config: { affinity } });
    planned(plan(request(64, { sessionId: "s" })).outcome).booking.prefillCompleted();
    const asked = request(64, { sessionId: "s", allowed: { decode: new Set([12n]) } });
    expect(router.preview(asked)).toMatchObject({ kind: "refused", refusal: { kind: "pinned-unavailable" } });
    expect(router.preview(request(64))).toMatchObject({ kind: "chosen", prefill: { dpRank: 0 } });
    expect(router.snapshot().sessions).toEqual({ prefill: 1, decode: 1 });
    expect([openOf(prefill), openOf(decode)]).toEqual([0, 1]);
  });

  it("explains, when asked, what it considered before it chose", () => {
    const { plan, prefill } = harness({ workers: disaggregated });
    planned(plan(request(100)).outcome);
    let explained: PlanExplanation | undefined;
    const made = plan(request(64, { explain: (explanation) => (explained = explanation) }));
    expect(planned(made.outcome).prefill?.worker.id).toBe(2n);
    expect(explained).toMatchObject({
      mode: "disaggregated",
      policyClass: "default",
      waitedMs: 0,
      stages: [
        {
          stage: "prefill",
          ranks: [
            { workerId: 1n, cost: 100 },
            { workerId: 2n, cost: 0 },
          ],
        },
        { stage: "decode", ranks: [{ workerId: 11n }, { workerId: 12n }] },
      ],
    });
    expect(openOf(prefill)).toBe(2);
  });

  it("tells observers what it planned and refused, whatever one of them does", () => {
    const events: PlannedEvent[] = [];
    const refusals: string[] = [];
    const { plan, prefill } = harness({
      workers: disaggregated,
      index: anyIndex(),
      observers: [
        {
          planned: () => {
            throw new Error("observer");
          },
        },
        { countsLostOverlap: true, planned: (event) => events.push(event), refused: ({ kind }) => refusals.push(kind) },
      ],
    });
    prefill.cached.set("1:0", 16).set("2:0", 48);
    planned(plan(request(64, { pinned: { prefill: { workerId: 1n, dpRank: 0 } } })).outcome);
    planned(plan(request(64)).outcome);
    plan(request(64, { allowed: { prefill: new Set() } }));
    expect(events.map(({ hitTokens, lostTokens, isBypass }) => ({ hitTokens, lostTokens, isBypass }))).toEqual([
      { hitTokens: 16, lostTokens: 0, isBypass: false },
      { hitTokens: 48, lostTokens: 0, isBypass: false },
    ]);
    expect(refusals).toEqual(["no-workers"]);
  });
});

describe("a shared cache", () => {
  function looked(workers: readonly RouterWorker[]) {
    const stages: string[] = [];
    const events: PlannedEvent[] = [];
    const { plan } = harness({
      workers,
      index: anyIndex(),
      observers: [{ planned: (event) => events.push(event) }],
    });
    const sharedHits = {
      of: (stage: string) => {
        stages.push(stage);
        return Uint32Array.of(0, 2);
      },
    };
    planned(plan(request(64, { sharedHits })).outcome);
    planned(plan(request(64)).outcome);
    return { stages: [...new Set(stages)], hits: events.map((event) => event.sharedHits) };
  }

  it("is looked up for the leg that computes the prompt, of that leg's workers", () => {
    expect(looked(disaggregated)).toEqual({ stages: ["prefill"], hits: [Uint32Array.of(0, 2), undefined] });
    expect(looked([worker(1, "aggregated")])).toEqual({
      stages: ["decode"],
      hits: [Uint32Array.of(0, 2), undefined],
    });
  });
});

describe("the index", () => {
  it("is told of both legs where it keeps what was routed, by the ranks' holders", () => {
    const routed: number[] = [];
    const { router, plan } = harness({ index: anyIndex({ routed: (holder) => routed.push(holder) }) });
    router.setHolder({ workerId: 11n, dpRank: 0 }, 40);
    for (const each of disaggregated) router.upsertWorker(each);
    router.setHolder({ workerId: 1n, dpRank: 0 }, 30);
    plan(request(64));
    expect(routed).toEqual([30, 40]);
    plan(request(64, { sequenceHashes: new Uint32Array(0) }));
    router.setHolder({ workerId: 11n, dpRank: 0 }, undefined);
    plan(request(64, { allowed: { prefill: new Set([1n]), decode: new Set([11n]) } }));
    expect(routed).toEqual([30, 40, 30]);
  });

  it("gets its turns: in slices while it has work, once a second else, none after close", () => {
    const asked: number[] = [];
    const { router, advance, timers } = harness({
      index: anyIndex({ upkeep: (nowMs) => asked.push(nowMs) < 3 }),
    });
    advance(3000);
    expect(asked).toEqual([1000, 1002, 1004, 2004]);
    router.close();
    expect(timers.size).toBe(0);
  });

  it("gets a holder for every rank, and back, where no events feed it", () => {
    const held = new Set<number>();
    let next = 0;
    const ownHolders = {
      attach: () => {
        held.add(next);
        return next++;
      },
      detach: (holder: number) => {
        if (!held.delete(holder)) throw new Error("not held");
      },
    };
    const { router } = harness({ index: anyIndex({ ownHolders }) });
    router.upsertWorker(worker(1, "aggregated", { dataParallelStartRank: 2, dataParallelSize: 4 }));
    router.upsertWorker(worker(1, "aggregated", { dataParallelStartRank: 2, dataParallelSize: 2 }));
    router.upsertWorker(worker(2, "prefill"));
    expect([...held]).toEqual([0, 1, 4]);
    router.upsertWorker(worker(2, "decode"));
    expect(held.size).toBe(3);
    router.removeWorker(1n);
    expect(held.size).toBe(1);
    router.close();
    expect(held.size).toBe(0);
  });
});

describe("workers that fail", () => {
  it("leaves a suspect out until its time is over, it is announced again, or it is cleared", () => {
    const { router, plan, advance, timers } = harness({ workers: [worker(1, "aggregated")] });
    const before = timers.size;
    const canPlan = () => plan(request(16)).outcome?.kind === "planned";
    router.suspectWorker(1n, 500);
    router.suspectWorker(1n, 100);
    advance(499);
    expect(canPlan()).toBe(false);
    advance(1);
    expect(canPlan()).toBe(true);
    router.suspectWorker(1n, 500);
    router.upsertWorker(worker(1, "aggregated"));
    expect(canPlan()).toBe(true);
    router.suspectWorker(1n, Number.POSITIVE_INFINITY);
    advance(29_000);
    expect(canPlan()).toBe(false);
    router.suspectWorker(1n, 0);
    expect(canPlan()).toBe(true);
    router.suspectWorker(99n, 500);
    expect(timers.size).toBe(before);
  });

  it("forgets a removed worker's load, and its bookings end harmlessly even when it is back", () => {
    const { router, plan, prefill, decode } = harness({ workers: disaggregated });
    const { booking } = planned(plan(request(64)).outcome);
    router.removeWorker(1n);
    router.removeWorker(1n);
    router.upsertWorker(worker(1, "prefill"));
    const again = planned(plan(request(64, { allowed: { prefill: new Set([1n]) } })).outcome);
    booking.prefillCompleted();
    booking.free();
    expect(prefill.open().get("1:0")).toEqual([again.booking.id]);
    expect(openOf(decode)).toBe(1);
  });
});

describe("bookings nobody ends", () => {
  it("end by age, are counted, and free what waits", () => {
    const counts: number[] = [];
    const { router, plan, advance, decode } = harness({
      workers: aggregated,
      observers: [{ reaped: (count) => counts.push(count) }],
    });
    const lost = planned(plan(request(64)).outcome);
    advance(299_999);
    expect(router.snapshot()).toMatchObject({ bookings: 1, oldestBookingMs: 299_999, counters: { reaped: 0 } });
    const young = planned(plan(request(64)).outcome);
    advance(1);
    expect(router.snapshot()).toMatchObject({ bookings: 1, counters: { reaped: 1 } });
    expect(counts).toEqual([1]);
    lost.booking.free();
    young.booking.free();
    expect(openOf(decode)).toBe(0);
  });
});

describe("close", () => {
  it("refuses what waits, ends every booking and timer, and answers late callers", () => {
    const affinity = { ttlMs: 1000, mode: "soft" as const, maxSessions: 10 };
    const { router, plan, timers, prefill, decode } = harness({
      workers: disaggregated,
      config: { affinity, profile: { classes: [saturable], classIndex: () => 0 } },
    });
    const first = planned(plan(request(5000, { sessionId: "s" })).outcome);
    planned(plan(request(5000)).outcome);
    const waiting = plan(request(64));
    expect(waiting.outcome).toBeUndefined();
    router.suspectWorker(1n, 1000);
    router.close();
    router.close();
    expect(refusal(waiting.outcome).kind).toBe("closed");
    expect(waiting.calls).toBe(1);
    expect(refusal(plan(request(64)).outcome).kind).toBe("closed");
    expect(router.preview(request(64)).kind).toBe("refused");
    first.booking.free();
    router.upsertWorker(worker(1, "prefill"));
    expect([openOf(prefill), openOf(decode), timers.size]).toEqual([0, 0, 0]);
    expect(router.snapshot()).toMatchObject({ bookings: 0, workers: [], sessions: { prefill: 0, decode: 0 } });
  });
});

const saturable = {
  name: "default",
  queuePolicy: "fcfs" as const,
  quantum: 1,
  busyTokens: undefined,
  busyFraction: 1,
  requestLimit: undefined,
  rawTokenLimit: undefined,
  cachedTokenLimit: undefined,
};
