import { describe, expect, it } from "@jest/globals";
import type { Endpoint } from "../../../../src/data/endpoint.ts";
import type { LoadBooking } from "../../../../src/data/store-view.ts";
import fc from "../../../properties.ts";
import { type Clock, heartbeatMs, Line, Replica } from "./replicas.ts";

const clock: Clock = { nowMs: 0 };

describe("load that replicas share", () => {
  it("is the sum of all replicas' bookings, in each of them", () => {
    const a = new Replica(clock).knows(2);
    const b = new Replica(clock).knows(2);
    const lines = [new Line(a, b), new Line(b, a)];
    a.store.book(a.endpoint("1"), 100);
    b.store.book(b.endpoint("1"), 20);
    const booking = b.store.book(b.endpoint("2"), 7);
    for (const line of lines) line.settle();
    expect(a.loads()).toEqual({ "default/1": { requests: 2, tokens: 120 }, "default/2": { requests: 1, tokens: 7 } });
    expect(b.loads()).toEqual(a.loads());
    booking.release();
    for (const line of lines) line.settle();
    expect(a.loads()["default/2"]).toEqual({ requests: 0, tokens: 0 });
  });

  it("is not counted twice after a connection that broke off and came back", () => {
    const a = new Replica(clock).knows(1);
    const b = new Replica(clock).knows(1);
    const line = new Line(a, b);
    b.store.book(b.endpoint("1"), 10);
    line.settle();
    b.store.book(b.endpoint("1"), 10);
    line.pump();
    line.break();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 10 });
    line.settle();
    expect(a.loads()["default/1"]).toEqual({ requests: 2, tokens: 20 });
    expect(b.counters).toMatchObject({ snapshots: 1, resumed: 1 });
  });

  it("counts a peer that was started anew for itself alone", () => {
    const a = new Replica(clock).knows(1);
    const b = new Replica(clock).knows(1);
    const line = new Line(a, b);
    b.store.book(b.endpoint("1"), 10);
    line.settle();
    const again = new Replica(clock).knows(1);
    again.store.book(again.endpoint("1"), 3);
    line.leadsTo(again);
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 10 });
    line.settle();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 3 });
  });

  it("of a peer that is dropped counts no more", () => {
    const a = new Replica(clock).knows(1);
    const b = new Replica(clock).knows(1);
    const line = new Line(a, b);
    a.store.book(a.endpoint("1"), 1);
    b.store.book(b.endpoint("1"), 10);
    line.settle();
    clock.nowMs += 3 * heartbeatMs;
    expect(line.feed.isSilent).toBe(false);
    clock.nowMs += 1;
    expect(line.feed.isSilent).toBe(true);
    line.feed.drop();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 1 });
  });

  it("of a peer that says good-bye counts no more as soon as the connection ends", () => {
    const a = new Replica(clock).knows(1);
    const b = new Replica(clock).knows(1);
    const line = new Line(a, b);
    b.store.book(b.endpoint("1"), 10);
    line.settle();
    line.output.leave();
    line.move();
    line.break();
    expect(a.loads()["default/1"]).toEqual({ requests: 0, tokens: 0 });
  });

  it("is kept of an endpoint that this replica finds only later", () => {
    const a = new Replica(clock);
    const b = new Replica(clock).knows(1);
    b.store.book(b.endpoint("1"), 10);
    new Line(a, b).settle();
    a.knows(1);
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 10 });
  });

  it("belongs to one server: another one of the same name begins with nothing", () => {
    const a = new Replica(clock).knows(1);
    const b = new Replica(clock).knows(1);
    const line = new Line(a, b);
    b.store.book(b.endpoint("1"), 10);
    line.settle();
    a.add("1", "10.0.1.1");
    expect(a.loads()["default/1"]).toEqual({ requests: 0, tokens: 0 });
    b.add("1", "10.0.1.1");
    b.store.book(b.endpoint("1"), 4);
    line.settle();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 4 });
  });

  it("is taken back when the peer's endpoint leaves with bookings on it", () => {
    const a = new Replica(clock).knows(1);
    const b = new Replica(clock).knows(1);
    const line = new Line(a, b);
    const booking = b.store.book(b.endpoint("1"), 10);
    line.settle();
    b.store.replaceAll("test", []);
    line.settle();
    expect(a.loads()["default/1"]).toEqual({ requests: 0, tokens: 0 });
    b.knows(1);
    booking.release();
    line.settle();
    expect(a.loads()["default/1"]).toEqual({ requests: 0, tokens: 0 });
  });

  it("is told as many changes as one where they come between two messages", () => {
    const b = new Replica(clock).knows(1);
    const line = new Line(new Replica(clock).knows(1), b);
    line.settle();
    const before = b.changes.head;
    for (let i = 0; i < 1000; i++) b.store.book(b.endpoint("1"), 1);
    line.settle();
    expect(b.changes.head - before).toBeLessThan(100);
    const wanted = b.wanted;
    b.store.book(b.endpoint("1"), 1).release();
    line.settle();
    expect(b.wanted).toBe(wanted + 1);
    expect(line.feed.offset).toBe(b.changes.head);
  });

  it("stops when nothing is shared any more", () => {
    const a = new Replica(clock).knows(1);
    const b = new Replica(clock).knows(1);
    b.store.book(b.endpoint("1"), 10);
    new Line(a, b).settle();
    a.topics.share(new Map());
    expect(a.loads()["default/1"]).toEqual({ requests: 0, tokens: 0 });
  });

  it("comes to the sum in every replica, whatever happened in which order", () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant("book" as const), at: fc.nat(2), endpoint: fc.nat(3), tokens: fc.nat(50) }),
      fc.record({ kind: fc.constant("release" as const), at: fc.nat(2), which: fc.nat(20) }),
      fc.record({ kind: fc.constant("prefilled" as const), at: fc.nat(2), which: fc.nat(20), tokens: fc.nat(50) }),
      fc.record({ kind: fc.constant("move" as const), line: fc.nat(5), bytes: fc.nat(200) }),
      fc.record({ kind: fc.constant("pump" as const), line: fc.nat(5) }),
      fc.record({ kind: fc.constant("break" as const), line: fc.nat(5) }),
      fc.record({ kind: fc.constant("drop" as const), line: fc.nat(5) }),
      fc.record({ kind: fc.constant("slow" as const), line: fc.nat(5), bytes: fc.constantFrom(0, 1_000_000) }),
      fc.record({ kind: fc.constant("restart" as const), at: fc.nat(2) }),
      fc.record({ kind: fc.constant("churn" as const), at: fc.nat(2), endpoint: fc.nat(3) }),
      fc.record({ kind: fc.constant("flood" as const), at: fc.nat(2), endpoint: fc.nat(3) }),
    );
    // Line 0 leads from replica 1 to replica 0.
    const reads = Array.from({ length: 10 }, () => ({ kind: "move" as const, line: 0, bytes: 200 }));
    const flood = { kind: "flood" as const, at: 1, endpoint: 0 };
    const seen = { overrun: 0, resumed: 0, snapshots: 0 };
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        // So small that a reader that is left alone for a while falls behind.
        const begin = (): Replica => new Replica(clock, 2 * 65_536).knows(4);
        const replicas = [begin(), begin(), begin()];
        const pairs = [0, 1, 2].flatMap((reader) =>
          [0, 1, 2].filter((w) => w !== reader).map((w) => [reader, w] as const),
        );
        const at = (index: number): Replica => replicas[index] as Replica;
        let lines = pairs.map(([reader, writer]) => new Line(at(reader), at(writer)));
        const held: { readonly at: number; readonly endpoint: Endpoint; readonly booking: LoadBooking }[] = [];
        for (const one of steps) {
          switch (one.kind) {
            case "book": {
              const endpoint = at(one.at).endpoint(`${one.endpoint + 1}`);
              held.push({ at: one.at, endpoint, booking: at(one.at).store.book(endpoint, one.tokens) });
              break;
            }
            case "release":
              held.filter((h) => h.at === one.at)[one.which]?.booking.release();
              break;
            case "prefilled":
              held.filter((h) => h.at === one.at)[one.which]?.booking.releaseTokens(one.tokens);
              break;
            case "move":
              if (lines[one.line]?.isOpen === false) lines[one.line]?.open();
              lines[one.line]?.move(one.bytes);
              break;
            case "pump":
              lines[one.line]?.pump();
              break;
            case "break":
              lines[one.line]?.break();
              break;
            case "drop":
              lines[one.line]?.break();
              lines[one.line]?.feed.drop();
              break;
            case "slow": {
              const line = lines[one.line];
              if (line !== undefined) line.pendingBytes = one.bytes;
              break;
            }
            case "restart": {
              const gone = at(one.at);
              replicas[one.at] = begin();
              lines = lines.map((line, index) => {
                const [reader, writer] = pairs[index] as readonly [number, number];
                if (reader === one.at) return new Line(at(reader), at(writer));
                if (writer === one.at) line.leadsTo(at(writer));
                return line;
              });
              for (let i = held.length - 1; i >= 0; i--) if (held[i]?.at === one.at) held.splice(i, 1);
              expect(gone.store.snapshot().length).toBe(4);
              break;
            }
            case "churn": {
              const name = `${one.endpoint + 1}`;
              at(one.at).store.remove("test", at(one.at).endpoint(name).name);
              at(one.at).add(name);
              break;
            }
            case "flood":
              for (let i = 0; i < 4000; i++) {
                at(one.at)
                  .store.book(at(one.at).endpoint(`${one.endpoint + 1}`), 1)
                  .release();
                at(one.at).store.book(at(one.at).endpoint(`${one.endpoint + 1}`), 1);
                at(one.at).topics.collect();
              }
              break;
            default:
              one satisfies never;
          }
        }
        for (const line of lines) line.pendingBytes = 0;
        for (const line of lines) line.settle();
        const own = replicas.map((replica) => {
          const alone = new Map<string, { requests: number; tokens: number }>();
          for (const { name, load } of replica.store.snapshot()) {
            const { ownRequests, ownTokens } = load as unknown as { ownRequests: number; ownTokens: number };
            alone.set(name, { requests: ownRequests, tokens: ownTokens });
          }
          return alone;
        });
        for (const replica of replicas) {
          for (const what of ["overrun", "resumed", "snapshots"] as const) seen[what] += replica.counters[what];
          for (const { name, load } of replica.store.snapshot()) {
            const sum = own.reduce((total, alone) => total + (alone.get(name)?.requests ?? 0), 0);
            const tokens = own.reduce((total, alone) => total + (alone.get(name)?.tokens ?? 0), 0);
            expect({ name, requests: load.requests, tokens: load.tokens }).toEqual({ name, requests: sum, tokens });
          }
        }
      }),
      {
        numRuns: 150,
        examples: [[[...reads, flood, { kind: "pump", line: 0 }]], [[...reads, { kind: "break", line: 0 }]]],
      },
    );
    expect(Math.min(seen.overrun, seen.resumed, seen.snapshots)).toBeGreaterThan(0);
  });
});
