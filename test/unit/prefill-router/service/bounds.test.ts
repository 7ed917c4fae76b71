import { describe, expect, it } from "@jest/globals";
import type { Plan, PlanRequest } from "../../../../src/prefill-router/contracts.ts";
import { type PendingBounds, PendingSelections } from "../../../../src/prefill-router/service/pending-selections.ts";
import { Reservations } from "../../../../src/prefill-router/service/reservations.ts";

const noHashes = new Uint32Array(0);

function selection(blocks = 0) {
  const hashes = new Uint32Array(2 * blocks);
  const request: PlanRequest = { requestId: "", isl: 1, blockHashes: hashes, sequenceHashes: noHashes };
  return { request, plan: {} as Plan };
}

const bounds: PendingBounds = { ttlMs: 100, maxEntries: 3, maxBytes: 10_000 };

describe("selections that may be booked", () => {
  it("are there for a time", () => {
    const pending = new PendingSelections(bounds);
    pending.set("a", selection(), 0);
    expect(pending.get("a", 100)).toBeDefined();
    expect(pending.get("a", 101)).toBeUndefined();
    pending.set("b", selection(), 101);
    expect(pending.size).toBe(1);
  });

  it("give way to later ones, the oldest first", () => {
    const pending = new PendingSelections(bounds);
    for (const id of ["a", "b", "c", "d"]) pending.set(id, selection(), 0);
    expect(["a", "b", "c", "d"].filter((id) => pending.get(id, 0) !== undefined)).toEqual(["b", "c", "d"]);
  });

  it("are bounded in bytes, and one too large for the bound is not kept", () => {
    const pending = new PendingSelections(bounds);
    pending.set("a", selection(500), 0);
    pending.set("b", selection(1000), 0);
    expect(pending.get("a", 0)).toBeUndefined();
    expect(pending.get("b", 0)).toBeDefined();
    pending.set("c", selection(100_000), 0);
    expect(pending.size).toBe(0);
    expect(pending.bytes).toBe(0);
  });

  it("are used once, and a later one of the same id is not used up by the earlier", () => {
    const pending = new PendingSelections(bounds);
    const [first, second] = [selection(), selection()];
    pending.set("a", first, 0);
    pending.set("a", second, 0);
    pending.used("a", first);
    expect(pending.get("a", 0)).toBe(second);
    pending.used("a", second);
    expect(pending.get("a", 0)).toBeUndefined();
    expect(pending.bytes).toBe(0);
  });
});

describe("reservations", () => {
  const booking = (log: string[] = []) => ({
    prefillCompleted: () => {},
    outputBlock: () => {},
    free: () => {
      log.push("freed");
    },
  });

  it("cannot be claimed twice, and are not seen before they are booked", () => {
    const reservations = new Reservations();
    const claim = reservations.claim("a", "p");
    expect(reservations.claim("a", "q")).toBeUndefined();
    expect(reservations.get("a")).toBeUndefined();
    claim?.install(booking());
    claim?.release();
    expect(reservations.get("a")).toBeDefined();
    expect(reservations.claim("a", "p")).toBeUndefined();
  });

  it("give the id back where nothing was booked", () => {
    const reservations = new Reservations();
    reservations.claim("a", "p")?.release();
    expect(reservations.size).toBe(0);
  });

  it("end everything that hangs on a booking, once, and only in their own partition", () => {
    const log: string[] = [];
    const reservations = new Reservations();
    reservations.claim("a", "p")?.install(booking(log));
    reservations.ended("a", "q");
    expect(log).toEqual([]);
    reservations.ended("a", "p");
    reservations.ended("a", "p");
    expect(log).toEqual(["freed"]);
    expect(reservations.size).toBe(0);
  });

  it("keep what was booked here where a peer says the same id", () => {
    const reservations = new Reservations();
    const own = booking();
    reservations.claim("a", "p")?.install(own);
    reservations.mirror("a", "p", booking());
    expect(reservations.get("a")).toBe(own);
  });
});
