/** What scheduling plugins share with the replicas of their picker. */
import { describe, expect, it } from "@jest/globals";
import type { PeerId, SharedKnowledge } from "../../../../src/scheduling/contracts.ts";
import { noHitLruScorer } from "../../../../src/scheduling/plugins/scorers/no-hit-lru-scorer.ts";
import {
  type SessionAffinityParameters,
  sessionAffinitySchema,
} from "../../../../src/scheduling/plugins/session-affinity/parameters.ts";
import { sessionAffinityFilter } from "../../../../src/scheduling/plugins/session-affinity/session-affinity-filter.ts";
import { SessionBindings } from "../../../../src/scheduling/plugins/session-affinity/session-bindings.ts";
import fc from "../../../properties.ts";
import { assignment, create, cycle, endpointsOf, request, scoresOf, seeded, withDefaults } from "../cycle-fixtures.ts";

const three = endpointsOf({}, {}, {});
const peer = "a" as PeerId;

/** Collects what a state tells, to hand it to others in whatever order. */
function tellingOf(shared: SharedKnowledge): Buffer[] {
  const told: Buffer[] = [];
  shared.shareWith({
    append: (payload, length) => {
      told.push(Buffer.from(payload.subarray(0, length)));
      return true;
    },
    changed: () => {},
  });
  return told;
}

class SessionReplica {
  readonly bindings = new SessionBindings(
    "sessions",
    withDefaults(sessionAffinitySchema, { strategy: "session_id" }) as unknown as SessionAffinityParameters,
  );
  readonly told = tellingOf(this.bindings.shared);

  /** A request of the session comes here, and goes to the slot unless it is bound to one of the candidates. */
  serve(id: string, slot: number, nowMs = 0, candidates = three): number {
    const made = request({ headers: { "x-session-id": id } });
    const pinned = this.bindings.find(cycle(made, seeded(1), nowMs), candidates);
    const served = pinned ?? candidates.find((endpoint) => endpoint.slot === slot);
    if (served === undefined) throw new Error("no such candidate");
    this.bindings.observer.assigned?.(made, assignment([served]), { set: () => {} });
    return served.slot;
  }

  bound(id: string, nowMs = 0): number | undefined {
    return this.bindings.find(cycle({ headers: { "x-session-id": id } }, seeded(1), nowMs), three)?.slot;
  }

  hear(payload: Buffer, nowMs = 0): void {
    expect(this.bindings.shared.apply(peer, payload, nowMs)).toBe(true);
  }
}

describe("sessions that replicas share", () => {
  it("are followed whichever replica they come to", () => {
    const [a, b] = [new SessionReplica(), new SessionReplica()];
    a.serve("s", 1);
    for (const payload of a.told) b.hear(payload);
    expect(b.serve("s", 2)).toBe(1);
  });

  it("move everywhere when the endpoint is no candidate any more", () => {
    const [a, b] = [new SessionReplica(), new SessionReplica()];
    a.serve("s", 1);
    for (const payload of a.told) b.hear(payload);
    b.serve(
      "s",
      2,
      0,
      three.filter(({ slot }) => slot !== 1),
    );
    for (const payload of b.told) a.hear(payload);
    expect([a.bound("s"), b.bound("s")]).toEqual([2, 2]);
    for (const payload of a.told) b.hear(payload);
    expect(b.bound("s")).toBe(2);
  });

  it("are remembered from their last request on, in every replica", () => {
    const [a, b] = [new SessionReplica(), new SessionReplica()];
    a.serve("s", 1, 0);
    a.serve("s", 1, 200_000);
    for (const payload of a.told) b.hear(payload, 50_000);
    expect(b.bound("s", 350_000)).toBe(1);
    expect(b.bound("s", 350_001)).toBeUndefined();
  });

  it("are told to a replica that begins, with their age", () => {
    const [a, b] = [new SessionReplica(), new SessionReplica()];
    a.serve("s", 1, 0);
    a.serve("t", 2, 250_000);
    const known = Array.from(a.bindings.shared.known(280_000), (payload) => Buffer.from(payload));
    expect(known).toHaveLength(2);
    for (const payload of known) b.hear(payload, 10_000);
    expect(b.bound("s", 29_999)).toBe(1);
    expect(b.bound("s", 30_001)).toBeUndefined();
    expect(Array.from(a.bindings.shared.known(900_000))).toHaveLength(0);
  });

  it("end up the same in all replicas, in whatever order they hear of each other", () => {
    const deed = fc.record({ at: fc.nat(2), session: fc.nat(2), slot: fc.nat(2), moves: fc.boolean() });
    fc.assert(
      fc.property(fc.array(deed, { maxLength: 20 }), fc.infiniteStream(fc.nat()), (deeds, choices) => {
        const replicas = [new SessionReplica(), new SessionReplica(), new SessionReplica()];
        for (const { at, session, slot, moves } of deeds) {
          const candidates = moves ? three.filter((endpoint) => endpoint.slot === slot) : three;
          replicas[at]?.serve(`s${session}`, slot, 0, candidates);
        }
        // Each hears the others' words in their order, but mixed.
        replicas.forEach((replica, index) => {
          const queues = replicas.filter((_, other) => other !== index).map(({ told }) => [...told]);
          for (let left = queues.flat().length; left > 0; left--) {
            const open = queues.filter((queue) => queue.length > 0);
            const payload = open[(choices.next().value ?? 0) % open.length]?.shift();
            if (payload !== undefined) replica.hear(payload);
          }
        });
        for (const id of ["s0", "s1", "s2"]) {
          expect(new Set(replicas.map((replica) => replica.bound(id))).size).toBe(1);
        }
      }),
      { numRuns: 200 },
    );
  });

  it("are shared by the filter under its name, and by the token strategy not at all", () => {
    expect(create(sessionAffinityFilter, { strategy: "session_id" }).shared?.topic).toMatch(/^sessions\//);
    expect(create(sessionAffinityFilter).shared).toBeUndefined();
  });

  it("survive payloads of any bytes", () => {
    const { bindings } = new SessionReplica();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        expect(typeof bindings.shared.apply(peer, Buffer.from(bytes), 0)).toBe("boolean");
      }),
    );
    const huge = Buffer.alloc(60_000, 0x61);
    huge.writeUInt8(1, 0);
    huge.writeUInt16LE(50_000, 2);
    expect(bindings.shared.apply(peer, huge, 0)).toBe(false);
    expect(bindings.size).toBeLessThan(200);
  });
});

describe("turns of no-hit-lru-scorer that replicas share", () => {
  const serve = (scorer: ReturnType<typeof noHitLruScorer.create>, slot: number): void => {
    const made = request();
    scoresOf(scorer, cycle(made), three);
    scorer.assigned?.(made, assignment(three.filter((endpoint) => endpoint.slot === slot)), { set: () => {} });
  };
  const sharedOf = (scorer: ReturnType<typeof noHitLruScorer.create>): SharedKnowledge => {
    if (scorer.shared?.kind !== "knowledge") throw new Error("nothing is shared");
    return scorer.shared;
  };

  it("count wherever they were taken", () => {
    const [a, b] = [create(noHitLruScorer), create(noHitLruScorer)];
    const told = tellingOf(sharedOf(a));
    serve(b, 1);
    serve(a, 2);
    serve(a, 0);
    for (const payload of told) expect(sharedOf(b).apply(peer, payload, 0)).toBe(true);
    expect(scoresOf(b, cycle(), three)).toEqual([0, 1, 0.5]);
  });

  it("are told to a replica that begins, before its own", () => {
    const [a, b] = [create(noHitLruScorer), create(noHitLruScorer)];
    for (const slot of [2, 0]) serve(a, slot);
    serve(b, 1);
    for (const payload of sharedOf(a).known(0)) sharedOf(b).apply(peer, Buffer.from(payload), 0);
    expect(scoresOf(b, cycle(), three)).toEqual([0.5, 0, 1]);
  });

  it("survive payloads of any bytes", () => {
    const shared = sharedOf(create(noHitLruScorer));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 30 }), (bytes) => {
        expect(typeof shared.apply(peer, Buffer.from(bytes), 0)).toBe("boolean");
      }),
    );
    expect(shared.apply(peer, Buffer.from(`+${"x".repeat(2000)}`), 0)).toBe(false);
  });
});
