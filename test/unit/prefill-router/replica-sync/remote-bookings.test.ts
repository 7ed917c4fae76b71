/** What other routers say of their bookings, however often and in whatever order it comes. */
import { describe, expect, it } from "@jest/globals";
import type { ActiveSequenceChange, ActiveSequenceEvent } from "../../../../src/dynamo/kv-events/active-sequences.ts";
import { type OwnBooking, RemoteBookings } from "../../../../src/prefill-router/replica-sync/remote-bookings.ts";
import { createReplicaCounters } from "../../../../src/prefill-router/replica-sync/replica-counters.ts";
import { createWorkerStage } from "../../../../src/prefill-router/stage/worker-stage.ts";
import fc from "../../../properties.ts";
import { chain, unmodeled, worker } from "../stage/fleet.ts";

const free: ActiveSequenceChange = { kind: "free" };
const mark: ActiveSequenceChange = { kind: "prefill-completed" };
const add: ActiveSequenceChange = {
  kind: "add",
  sequenceHashes: chain(1, 2, 3),
  trackPrefillTokens: true,
  expectedOutputTokens: undefined,
  prefillTokens: 20,
  expectedPrefillMs: undefined,
};

function event(change: ActiveSequenceChange, members: Partial<ActiveSequenceEvent> = {}): ActiveSequenceEvent {
  return { requestId: "a", workerId: 1n, dpRank: 0, change, routerId: 9n, loraName: undefined, ...members };
}

function build(own: ReadonlyMap<string, OwnBooking> = new Map(), capacity?: number) {
  const clock = { nowMs: 0 };
  const stage = createWorkerStage({ stage: "decode", blockSize: 8, now: () => clock.nowMs });
  for (const id of [1, 2]) stage.upsertWorker(worker(id));
  const counters = createReplicaCounters();
  const remote = new RemoteBookings({
    stage,
    ownBooking: (id) => own.get(id),
    counters,
    now: () => clock.nowMs,
    maxAgeMs: 300_000,
    ...(capacity === undefined ? {} : { capacity }),
  });
  const load = (id = 1) => {
    const { activePrefillTokens, activeDecodeBlocks, activeRequests } =
      stage.loads().find(({ workerId }) => workerId === BigInt(id)) ?? {};
    return [activeRequests, activeDecodeBlocks, activePrefillTokens];
  };
  return { stage, remote, counters, clock, load };
}

const idle = [0, 0, 0];

describe("bookings of other routers", () => {
  it("count like own ones until their router ends them", () => {
    const { remote, load } = build();
    expect(remote.apply(event(add), 5n)).toBe(false);
    expect(load()).toEqual([1, 3, 20]);
    expect(remote.apply(event(mark), 5n)).toBe(true);
    expect(load()).toEqual([1, 3, 0]);
    expect(remote.apply(event(free), 5n)).toBe(true);
    expect(load()).toEqual(idle);
    expect(remote.size).toBe(0);
  });

  it("have no blocks where their router does not track them, and no tokens where it does not count them", () => {
    const { remote, load } = build();
    remote.apply(event({ ...add, sequenceHashes: undefined, trackPrefillTokens: false }), 5n);
    expect(load()).toEqual([1, 0, 0]);
  });

  it("share the blocks of a prefix that two of them have", () => {
    const { remote, load } = build();
    remote.apply(event(add), 5n);
    remote.apply(event({ ...add, sequenceHashes: chain(1, 2, 9) }, { requestId: "b" }), 5n);
    expect(load()).toEqual([2, 4, 40]);
  });

  it("belong to whoever booked the id first", () => {
    const { remote, load, counters } = build();
    remote.apply(event(add), 5n);
    remote.apply(event(add, { workerId: 2n, routerId: 8n }), 6n);
    expect([load(1), load(2)]).toEqual([[1, 3, 20], idle]);
    expect(remote.apply(event(free, { workerId: 2n, routerId: 8n }), 6n)).toBe(false);
    expect(remote.apply(event(free, { routerId: 8n }), 6n)).toBe(false);
    expect(remote.apply(event(mark, { workerId: 2n }), 6n)).toBe(false);
    expect(load(1)).toEqual([1, 3, 20]);
    expect(counters.ignored).toMatchObject({ known: 1, "not-theirs": 3 });
  });

  it("are marked by the worker itself", () => {
    const { remote, load } = build();
    remote.apply(event(add), 5n);
    expect(remote.apply(event(mark, { routerId: 1n }), 77n)).toBe(true);
    expect(load()).toEqual([1, 3, 0]);
  });

  it("shrink from when they were heard of where their router says how long they take", () => {
    const { clock, remote, load } = build();
    clock.nowMs = 100;
    remote.apply(event({ ...add, expectedPrefillMs: 40 }), 5n);
    expect(load()).toEqual([1, 3, 20]);
    clock.nowMs = 120;
    expect(load()).toEqual([1, 3, 10]);
    remote.apply(event(mark), 5n);
    expect(load()).toEqual([1, 3, 0]);
  });

  it("leave own bookings of the same id alone, but for a mark", () => {
    const own = new Map<string, OwnBooking>();
    const { stage, remote, load } = build(own);
    const booking = stage.bookRemote("a", { workerId: 1n, dpRank: 0 }, chain(1), unmodeled(8), undefined, 0);
    own.set("a", { booking, workerId: 1n, dpRank: 0 });
    remote.apply(event(add), 5n);
    expect(remote.apply(event(free), 5n)).toBe(false);
    expect(load()).toEqual([1, 1, 8]);
    expect(remote.apply(event(mark), 5n)).toBe(true);
    expect(load()).toEqual([1, 1, 0]);
  });

  it.each([
    { words: [free, add], left: idle },
    { words: [mark, add], left: [1, 3, 0] },
    { words: [mark, free, add], left: idle },
    { words: [free, add, free], left: idle },
    { words: [add, free, add], left: [1, 3, 20] },
  ])("are right when what is said of them overtakes them: $words", ({ words, left }) => {
    const { remote, load } = build();
    for (const word of words) remote.apply(event(word), 5n);
    expect(load()).toEqual(left);
  });

  it("count when their id was ended long before", () => {
    const { remote, load, clock } = build();
    remote.apply(event(free), 5n);
    clock.nowMs = 1001;
    remote.apply(event(add), 5n);
    expect(load()).toEqual([1, 3, 20]);
  });

  it("end with the channel of their router, and no others do", () => {
    const { remote, load, counters } = build();
    remote.apply(event(add), 5n);
    remote.apply(event(add, { requestId: "b", routerId: 8n }), 6n);
    expect(remote.publisherGone(5n)).toBe(true);
    expect(load()).toEqual([1, 3, 20]);
    expect(remote.publisherGone(5n)).toBe(false);
    expect(counters).toMatchObject({ abandoned: 1 });
  });

  it("are forgotten once the stage has ended them for their age", () => {
    const { stage, remote, load, clock } = build();
    remote.apply(event(add), 5n);
    clock.nowMs = 300_000;
    expect(stage.reap(clock.nowMs, 300_000)).toBe(1);
    expect(load()).toEqual(idle);
    clock.nowMs = 360_000;
    remote.apply(event(add, { requestId: "b" }), 5n);
    expect(remote.size).toBe(1);
  });

  it("are booked again where the stage has ended them with their worker", () => {
    const { stage, remote, load } = build();
    remote.apply(event(add), 5n);
    stage.removeWorker(1n);
    stage.upsertWorker(worker(1));
    remote.apply(event(add), 5n);
    expect(load()).toEqual([1, 3, 20]);
  });

  it("wait for a worker that is not known yet", () => {
    const { stage, remote, load } = build();
    remote.apply(event(add, { workerId: 3n }), 5n);
    remote.apply(event(mark, { workerId: 3n }), 5n);
    remote.apply(event(add, { workerId: 3n, requestId: "b" }), 5n);
    remote.apply(event(free, { workerId: 3n, requestId: "b" }), 5n);
    stage.upsertWorker(worker(3));
    expect(load(3)).toEqual([1, 3, 0]);
  });

  it("are no more than are kept", () => {
    const { remote, counters, load } = build(new Map(), 2);
    for (const requestId of ["a", "b", "c"]) remote.apply(event(add, { requestId }), 5n);
    expect(load()[0]).toBe(2);
    expect(counters.ignored.full).toBe(1);
    remote.apply(event(free), 5n);
    remote.apply(event(add, { requestId: "d" }), 5n);
    expect(load()[0]).toBe(2);
  });

  it("are nothing in the end, whatever came twice or too early", () => {
    const lives = fc.array(fc.record({ id: fc.nat(20), worker: fc.integer({ min: 1, max: 3 }), marks: fc.boolean() }), {
      maxLength: 40,
    });
    fc.assert(
      fc.property(lives, fc.infiniteStream(fc.nat(3)), (plans, dice) => {
        const { remote, load } = build();
        const said: ActiveSequenceEvent[] = [];
        for (const [index, plan] of plans.entries()) {
          const of = { requestId: `${plan.id}/${index}`, workerId: BigInt(plan.worker) };
          said.push(event(add, of), ...(plan.marks ? [event(mark, of)] : []), event(free, of));
        }
        for (let index = 1; index < said.length; index++) {
          const [one, other] = [said[index - 1], said[index]];
          if (dice.next().value !== 0 || one === undefined || other === undefined) continue;
          said[index - 1] = other;
          said[index] = one;
        }
        for (const word of said) {
          remote.apply(word, 5n);
          if (word.change.kind !== "add" && dice.next().value === 0) remote.apply(word, 5n);
        }
        expect([load(1), load(2)]).toEqual([idle, idle]);
        expect(remote.size).toBe(0);
      }),
      { numRuns: 200 },
    );
  });
});
