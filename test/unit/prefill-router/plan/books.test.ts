import { describe, expect, it } from "@jest/globals";
import type { Plan, PlanOutcome, PrefillRouter } from "../../../../src/prefill-router/contracts.ts";
import { createPrefillRouter } from "../../../../src/prefill-router/plan/prefill-router.ts";
import { syntheticProfile } from "../../../../src/prefill-router/policy/policy-class.ts";
import fc from "../../../properties.ts";
import { anyIndex, harness, planned, request, worker } from "./harness.ts";

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("plan" as const),
      isl: fc.integer({ min: 0, max: 1500 }),
      session: fc.option(fc.nat({ max: 3 }), { nil: undefined }),
      pin: fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined, freq: 6 }),
      strict: fc.nat({ max: 1 }),
      mayWait: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("cancel" as const), at: fc.nat({ max: 40 }) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("firstByte" as const), at: fc.nat({ max: 40 }) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("free" as const), at: fc.nat({ max: 40 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("upsert" as const),
      id: fc.integer({ min: 1, max: 4 }),
      role: fc.constantFrom("prefill" as const, "decode" as const, "aggregated" as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("remove" as const), id: fc.integer({ min: 1, max: 4 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("suspect" as const),
      id: fc.integer({ min: 1, max: 4 }),
      ms: fc.nat({ max: 500 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("advance" as const), ms: fc.integer({ min: 1, max: 400 }) }) },
);

interface Tracked {
  readonly calls: number[];
  readonly cancel: () => void;
  outcome: PlanOutcome | undefined;
  isCancelled: boolean;
  /** Legs still to be found in the stages' books. */
  prefill: string | undefined;
  decode: string | undefined;
  isOver: boolean;
}

describe("the books", () => {
  it("are exact under any order of plans, cancellations, first bytes, ends and comings and goings of workers", () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 120, size: "max" }),
        fc.constantFrom("hard" as const, "soft" as const),
        (steps, mode) => {
          const made = harness({
            workers: [worker(1, "prefill"), worker(2, "decode")],
            index: anyIndex(),
            config: { profile: syntheticProfile(1, "wspt"), affinity: { ttlMs: 300, mode, maxSessions: 2 } },
          });
          const { router, prefill, decode, advance } = made;
          const all: Tracked[] = [];
          const track = (outcome: PlanOutcome, tracked: Tracked) => {
            tracked.calls.push(1);
            tracked.outcome = outcome;
            if (outcome.kind === "refused") return;
            const { plan } = outcome;
            tracked.prefill = plan.prefill === undefined ? undefined : `${plan.prefill.worker.id}`;
            tracked.decode = `${plan.decode.worker.id}`;
          };
          const leave = (id: string) => {
            for (const each of all) {
              if (each.prefill === id) each.prefill = undefined;
              if (each.decode === id) each.decode = undefined;
            }
          };
          for (const each of steps) {
            if (each.kind === "plan") {
              const tracked: Tracked = {
                calls: [],
                cancel: () => pending.cancel(),
                outcome: undefined,
                isCancelled: false,
                prefill: undefined,
                decode: undefined,
                isOver: false,
              };
              all.push(tracked);
              const pin = each.pin === undefined ? undefined : { workerId: BigInt(each.pin), dpRank: 0 };
              const pending = router.plan(
                request(each.isl, {
                  sessionId: each.session === undefined ? undefined : `s${each.session}`,
                  pinned: { decode: pin },
                  strictPriority: each.strict,
                  doNotQueue: !each.mayWait,
                }),
                (outcome) => track(outcome, tracked),
              );
            } else if (each.kind === "cancel") {
              const tracked = all[each.at];
              if (tracked !== undefined && tracked.outcome === undefined) tracked.isCancelled = true;
              tracked?.cancel();
            } else if (each.kind === "firstByte") {
              const tracked = all[each.at];
              if (tracked?.outcome?.kind === "planned") {
                // What the first byte frees may let others go: noted before.
                if (!tracked.isOver) tracked.prefill = undefined;
                tracked.outcome.plan.booking.prefillCompleted();
              }
            } else if (each.kind === "free") {
              const tracked = all[each.at];
              if (tracked?.outcome?.kind === "planned") {
                tracked.prefill = undefined;
                tracked.decode = undefined;
                tracked.isOver = true;
                tracked.outcome.plan.booking.free();
              }
            } else if (each.kind === "upsert") {
              const id = BigInt(each.id);
              const wasPrefill = prefill.workers.has(id);
              const isMove = wasPrefill ? each.role !== "prefill" : decode.workers.has(id) && each.role === "prefill";
              if (isMove) leave(`${id}`);
              router.upsertWorker(worker(each.id, each.role));
            } else if (each.kind === "remove") {
              leave(`${each.id}`);
              router.removeWorker(BigInt(each.id));
            } else if (each.kind === "suspect") router.suspectWorker(BigInt(each.id), each.ms);
            else advance(each.ms);

            checkBooks(all, made);
          }
          for (const tracked of all) {
            if (tracked.outcome === undefined) tracked.isCancelled = true;
            tracked.cancel();
          }
          for (const tracked of all) if (tracked.outcome?.kind === "planned") tracked.outcome.plan.booking.free();
          expect(all.every((tracked) => tracked.calls.length === (tracked.isCancelled ? 0 : 1))).toBe(true);
          expect([...prefill.loads(), ...decode.loads()].every((load) => load.activeRequests === 0)).toBe(true);
          expect(router.snapshot()).toMatchObject({
            bookings: 0,
            queue: [{ requests: 0, rawTokens: 0 }],
            counters: { reaped: 0 },
          });
          router.close();
          expect(made.timers.size).toBe(0);
        },
      ),
      { numRuns: 150 },
    );
  });
});

function checkBooks(all: readonly Tracked[], { prefill, decode, router }: ReturnType<typeof harness>): void {
  for (const [stage, name] of [
    [prefill, "prefill"],
    [decode, "decode"],
  ] as const) {
    const expected = new Map<string, string[]>();
    for (const tracked of all) {
      const id = tracked[name];
      if (id === undefined || tracked.outcome?.kind !== "planned") continue;
      const key = `${id}:0`;
      expected.set(key, [...(expected.get(key) ?? []), tracked.outcome.plan.booking.id].sort());
    }
    const open = new Map(
      [...stage.open()].filter(([, ids]) => ids.length > 0).map(([key, ids]) => [key, [...ids].sort()]),
    );
    expect(open).toEqual(expected);
  }
  const openBookings = all.filter((tracked) => tracked.outcome?.kind === "planned" && !tracked.isOver).length;
  expect(router.snapshot().bookings).toBe(openBookings);
  const waiting = all.filter((tracked) => tracked.outcome === undefined && !tracked.isCancelled).length;
  expect(router.snapshot().queue[0]?.requests).toBe(waiting);
}

describe("ten thousand requests at once", () => {
  it("wait, go one after the other and leave nothing behind", () => {
    const { router, plan, decode, busy } = withQueue();
    const plans: Plan[] = [];
    const answer = (outcome: PlanOutcome) => plans.push(planned(outcome));
    const pending = Array.from({ length: 10_000 }, (_, index) => router.plan(request(900 + (index % 7)), answer));
    expect(router.snapshot().queue[0]?.requests).toBe(10_000);
    for (let index = 0; index < pending.length; index += 10) pending[index]?.cancel();
    busy.booking.free();
    for (let index = 0; index < plans.length; index++) plans[index]?.booking.free();
    expect([plans.length, new Set(plans.map((each) => each.booking.id)).size]).toEqual([9000, 9000]);
    expect(decode.loads()).toMatchObject([{ activeRequests: 0 }]);
    expect(plan(request(16)).calls).toBe(1);
  });

  function withQueue() {
    const made = harness({ workers: [worker(1, "aggregated")], config: { profile: syntheticProfile(1, "fcfs") } });
    return { ...made, busy: planned(made.plan(request(5000)).outcome) };
  }
});

describe("createPrefillRouter", () => {
  it("needs no more than settings and stages, and keeps no process alive", () => {
    const { prefill, decode } = harness();
    const router: PrefillRouter = createPrefillRouter({
      config: {
        profile: syntheticProfile(undefined, "fcfs"),
        conditional: undefined,
        affinity: undefined,
        isDisaggEnforced: false,
        activeRequestExpiryMs: 300_000,
        queueRecheckMs: 60_000,
        maxQueuedPlans: 10,
      },
      settingsOf: () => {
        throw new Error("nothing is planned");
      },
      prefill,
      decode,
      index: undefined,
    });
    expect(router.preview(request(1)).kind).toBe("refused");
    router.close();
  });
});
