/** Two routers of one worker set that tell each other what they book. */
import { isDeepStrictEqual } from "node:util";
import { describe, expect, it } from "@jest/globals";
import type { EncodedRecord } from "../../../../src/dynamo/encode-record.ts";
import {
  encodeActiveSequenceEvents,
  parseActiveSequenceEvents,
} from "../../../../src/dynamo/kv-events/active-sequences.ts";
import type { StageBooking } from "../../../../src/prefill-router/stage.ts";
import fc from "../../../properties.ts";
import { until } from "../../dynamo/until.ts";
import { chain, plainSettings, request } from "../stage/fleet.ts";
import { Bus, type Replica, replica, scopes } from "./replica.ts";

async function pair(bus = new Bus()): Promise<readonly [Replica, Replica]> {
  const replicas = [replica(bus, 1n), replica(bus, 2n)] as const;
  for (const each of replicas) {
    for (const id of [11, 12]) each.addWorker(id);
    each.addWorker(21, "prefill");
  }
  await until(() => bus.records.size === 4);
  return replicas;
}

const loads = ({ stages }: Replica): unknown => ({ prefill: stages.prefill.loads(), decode: stages.decode.loads() });

const bookingsOf = ({ stages }: Replica): number => stages.decode.activeBookings + stages.prefill.activeBookings;

const agree = ([one, other]: readonly [Replica, Replica], bookings: number): Promise<void> =>
  until(
    () => bookingsOf(one) === bookings && bookingsOf(other) === bookings && isDeepStrictEqual(loads(one), loads(other)),
    2000,
  );

describe("replica sync", () => {
  it("books what the other router books, on both stages, and ends it with it", async () => {
    const [one, other] = await pair();
    const decode = one.book("a", 12, request({ sequenceHashes: chain(1, 2, 3) }));
    const prefill = one.book("a", 21, request({ sequenceHashes: chain(1, 2) }), "prefill");
    await until(() => other.sync.counters.booked === 2);
    expect(loads(other)).toEqual(loads(one));
    expect(other.stages.decode.loads()).toContainEqual({
      workerId: 12n,
      dpRank: 0,
      activePrefillTokens: 48,
      activeDecodeBlocks: 3,
      activeRequests: 1,
    });
    prefill.free();
    decode.prefillCompleted();
    await until(() => other.sync.counters.prefilled === 1 && other.sync.counters.freed === 1);
    expect(loads(other)).toEqual(loads(one));
    expect(other.room()).toBeGreaterThan(0);
    decode.free();
    decode.free();
    await until(() => other.sync.counters.freed === 2);
    expect(loads(other)).toEqual(loads(one));
    expect(one.sync.counters).toMatchObject({ published: 5, dropped: 0, heard: 0 });
  });

  it("sends random hashes where blocks are not shared, and none where they are not tracked", async () => {
    const bus = new Bus();
    const [one, other] = await pair(bus);
    const hashes = chain(1, 2, 3);
    const settings = { ...plainSettings, assumeKvReuse: false };
    one.book("a", 11, request({ sequenceHashes: hashes, settings }));
    one.book("b", 11, request({ sequenceHashes: hashes, settings }));
    one.book("c", 11, request({ sequenceHashes: hashes, settings: { ...plainSettings, trackActiveBlocks: false } }));
    await until(() => other.sync.counters.booked === 3);
    expect(loads(other)).toEqual(loads(one));
    expect(other.stages.decode.loads()[0]).toMatchObject({ activeDecodeBlocks: 6, activeRequests: 3 });
    const sent = bus.messages.flatMap((message) => parseActiveSequenceEvents(message));
    expect(sent.map(({ change }) => (change.kind === "add" ? change.sequenceHashes?.length : 0))).toEqual([
      6,
      6,
      undefined,
    ]);
    expect(sent[0]?.change).not.toMatchObject({ sequenceHashes: hashes });
  });

  it("tells of bookings that end with their worker, and takes no remote booking for its own", async () => {
    const [one, other] = await pair();
    one.book("a", 11, request({ sequenceHashes: chain(1) }));
    await until(() => other.sync.counters.booked === 1);
    one.removeWorker(11);
    await until(() => other.sync.counters.freed === 1);
    expect(other.stages.decode.activeBookings).toBe(0);
    expect(other.sync.counters.published).toBe(0);
  });

  it("ends a router's bookings when its channel goes, and keeps its record for as long as it lives", async () => {
    const bus = new Bus();
    const [one, other] = await pair(bus);
    one.book("a", 11, request({ sequenceHashes: chain(1) }));
    await until(() => other.sync.counters.booked === 1);
    await one.sync.close();
    expect(bus.records.size).toBe(2);
    const transport = { kind: "zmq", endpoint: "tcp://127.0.0.1:1" } as const;
    const topic = "active_sequences_events";
    for (const publisherId of [1n, 2n, 3n, 4n]) {
      const channel = { type: "EventChannel", scope: scopes.decode, topic, publisherId, transport } as const;
      if (!other.sync.owns(channel)) other.sync.channelClosed(channel);
    }
    expect(other.stages.decode.activeBookings).toBe(0);
    expect(other.sync.counters.abandoned).toBe(1);
  });

  it("drops its own words by the router's id, should they come through another channel", async () => {
    const bus = new Bus();
    const [one] = await pair(bus);
    const change = { kind: "free" } as const;
    const event = { requestId: "x", workerId: 11n, dpRank: 0, change, routerId: 1n, loraName: undefined };
    bus.say(scopes.decode, encodeActiveSequenceEvents([event]), 99n);
    expect(one.sync.counters.ignored.own).toBe(1);
  });

  it("takes a worker's word that its prompt is computed, and passes it on", async () => {
    const bus = new Bus();
    const [one, other] = await pair(bus);
    one.book("a", 11, request({ sequenceHashes: chain(1, 2) }));
    await until(() => other.sync.counters.booked === 1);
    const change = { kind: "prefill-completed" } as const;
    const event = { requestId: "a", workerId: 11n, dpRank: 0, change, routerId: 11n, loraName: undefined };
    bus.say(scopes.decode, encodeActiveSequenceEvents([event]), 77n);
    for (const { stages } of [one, other]) {
      expect(stages.decode.loads()[0]).toMatchObject({ activePrefillTokens: 0, activeDecodeBlocks: 2 });
    }
    await until(() => one.sync.counters.published === 2);
  });

  it("leaves a message alone that cannot be read, for the plane to count, and hears the next", async () => {
    const bus = new Bus();
    const [one, other] = await pair(bus);
    expect(() => bus.say(scopes.decode, Buffer.from([0x81, 0xa6]), 77n)).toThrow();
    one.book("a", 11, request());
    await until(() => other.sync.counters.booked === 1);
  });

  it("tries to register until it can, and says then what was booked meanwhile", async () => {
    const bus = new Bus();
    const other = replica(bus, 2n);
    other.addWorker(11);
    await until(() => bus.records.size === 1);
    let attempts = 0;
    const registration = {
      put: async (record: EncodedRecord) => {
        if (++attempts === 1) throw new Error("away");
        await bus.registration.put(record);
      },
      remove: bus.registration.remove,
    };
    const one = replica({ registration, hear: bus.hear, publish: bus.publish }, 1n);
    one.addWorker(11);
    one.book("a", 11, request({ sequenceHashes: chain(1, 2) }));
    await until(() => other.sync.counters.booked === 1);
    expect(attempts).toBe(2);
    await one.sync.close();
    expect(bus.records.size).toBe(1);
  });

  it("leaves a scope with its last worker, told of the end of what ran there, and joins it again with the next", async () => {
    const bus = new Bus();
    const [one, other] = await pair(bus);
    one.book("a", 21, request({ sequenceHashes: chain(1) }), "prefill");
    await until(() => other.sync.counters.booked === 1);
    one.removeWorker(21);
    await until(() => other.sync.counters.freed === 1 && bus.records.size === 3);
    one.addWorker(21, "prefill");
    await until(() => bus.records.size === 4);
    one.book("b", 21, request({ sequenceHashes: chain(1) }), "prefill");
    await until(() => other.sync.counters.booked === 2);
    other.book("c", 21, request(), "prefill");
    await until(() => one.sync.counters.booked === 1);
  });

  it("hears a worker's first token where nothing is shared, and tells or books nothing", async () => {
    const bus = new Bus();
    const sharing = replica(bus, 1n);
    const alone = replica(bus, undefined);
    sharing.addWorker(11);
    alone.addWorker(11);
    await until(() => bus.records.size === 1);
    const idle = loads(alone);
    const theirs = sharing.book("theirs", 11, request({ sequenceHashes: chain(1, 2) }));
    await until(() => alone.sync.counters.ignored.unshared === 1);
    expect(loads(alone)).toEqual(idle);
    const mine = alone.book("mine", 11, request({ isl: 24, sequenceHashes: chain(3) }));
    const mark = { requestId: "mine", dpRank: 0, change: { kind: "prefill-completed" }, loraName: undefined } as const;
    const say = (workerId: bigint, routerId: bigint): void =>
      bus.say(scopes.decode, encodeActiveSequenceEvents([{ ...mark, workerId, routerId }]), routerId);
    say(12n, 12n);
    say(11n, 7n);
    expect(alone.stages.decode.loads()[0]).toMatchObject({ activePrefillTokens: 24, activeRequests: 1 });
    say(11n, 11n);
    expect(alone.stages.decode.loads()[0]).toMatchObject({ activePrefillTokens: 0, activeRequests: 1 });
    expect(alone.room()).toBe(1);
    mine.free();
    theirs.free();
    expect(alone.sync.counters).toMatchObject({ prefilled: 1, published: 0, dropped: 0, booked: 0 });
    expect([sharing.sync.counters.booked, bus.records.size]).toEqual([0, 1]);
    await alone.sync.close();
    await sharing.sync.close();
  });

  it("closes at once while it still tries to register", async () => {
    const bus = new Bus();
    const registration = { put: () => Promise.reject(new Error("away")), remove: bus.registration.remove };
    const one = replica({ registration, hear: bus.hear, publish: bus.publish }, 1n);
    one.addWorker(11);
    const startedAt = performance.now();
    await one.sync.close();
    expect(performance.now() - startedAt).toBeLessThan(500);
  });

  it.each(["zmq", "nats"] as const)("makes two routers agree after any load, over %s", async (kind) => {
    const step = fc.record({
      router: fc.nat(1),
      target: fc.constantFrom(11, 12, 21),
      what: fc.constantFrom("book", "book", "prefilled", "free"),
      blocks: fc.array(fc.nat(3), { maxLength: 6 }),
      isShared: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const replicas = await pair(new Bus(kind));
        const idle = loads(replicas[0]);
        const open: [StageBooking[], StageBooking[]] = [[], []];
        for (const [index, { router, target, what, blocks, isShared }] of steps.entries()) {
          const of = replicas[router] ?? replicas[0];
          const mine = open[router] ?? open[0];
          if (what === "book") {
            const settings = { ...plainSettings, assumeKvReuse: isShared };
            const wanted = request({ sequenceHashes: chain(...blocks), settings, isl: blocks.length * 8 + 3 });
            mine.push(of.book(`${index}`, target, wanted, target === 21 ? "prefill" : "decode"));
          } else if (what === "prefilled") mine[0]?.prefillCompleted();
          else if (what === "free") mine.shift()?.free();
        }
        const active = open.flat();
        await agree(replicas, active.length);
        for (const booking of active) booking.free();
        await agree(replicas, 0);
        expect(loads(replicas[0])).toEqual(idle);
        for (const { sync } of replicas) await sync.close();
      }),
      { numRuns: 25 },
    );
  });
});
