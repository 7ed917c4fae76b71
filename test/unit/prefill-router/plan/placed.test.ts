/** Plans that are asked for and not booked, and choices made elsewhere that are booked here. */
import { describe, expect, it } from "@jest/globals";
import type {
  Plan,
  PlanOutcome,
  PlanRequest,
  PrefillRouter,
  RouterWorker,
} from "../../../../src/prefill-router/contracts.ts";
import { readFleetSettings } from "../../../../src/prefill-router/fleet/fleet-settings.ts";
import { createPrefillRouter } from "../../../../src/prefill-router/plan/prefill-router.ts";
import { createWorkerStage } from "../../../../src/prefill-router/stage/worker-stage.ts";
import { hashTokens } from "../../../../src/tokens/block-hash.ts";

function routerWorker(id: bigint, role: RouterWorker["role"] = "aggregated"): RouterWorker {
  return {
    id,
    role,
    dataParallelStartRank: 0,
    dataParallelSize: 2,
    totalKvBlocks: 100,
    maxNumBatchedTokens: 100,
    taints: [],
    stableRoutingId: undefined,
    topologyDomains: new Map(),
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
    loras: new Set(),
  };
}

function start(environment: Readonly<Record<string, string>> = {}, ...workers: RouterWorker[]) {
  const { settings } = readFleetSettings(environment, {});
  const prefill = createWorkerStage({ stage: "prefill", blockSize: 4 });
  const decode = createWorkerStage({ stage: "decode", blockSize: 4 });
  const { settingsOf } = settings;
  const config = settings.planConfig("m", false);
  const router = createPrefillRouter({ config, settingsOf, prefill, decode, index: undefined });
  for (const worker of workers) router.upsertWorker(worker);
  const loads = (): object[] =>
    [...prefill.loads(), ...decode.loads()]
      .filter(({ activeRequests }) => activeRequests > 0)
      .map(({ workerId, dpRank, activePrefillTokens, activeDecodeBlocks }) => ({
        workerId,
        dpRank,
        activePrefillTokens,
        activeDecodeBlocks,
      }));
  return { router, loads };
}

const tokens = Uint32Array.from({ length: 18 }, (_, index) => index);

function request(members: Partial<PlanRequest> = {}): PlanRequest {
  return { requestId: "r", isl: tokens.length, ...hashTokens(tokens, { blockSize: 4 }), ...members };
}

function planned(outcome: PlanOutcome | undefined): Plan {
  if (outcome?.kind !== "planned") throw new Error(JSON.stringify(outcome, (_, value) => String(value)));
  return outcome.plan;
}

function planNow(router: PrefillRouter, asked: PlanRequest): PlanOutcome | undefined {
  let found: PlanOutcome | undefined;
  router.plan(asked, (outcome) => {
    found = outcome;
  });
  return found;
}

describe("a query", () => {
  it("is answered with a plan that leaves no trace", () => {
    const { router, loads } = start({}, routerWorker(1n));
    const plan = planned(planNow(router, request({ isQuery: true })));
    expect(plan.decode).toMatchObject({ worker: { id: 1n }, potentialDecodeBlocks: 5, activePrefillTokens: 0 });
    expect(loads()).toEqual([]);
    plan.booking.free();
    expect(router.snapshot()).toMatchObject({ bookings: 0, counters: { planned: 0 } });
    router.close();
  });

  it("waits its turn like any other", () => {
    const { router } = start({ DYN_ROUTER_QUEUE_THRESHOLD: "0.1" }, { ...routerWorker(1n), dataParallelSize: 1 });
    const first = planned(planNow(router, request()));
    const outcomes: PlanOutcome[] = [];
    router.plan(request({ isQuery: true }), (outcome) => outcomes.push(outcome));
    expect(outcomes).toEqual([]);
    first.booking.free();
    expect(outcomes).toMatchObject([{ kind: "planned", plan: { decode: { worker: { id: 1n } } } }]);
    router.close();
  });
});

describe("a choice made before", () => {
  it("is booked as it was made, under the id that is given", () => {
    const { router, loads } = start({}, routerWorker(1n), routerWorker(2n));
    const leg = { workerId: 2n, dpRank: 1, prefillTokens: 5 };
    const plan = planned(
      router.place(request({ bookingId: "mine", allowed: { decode: new Set([1n]) } }), leg, undefined),
    );
    expect(plan.booking.id).toBe("mine");
    expect(loads()).toEqual([{ workerId: 2n, dpRank: 1, activePrefillTokens: 5, activeDecodeBlocks: 4 }]);
    plan.booking.free();
    expect(loads()).toEqual([]);
    router.close();
  });

  it("counts running blocks by the hashes that are given for it", () => {
    const { router, loads } = start({}, routerWorker(1n));
    const leg = { workerId: 1n, dpRank: 0, prefillTokens: 0 };
    router.place(request({ bookingId: "a", trackingHashes: Uint32Array.of(1, 1, 2, 2) }), leg, undefined);
    router.place(request({ bookingId: "b", trackingHashes: Uint32Array.of(1, 1, 3, 3) }), leg, undefined);
    expect(loads()).toMatchObject([{ activeDecodeBlocks: 3 }]);
    router.close();
  });

  it("has both legs where both were chosen", () => {
    const { router, loads } = start({}, routerWorker(1n, "prefill"), routerWorker(2n, "decode"));
    const placed = router.place(
      request(),
      { workerId: 2n, dpRank: 0, prefillTokens: 7 },
      { workerId: 1n, dpRank: 1, prefillTokens: 7 },
    );
    expect(planned(placed)).toMatchObject({ mode: "disaggregated", prefill: { dpRank: 1 }, decode: { dpRank: 0 } });
    expect(loads()).toMatchObject([
      { workerId: 1n, activePrefillTokens: 7 },
      { workerId: 2n, activePrefillTokens: 0, activeDecodeBlocks: 4 },
    ]);
    planned(placed).booking.prefillCompleted();
    expect(loads()).toMatchObject([{ workerId: 2n }]);
    router.close();
  });

  it.each([
    ["a worker that is gone", { workerId: 9n, dpRank: 0, prefillTokens: 0 }],
    ["a rank that is gone", { workerId: 1n, dpRank: 2, prefillTokens: 0 }],
  ])("is refused on %s, and books nothing", (_, leg) => {
    const { router, loads } = start({}, routerWorker(1n));
    expect(router.place(request(), leg, undefined)).toMatchObject({
      kind: "refused",
      refusal: { kind: "pinned-unavailable" },
    });
    expect(loads()).toEqual([]);
    router.close();
  });

  it("is refused where its session has gone elsewhere", () => {
    const environment = { DYN_ROUTER_SESSION_AFFINITY_TTL_SECS: "60" };
    const { router } = start(environment, { ...routerWorker(1n), dataParallelSize: 1 });
    planned(planNow(router, request({ sessionId: "s" })));
    router.upsertWorker(routerWorker(2n));
    const outcome = router.place(request({ sessionId: "s" }), { workerId: 2n, dpRank: 0, prefillTokens: 0 }, undefined);
    expect(outcome).toMatchObject({ kind: "refused", refusal: { kind: "pinned-unavailable" } });
    router.close();
    expect(router.place(request(), { workerId: 2n, dpRank: 0, prefillTokens: 0 }, undefined)).toMatchObject({
      refusal: { kind: "closed" },
    });
  });
});
