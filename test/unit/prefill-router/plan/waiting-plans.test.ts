import { describe, expect, it } from "@jest/globals";
import type { PlanOutcome, PlanRequest } from "../../../../src/prefill-router/contracts.ts";
import { syntheticProfile } from "../../../../src/prefill-router/policy/policy-class.ts";
import { parsePolicyConfig } from "../../../../src/prefill-router/policy/policy-config.ts";
import { anyIndex, harness, planned, refusal, request, worker } from "./harness.ts";

// A rank of a test worker is busy with more than 1000 prompt tokens to compute.
const profile = syntheticProfile(1, "fcfs");
const one = [worker(1, "aggregated")];
const big = 5000;

function filled(options: Parameters<typeof harness>[0] = {}) {
  const made = harness({ workers: one, ...options, config: { profile, ...options.config } });
  const busy = made.plan(request(big));
  return { ...made, busy: planned(busy.outcome) };
}

describe("waiting", () => {
  it("never happens without a threshold, however busy the workers are", () => {
    const { plan } = filled({ config: { profile: syntheticProfile(undefined, "fcfs") } });
    expect(planned(plan(request(big)).outcome).mode).toBe("aggregated");
  });

  it("starts above the threshold, not at it", () => {
    const { plan } = harness({ workers: one, config: { profile } });
    plan(request(1000));
    expect(plan(request(1)).outcome?.kind).toBe("planned");
    expect(plan(request(1)).outcome).toBeUndefined();
  });

  it("ends at the first byte, at the end of a request, with a new worker, and with a cleared suspicion", () => {
    const enders: ((made: ReturnType<typeof filled>) => void)[] = [
      ({ busy }) => busy.booking.prefillCompleted(),
      ({ busy }) => busy.booking.free(),
      ({ router }) => router.upsertWorker(worker(2, "aggregated")),
      ({ router }) => router.removeWorker(1n),
    ];
    for (const end of enders) {
      const made = filled();
      const waiting = made.plan(request(64));
      expect([waiting.outcome, made.router.snapshot().queue[0]?.requests]).toEqual([undefined, 1]);
      end(made);
      expect([waiting.calls, made.router.snapshot().queue[0]?.requests]).toEqual([1, 0]);
    }
  });

  it("is looked at again at a slow beat, for changes nobody tells of", () => {
    const { plan, decode, advance } = filled({ config: { queueRecheckMs: 100 } });
    const waiting = plan(request(64));
    decode.removeWorker(1n);
    decode.upsertWorker(worker(1, "aggregated"));
    advance(99);
    expect(waiting.outcome).toBeUndefined();
    advance(1);
    expect(waiting.outcome?.kind).toBe("planned");
  });

  it("is looked at again when told that loads changed", () => {
    const { plan, decode, router } = filled();
    const waiting = plan(request(64));
    decode.removeWorker(1n);
    decode.upsertWorker(worker(1, "aggregated"));
    router.capacityChanged();
    expect(waiting.outcome?.kind).toBe("planned");
  });

  it("keeps an order where a priority is no number", () => {
    const { plan, busy } = filled();
    const odd = plan(request(big, { priorityJump: Number.NaN, strictPriority: Number.NaN }));
    const rest = Array.from({ length: 5 }, () => plan(request(big)));
    busy.booking.free();
    planned(odd.outcome).booking.free();
    for (const each of rest) planned(each.outcome).booking.free();
  });

  it("keeps a timer only while something waits", () => {
    const { plan, busy, timers } = filled();
    const idle = timers.size;
    const waiting = plan(request(64));
    expect(timers.size).toBe(idle + 1);
    waiting.cancel();
    expect(timers.size).toBe(idle);
    plan(request(64));
    busy.booking.free();
    expect(timers.size).toBe(idle);
  });

  it("admits no more than fit: what the first one books keeps the next one waiting", () => {
    const { plan, busy } = filled();
    const [first, second] = [plan(request(big)), plan(request(big))];
    busy.booking.free();
    expect([first.outcome?.kind, second.outcome]).toEqual(["planned", undefined]);
    planned(first.outcome).booking.free();
    expect(second.outcome?.kind).toBe("planned");
  });

  it("is not answered once cancelled, and lets the next one go", () => {
    const { plan, busy, router, decode } = filled();
    const pinned = plan(request(big, { strictPriority: 1 }));
    const next = plan(request(big));
    pinned.cancel();
    pinned.cancel();
    busy.booking.free();
    expect([pinned.calls, next.calls]).toEqual([0, 1]);
    expect(decode.open().get("1:0")).toHaveLength(1);
    expect(router.snapshot().counters).toMatchObject({ cancelled: 1, planned: 2 });
    next.cancel();
    expect(router.snapshot()).toMatchObject({ bookings: 1, counters: { cancelled: 1 } });
  });

  it("goes by strict priority, then by who came first with its head start", () => {
    const { plan, busy, advance } = filled();
    const order: string[] = [];
    const add = (name: string, changes: Partial<PlanRequest>) => {
      const made = plan(request(big, { requestId: name, ...changes }));
      advance(1000);
      return () => {
        if (made.outcome === undefined || order.includes(name)) return;
        order.push(name);
        planned(made.outcome).booking.free();
      };
    };
    const all = [
      add("early", {}),
      add("late", {}),
      add("jumps", { priorityJump: 1.5 }),
      add("strict", { strictPriority: 3 }),
    ];
    busy.booking.free();
    for (let round = 0; round < all.length; round++) for (const take of all) take();
    expect(order).toEqual(["strict", "early", "jumps", "late"]);
  });

  it("does not wait where the request says so, and says which class is full", () => {
    const { plan, busy, router } = filled();
    const refused = plan(request(64, { doNotQueue: true }));
    expect(refusal(refused.outcome)).toMatchObject({ kind: "queue-full", stage: "decode", policyClass: "default" });
    plan(request(64));
    expect(refusal(plan(request(64, { doNotQueue: true })).outcome).kind).toBe("queue-full");
    busy.booking.free();
    expect(planned(plan(request(64, { doNotQueue: true })).outcome).mode).toBe("aggregated");
    expect(router.snapshot().queue[0]?.requests).toBe(0);
  });

  it("lets a request that may not wait pass those of its class that wait for another worker", () => {
    const { plan } = filled({ workers: [worker(1, "aggregated"), worker(2, "aggregated")] });
    expect(plan(request(64, { pinned: { decode: { workerId: 1n, dpRank: 0 } } })).outcome).toBeUndefined();
    const free = plan(request(64, { doNotQueue: true }));
    expect(planned(free.outcome).decode.worker.id).toBe(2n);
  });

  it("leaves a request that may not wait for a prefill worker to its decode worker, where that may compute prompts and has room", () => {
    const workers = [worker(1, "prefill"), worker(11, "decode")];
    const served = filled({ workers, config: { maxQueuedPlans: 1, servesWithoutPrefill: true } });
    expect(served.plan(request(64)).outcome).toBeUndefined();
    const pinned = { pinned: { prefill: { workerId: 1n, dpRank: undefined } } };
    expect(refusal(served.plan(request(64, pinned)).outcome)).toMatchObject({ kind: "queue-full", stage: "prefill" });
    expect(planned(served.plan(request(64, { doNotQueue: true })).outcome).mode).toBe("aggregated");
    expect(planned(served.plan(request(big)).outcome).mode).toBe("aggregated");
    expect(refusal(served.plan(request(64)).outcome)).toMatchObject({ kind: "queue-full", stage: "prefill" });
    expect(served.router.snapshot().queue[0]?.requests).toBe(1);
    const direct = filled({ workers, config: { maxQueuedPlans: 1 } });
    direct.plan(request(64));
    expect(refusal(direct.plan(request(64)).outcome)).toMatchObject({ kind: "queue-full", stage: "prefill" });
  });

  it("is bounded in all", () => {
    const { plan } = filled({ config: { maxQueuedPlans: 2 } });
    plan(request(64));
    plan(request(64));
    expect(refusal(plan(request(64)).outcome)).toMatchObject({
      kind: "queue-full",
      limit: { kind: "requests", current: 2, limit: 2 },
    });
  });

  it("gives the reason instead of a full queue when there are no workers", () => {
    const { plan } = harness({ config: { profile } });
    expect(refusal(plan(request(64)).outcome).kind).toBe("no-workers");
  });

  it("refuses what waits for a worker that leaves for good", () => {
    const { plan, router } = filled({ workers: [worker(1, "aggregated"), worker(2, "aggregated")] });
    const waiting = plan(request(64, { pinned: { decode: { workerId: 1n, dpRank: undefined } } }));
    expect(waiting.outcome).toBeUndefined();
    router.removeWorker(1n);
    expect(refusal(waiting.outcome).kind).toBe("pinned-unavailable");
  });

  it("plans what waited in the topology of its turn", () => {
    const { plan, router } = filled({ workers: [worker(11, "decode")] });
    const waiting = plan(request(64));
    router.upsertWorker(worker(1, "prefill"));
    expect(waiting.outcome).toBeUndefined();
    router.removeWorker(11n);
    expect(refusal(waiting.outcome).kind).toBe("no-workers");
  });

  it("waits for the prefill stage in a disaggregated set", () => {
    const { plan, busy } = filled({ workers: [worker(1, "prefill"), worker(11, "decode")] });
    const waiting = plan(request(64));
    expect(waiting.outcome).toBeUndefined();
    busy.booking.prefillCompleted();
    expect(planned(waiting.outcome).mode).toBe("disaggregated");
  });

  it("survives an owner that plans, frees or throws from within its answer", () => {
    const { router, plan, busy, decode } = filled();
    const outcomes: PlanOutcome[] = [];
    router.plan(request(64), (outcome) => {
      outcomes.push(outcome);
      router.plan(request(32), (inner) => {
        outcomes.push(inner);
        planned(inner).booking.free();
      });
      planned(outcome).booking.free();
    });
    router.plan(request(64), () => {
      throw new Error("owner");
    });
    const last = plan(request(64));
    busy.booking.free();
    expect(outcomes.map((each) => each.kind)).toEqual(["planned", "planned"]);
    expect(last.calls).toBe(1);
    expect(decode.open().get("1:0")).toHaveLength(1);
    expect(router.snapshot().bookings).toBe(1);
  });

  it("tells observers of arrivals and departures with the time waited", () => {
    const told: string[] = [];
    const { plan, busy, advance } = filled({
      observers: [
        {
          queued: (policyClass) => told.push(`queued ${policyClass}`),
          left: (policyClass, waitedMs, how) => told.push(`${how} ${policyClass} after ${waitedMs}`),
        },
      ],
    });
    plan(request(64));
    plan(request(64)).cancel();
    advance(250);
    busy.booking.free();
    expect(told).toEqual([
      "queued default",
      "queued default",
      "cancelled default after 0",
      "planned default after 250",
    ]);
  });

  it("lets a waiting request go to its decode worker once conditional disaggregation wants it there", () => {
    const { plan, decode } = filled({
      workers: [worker(1, "prefill"), worker(11, "decode", { totalKvBlocks: 4 })],
      index: anyIndex(),
      config: {
        conditional: {
          policy: "isl_bounding",
          effIslThreshold: 100,
          effIslRatioThreshold: 0.7,
          prefillBusyThreshold: undefined,
          decodeBusyThreshold: undefined,
        },
      },
    });
    const waiting = plan(request(640));
    expect(waiting.outcome).toBeUndefined();
    decode.cached.set("11:0", 600);
    const direct = plan(request(640));
    expect([waiting, direct].map((each) => planned(each.outcome).mode)).toEqual(["aggregated", "aggregated"]);
  });
});

describe("policy classes", () => {
  const outcome = parsePolicyConfig(`
default_policy_family: chat
uncached_isl_buckets: [{ min_tokens: 0, bucket: short }, { min_tokens: 1000, bucket: long }]
policy_classes:
  - { name: chat-short, policy_family: chat, cache_bucket: short, quantum: 100, prefill_busy_threshold: 4000 }
  - { name: chat-long, policy_family: chat, cache_bucket: long, quantum: 100, prefill_busy_threshold: 2000, request_queue_limit_per_worker: 1 }
  - { name: direct, quantum: 1 }
  - { name: never, quantum: 1, prefill_busy_threshold_frac: 0.5, request_queue_limit_per_worker: 0 }
`);
  if (outcome.kind === "faults") throw new Error(outcome.faults.join("\n"));
  const classes = outcome.config.profileOf(undefined);
  if (classes === undefined) throw new Error("no profile");

  it("choose by what is left to compute, and have their own busy line", () => {
    const { plan, decode, router } = harness({ workers: one, index: anyIndex(), config: { profile: classes } });
    planned(plan(request(3000)).outcome);
    decode.cached.set("1:0", 2500);
    expect(plan(request(3000)).outcome?.kind).toBe("planned");
    decode.cached.set("1:0", 0);
    expect(plan(request(3000)).outcome).toBeUndefined();
    expect(plan(request(10)).outcome?.kind).toBe("planned");
    expect(router.snapshot().queue.map((each) => each.requests)).toEqual([0, 1, 0, 0]);
  });

  it("have limits by worker, and one with limit 0 serves at once or not at all", () => {
    const { plan, router } = harness({ workers: one, config: { profile: classes } });
    planned(plan(request(3000, { policyClass: "never" })).outcome);
    expect(refusal(plan(request(5, { policyClass: "never" })).outcome)).toMatchObject({
      policyClass: "never",
      limit: { kind: "requests", current: 0, limit: 0 },
    });
    expect(plan(request(3000)).outcome).toBeUndefined();
    expect(refusal(plan(request(3000)).outcome)).toMatchObject({
      kind: "queue-full",
      policyClass: "chat-long",
      message: 'router policy class "chat-long" queue requests limit reached (current=1, limit=1)',
    });
    router.upsertWorker(worker(2, "aggregated", { maxNumBatchedTokens: undefined }));
    expect(router.snapshot().queue[1]?.requests).toBe(0);
  });

  it("look at the stages of the topology as it is, not as it was at arrival", () => {
    const { plan, router } = harness({ workers: [worker(11, "decode")], config: { profile: classes } });
    const busy = planned(plan(request(9000, { policyClass: "direct" })).outcome);
    const waiting = plan(request(3000));
    expect(waiting.outcome).toBeUndefined();
    // The prefill worker comes with other work: the one that waits must now wait for it.
    router.upsertWorker(worker(1, "prefill"));
    const other = planned(plan(request(9000, { policyClass: "direct" })).outcome);
    busy.booking.free();
    expect(waiting.outcome).toBeUndefined();
    other.booking.free();
    expect(planned(waiting.outcome).mode).toBe("disaggregated");
  });

  it("without a busy line never make a request wait", () => {
    const { plan } = harness({ workers: one, config: { profile: classes } });
    for (let index = 0; index < 5; index++) expect(plan(request(9000, { policyClass: "direct" })).calls).toBe(1);
  });
});
