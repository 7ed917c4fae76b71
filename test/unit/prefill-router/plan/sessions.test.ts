import { describe, expect, it } from "@jest/globals";
import type { AffinityMode } from "../../../../src/prefill-router/affinity/session-table.ts";
import type { PlanRequest } from "../../../../src/prefill-router/contracts.ts";
import { harness, planned, refusal, request, worker } from "./harness.ts";

const workers = [worker(1, "prefill"), worker(2, "prefill"), worker(11, "decode"), worker(12, "decode")];

function sessions(mode: AffinityMode, maxSessions = 10) {
  const made = harness({ workers, config: { affinity: { ttlMs: 1000, mode, maxSessions } } });
  const ask = (changes: Partial<PlanRequest> = {}) => made.plan(request(640, { sessionId: "s", ...changes })).outcome;
  const placesOf = (changes: Partial<PlanRequest> = {}) => {
    const { prefill, decode, booking } = planned(ask(changes));
    return { places: [prefill?.worker.id, decode.worker.id], booking };
  };
  return { ...made, ask, placesOf };
}

describe.each<AffinityMode>(["hard", "soft"])("a session, %s", (mode) => {
  it("stays on its ranks of both stages, against the load, from its first request on", () => {
    const { placesOf, plan } = sessions(mode);
    const first = placesOf();
    expect(placesOf().places).toEqual(first.places);
    const other = planned(plan(request(64)).outcome);
    expect([other.prefill?.worker.id, other.decode.worker.id]).toEqual([2n, 12n]);
    expect(placesOf().places).toEqual(first.places);
  });

  it("starts anew where its worker left, is suspect, or never answered", () => {
    const { placesOf, router, decode } = sessions(mode);
    placesOf().booking.prefillCompleted();
    router.removeWorker(1n);
    expect(placesOf().places).toEqual([2n, 11n]);
    router.suspectWorker(11n, 100);
    expect(placesOf().places).toEqual([2n, 12n]);
    expect(router.snapshot().sessions).toEqual({ prefill: 1, decode: 1 });

    const fresh = sessions(mode);
    fresh.placesOf().booking.free();
    expect(fresh.router.snapshot().sessions).toEqual({ prefill: 0, decode: 0 });
    expect(decode.workers.size).toBe(2);
  });

  it("ends with its final request and after its idle time", () => {
    const { placesOf, router, advance } = sessions(mode);
    const last = placesOf({ isSessionFinal: true });
    last.booking.prefillCompleted();
    last.booking.free();
    expect(router.snapshot().sessions).toEqual({ prefill: 0, decode: 0 });
    const idle = placesOf();
    idle.booking.prefillCompleted();
    idle.booking.free();
    advance(30_000);
    expect(router.snapshot().sessions).toEqual({ prefill: 0, decode: 0 });
  });

  it("is ignored, and counted, where the table is full or the id too long", () => {
    const { ask, router } = sessions(mode, 1);
    ask();
    expect(ask({ sessionId: "another" })?.kind).toBe("planned");
    expect(ask({ sessionId: "x".repeat(300) })?.kind).toBe("planned");
    expect(router.snapshot()).toMatchObject({ sessions: { prefill: 1, decode: 1 }, counters: { sessionsIgnored: 4 } });
  });
});

describe("a session whose rank cannot be chosen", () => {
  const elsewhere: Partial<PlanRequest>[] = [
    { allowed: { decode: new Set([12n]) } },
    { pinned: { decode: { workerId: 12n, dpRank: 0 } } },
  ];

  it.each(elsewhere)("is refused once in hard mode, books nothing, and binds anew after (%#)", (changes) => {
    const { ask, placesOf, router } = sessions("hard");
    placesOf();
    expect(refusal(ask(changes))).toMatchObject({ kind: "pinned-unavailable", stage: "decode" });
    expect(router.snapshot()).toMatchObject({ bookings: 1, sessions: { prefill: 1, decode: 0 } });
    expect(placesOf(changes).places).toEqual([1n, 12n]);
  });

  it.each(elsewhere)("moves in soft mode, and stays there (%#)", (changes) => {
    const { placesOf } = sessions("soft");
    expect(placesOf().places).toEqual([1n, 11n]);
    expect(placesOf(changes).places).toEqual([1n, 12n]);
    expect(placesOf().places).toEqual([1n, 12n]);
  });
});
