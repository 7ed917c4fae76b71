import { describe, expect, it } from "@jest/globals";
import { SessionTable, type SessionUse } from "../../../../src/prefill-router/affinity/session-table.ts";
import type { RouterWorker } from "../../../../src/prefill-router/contracts.ts";
import fc from "../../../properties.ts";
import { worker } from "../plan/harness.ts";

const ttlMs = 1000;

function table(maxSessions = 10): SessionTable {
  return new SessionTable({ ttlMs, mode: "soft", maxSessions });
}

/** Finds by id, then by name, among these. */
function among(...workers: RouterWorker[]) {
  return (id: bigint, stableRoutingId: string | undefined) =>
    workers.find((each) => each.id === id) ??
    workers.find((each) => stableRoutingId !== undefined && each.stableRoutingId === stableRoutingId);
}

function mustUse(sessions: SessionTable, id: string, to: RouterWorker, nowMs: number, dpRank = 0): SessionUse {
  const use = sessions.use(id, to, dpRank, nowMs);
  if (use === undefined) throw new Error("the table is full");
  return use;
}

describe("SessionTable", () => {
  const first = worker(1, "decode");
  const second = worker(2, "decode", { dataParallelSize: 2 });

  it("keeps a session on its rank while it runs and for its time after", () => {
    const sessions = table();
    const use = mustUse(sessions, "s", second, 0, 1);
    use.prove();
    expect(sessions.target("s", among(first, second), ttlMs * 50)).toEqual({ workerId: 2n, dpRank: 1 });
    use.release(false, ttlMs * 50);
    expect(sessions.target("s", among(second), ttlMs * 51 - 1)).toEqual({ workerId: 2n, dpRank: 1 });
    expect(sessions.target("s", among(second), ttlMs * 51)).toBeUndefined();
    expect(sessions.size).toBe(0);
  });

  it("lets a second request join before the first one was answered", () => {
    const sessions = table();
    mustUse(sessions, "s", first, 0);
    expect(sessions.target("s", among(first, second), 1)).toEqual({ workerId: 1n, dpRank: 0 });
  });

  it("forgets a binding that never brought an answer, with its last request", () => {
    const sessions = table();
    const one = mustUse(sessions, "s", first, 0);
    const two = mustUse(sessions, "s", first, 0);
    one.release(false, 5);
    expect(sessions.size).toBe(1);
    two.release(false, 6);
    expect(sessions.size).toBe(0);
  });

  it("ends with its final request once all of its requests ended", () => {
    const sessions = table();
    const one = mustUse(sessions, "s", first, 0);
    const last = mustUse(sessions, "s", first, 0);
    one.prove();
    last.release(true, 5);
    expect(sessions.size).toBe(1);
    one.release(false, 6);
    expect(sessions.size).toBe(0);
  });

  it("counts a release once", () => {
    const sessions = table();
    const one = mustUse(sessions, "s", first, 0);
    mustUse(sessions, "s", first, 0);
    one.release(false, 1);
    one.release(false, 1);
    expect(sessions.size).toBe(1);
  });

  it("follows a worker's name to its new id, and forgets a worker without one", () => {
    const sessions = table();
    const old = worker(5, "decode", { stableRoutingId: "pod-0" });
    mustUse(sessions, "named", old, 0).prove();
    mustUse(sessions, "unnamed", first, 0).prove();
    const reborn = worker(6, "decode", { stableRoutingId: "pod-0" });
    expect(sessions.target("named", among(reborn), 1)).toEqual({ workerId: 6n, dpRank: 0 });
    expect(sessions.target("unnamed", among(reborn), 1)).toBeUndefined();
    expect(sessions.size).toBe(1);
  });

  it("forgets a rank its worker no longer has", () => {
    const sessions = table();
    mustUse(sessions, "s", second, 0, 1).prove();
    expect(sessions.target("s", among(worker(2, "decode")), 1)).toBeUndefined();
  });

  it("moves with the choice, and a late release of a forgotten binding leaves its successor alone", () => {
    const sessions = table();
    const old = mustUse(sessions, "s", first, 0);
    sessions.forget("s");
    mustUse(sessions, "s", second, 1);
    old.release(true, 2);
    expect(sessions.target("s", among(first, second), 3)).toEqual({ workerId: 2n, dpRank: 0 });
    mustUse(sessions, "s", first, 4);
    expect(sessions.target("s", among(first, second), 5)).toEqual({ workerId: 1n, dpRank: 0 });
  });

  it("takes no session beyond its bound until another has expired", () => {
    const sessions = table(2);
    mustUse(sessions, "a", first, 0).prove();
    const other = mustUse(sessions, "b", first, 0);
    other.prove();
    other.release(false, 0);
    expect(sessions.use("c", first, 0, ttlMs - 1)).toBeUndefined();
    expect(sessions.use("a", first, 0, ttlMs - 1)).toBeDefined();
    expect(sessions.use("c", first, 0, ttlMs)).toBeDefined();
    expect(sessions.size).toBe(2);
  });

  it.each([
    ["x".repeat(256), true],
    ["x".repeat(257), false],
    ["é".repeat(128), true],
    ["é".repeat(129), false],
    ["𝄞".repeat(65), false],
  ])("bounds an id to 256 bytes of UTF-8 (%#)", (id, isTaken) => {
    expect(table().use(id, first, 0, 0) !== undefined).toBe(isTaken);
  });

  it("never holds more than its bound, and nothing once all has ended and expired", () => {
    const step = fc.record({
      session: fc.nat({ max: 8 }),
      what: fc.constantFrom("use", "prove", "release", "final"),
      ms: fc.nat({ max: 400 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: "max" }), (steps) => {
        const sessions = table(4);
        const open: SessionUse[] = [];
        let nowMs = 0;
        for (const { session, what, ms } of steps) {
          nowMs += ms;
          if (what === "use") {
            sessions.target(`${session}`, among(first), nowMs);
            const use = sessions.use(`${session}`, first, 0, nowMs);
            if (use !== undefined) open.push(use);
          } else if (what === "prove") open[session % Math.max(1, open.length)]?.prove();
          else open.splice(session % Math.max(1, open.length), 1)[0]?.release(what === "final", nowMs);
          expect(sessions.size).toBeLessThanOrEqual(4);
        }
        for (const use of open) use.release(false, nowMs);
        sessions.sweep(nowMs + ttlMs);
        expect(sessions.size).toBe(0);
      }),
      { numRuns: 200 },
    );
  });
});
