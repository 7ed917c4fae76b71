/** The router over its real stages and indices: what plan.ts and stage/ promise each other. */
import { describe, expect, it } from "@jest/globals";
import { createApproximateKvIndex } from "../../../../src/data/prefix-index/approximate-kv-index.ts";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import { createPredictedKvIndex } from "../../../../src/data/prefix-index/predicted-kv-index.ts";
import { createSettingsOf, defaultRouterConfig } from "../../../../src/prefill-router/config.ts";
import type { Plan, PlanRequest, PrefillRouter } from "../../../../src/prefill-router/contracts.ts";
import { planDefaults, type RouterIndex } from "../../../../src/prefill-router/plan/contracts.ts";
import { createPrefillRouter } from "../../../../src/prefill-router/plan/prefill-router.ts";
import { syntheticProfile } from "../../../../src/prefill-router/policy/policy-class.ts";
import { createWorkerStage } from "../../../../src/prefill-router/stage/worker-stage.ts";
import { createTokenHasher } from "../../../../src/tokens/block-hash.ts";
import fc from "../../../properties.ts";
import { planned, worker } from "./harness.ts";

const blockSize = 16;
const hasher = createTokenHasher();

function prompt(seed: number, tokens: number): PlanRequest {
  const ids = Uint32Array.from({ length: tokens }, (_, index) => seed * 100_000 + index);
  const { blockHashes, sequenceHashes } = hasher.hash(ids, { blockSize });
  return { requestId: `${seed}`, isl: tokens, blockHashes, sequenceHashes };
}

function build(index: RouterIndex | undefined, threshold?: number) {
  const prefill = createWorkerStage({ stage: "prefill", blockSize });
  const decode = createWorkerStage({ stage: "decode", blockSize });
  let nowMs = 0;
  const router = createPrefillRouter({
    config: {
      ...planDefaults,
      profile: syntheticProfile(threshold, "fcfs"),
      conditional: undefined,
      affinity: undefined,
    },
    settingsOf: createSettingsOf(defaultRouterConfig),
    prefill,
    decode,
    index,
    now: () => nowMs,
    random: () => 0,
    timers: { after: () => () => {} },
  });
  return {
    router,
    prefill,
    decode,
    advance: (ms: number) => {
      nowMs += ms;
    },
  };
}

function planNow(router: PrefillRouter, request: PlanRequest): Plan {
  let plan: Plan | undefined;
  router.plan(request, (outcome) => {
    plan = planned(outcome);
  });
  if (plan === undefined) throw new Error("the request waits");
  return plan;
}

const random = () => 0.5;

describe("the router over its real stages", () => {
  const zones = ["a", "b", "c"] as const;
  const prefillIn = (zone: string, enforcement: "required" | "preferred", weight?: number) =>
    worker(1, "prefill", {
      topologyDomains: new Map([["zone", zone]]),
      kvTransferDomain: "zone",
      kvTransferEnforcement: enforcement,
      kvTransferPreferredWeight: weight,
    });

  it.each(zones)("decodes in the zone in which its prefill worker must hand over: %s", (zone) => {
    const { router } = build(undefined);
    router.upsertWorker(prefillIn(zone, "required"));
    for (const [index, decodeZone] of zones.entries()) {
      router.upsertWorker(worker(11 + index, "decode", { topologyDomains: new Map([["zone", decodeZone]]) }));
    }
    for (let i = 0; i < 6; i++) {
      expect(planNow(router, prompt(i, 64)).decode.worker.topologyDomains.get("zone")).toBe(zone);
    }
  });

  it("refuses a request whose prefill worker can hand over to nobody, and books nothing", () => {
    const { router, prefill } = build(undefined);
    router.upsertWorker(prefillIn("a", "required"));
    router.upsertWorker(worker(11, "decode", { topologyDomains: new Map([["zone", "b"]]) }));
    router.plan(prompt(1, 64), (outcome) =>
      expect(outcome).toMatchObject({ kind: "refused", refusal: { kind: "no-workers", stage: "decode" } }),
    );
    expect(prefill.loads()).toMatchObject([{ activePrefillTokens: 0, activeRequests: 0 }]);
  });

  it("refuses where a prefill worker prefers its zone without saying how much", () => {
    const { router } = build(undefined);
    router.upsertWorker(prefillIn("a", "preferred"));
    router.upsertWorker(worker(11, "decode"));
    router.plan(prompt(1, 64), (outcome) =>
      expect(outcome).toMatchObject({
        refusal: { message: "prefill worker 1 prefers its KV transfer domain without a weight" },
      }),
    );
  });

  it("sends a prompt where an approximate index sent its beginning, until that expires", () => {
    const index = createApproximateKvIndex({ random, ttlMs: 1000 });
    const { router, advance } = build(index);
    for (const id of [1, 2, 3]) router.upsertWorker(worker(id, "aggregated"));
    const first = planNow(router, prompt(7, 320));
    planNow(router, prompt(8, 64)).booking.free();
    first.booking.free();
    const again = planNow(router, prompt(7, 320));
    expect(again.decode).toMatchObject({ worker: { id: first.decode.worker.id }, deviceBlocks: 20, cachedTokens: 320 });
    again.booking.free();
    advance(1001);
    expect(planNow(router, prompt(7, 320)).decode.deviceBlocks).toBe(0);
    router.close();
    expect(index.blocksOf(0)).toBe(0);
  });

  it("predicts on top of events, and prefers where the events say the blocks are", () => {
    const index = createPredictedKvIndex(createKvIndex({ random }), { random, ttlMs: 500 });
    const { router, advance } = build(index);
    for (const id of [1, 2]) {
      router.upsertWorker(worker(id, "aggregated"));
      router.setHolder({ workerId: BigInt(id), dpRank: 0 }, index.attach());
    }
    const asked = prompt(3, 160);
    index.stored(1, 0, 0, 0, false, asked.sequenceHashes, asked.blockHashes, 0, 10);
    const hit = planNow(router, asked);
    expect(hit.decode).toMatchObject({ worker: { id: 2n }, deviceBlocks: 10 });
    hit.booking.free();
    const other = planNow(router, prompt(4, 160));
    other.booking.free();
    expect(planNow(router, prompt(4, 160)).decode).toMatchObject({ worker: other.decode.worker, deviceBlocks: 10 });
    advance(501);
    expect(router.preview(prompt(4, 160))).toMatchObject({ decode: { deviceBlocks: 0 } });
  });

  it("follows load alone for the decode leg, and caches for the prefill leg", () => {
    const index = createKvIndex({ random });
    const { router, prefill, decode } = build(index);
    for (const [id, role] of [
      [1, "prefill"],
      [2, "prefill"],
      [11, "decode"],
      [12, "decode"],
    ] as const) {
      router.setHolder({ workerId: BigInt(id), dpRank: 0 }, index.attach());
      router.upsertWorker(worker(id, role));
    }
    const asked = prompt(5, 320);
    index.stored(1, 0, 0, 0, false, asked.sequenceHashes, asked.blockHashes, 0, 20);
    index.stored(2, 0, 0, 0, false, asked.sequenceHashes, asked.blockHashes, 0, 20);
    const plans = [planNow(router, asked), planNow(router, asked)];
    expect(plans.map((plan) => plan.prefill?.worker.id)).toEqual([2n, 2n]);
    expect(plans.map((plan) => Number(plan.decode.worker.id)).toSorted((a, b) => a - b)).toEqual([11, 12]);
    expect(prefill.loads().map((load) => load.activePrefillTokens)).toEqual([0, 0]);
    for (const plan of plans) plan.booking.prefillCompleted();
    expect(prefill.loads().every((load) => load.activeRequests === 0)).toBe(true);
    expect(decode.loads().map((load) => load.activeDecodeBlocks)).toEqual([20, 20]);
    for (const plan of plans) plan.booking.free();
    expect(decode.loads().every((load) => load.activeDecodeBlocks === 0 && load.activeRequests === 0)).toBe(true);
  });

  it("waits and goes by the loads the stages count", () => {
    const { router } = build(undefined, 1);
    router.upsertWorker(worker(1, "aggregated"));
    const busy = planNow(router, prompt(1, 1600));
    const outcomes: string[] = [];
    router.plan(prompt(2, 64), (outcome) => outcomes.push(outcome.kind));
    expect(outcomes).toEqual([]);
    busy.booking.prefillCompleted();
    expect(outcomes).toEqual(["planned"]);
    router.close();
  });

  it("keeps exact books whatever comes and goes", () => {
    const step = fc.record({
      what: fc.constantFrom("plan", "plan", "plan", "free", "free", "first", "add", "remove", "suspect"),
      at: fc.nat({ max: 60 }),
      role: fc.constantFrom("prefill" as const, "decode" as const),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 100, size: "max" }), (steps) => {
        const index = createApproximateKvIndex({ random });
        const { router, prefill, decode } = build(index, 1);
        router.upsertWorker(worker(1, "prefill"));
        router.upsertWorker(worker(5, "decode"));
        const plans: Plan[] = [];
        let answers = 0;
        let asked = 0;
        for (const { what, at, role } of steps) {
          const id = role === "prefill" ? 1 + (at % 3) : 5 + (at % 3);
          if (what === "plan") {
            asked += 1;
            router.plan(prompt(at % 4, 16 * at), (outcome) => {
              answers += 1;
              if (outcome.kind === "planned") plans.push(outcome.plan);
            });
          } else if (what === "free") plans.splice(at % Math.max(1, plans.length), 1)[0]?.booking.free();
          else if (what === "first") plans[at % Math.max(1, plans.length)]?.booking.prefillCompleted();
          else if (what === "add") router.upsertWorker(worker(id, role));
          else if (what === "remove") router.removeWorker(BigInt(id));
          else router.suspectWorker(BigInt(id), Number.POSITIVE_INFINITY);
          expect(router.snapshot().bookings).toBe(plans.length);
          const active = decode.loads().reduce((sum, load) => sum + load.activeRequests, 0);
          expect(active).toBeLessThanOrEqual(plans.length);
        }
        // Those that waited may be planned while others end.
        while (plans.length > 0) plans.pop()?.booking.free();
        for (const load of [...prefill.loads(), ...decode.loads()]) {
          expect([load.activeRequests, load.activePrefillTokens, load.activeDecodeBlocks]).toEqual([0, 0, 0]);
        }
        router.close();
        expect(answers).toBe(asked);
      }),
      { numRuns: 60 },
    );
  });
});
