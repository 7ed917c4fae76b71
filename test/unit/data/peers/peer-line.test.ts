import { describe, expect, it } from "@jest/globals";
import { segmentBytes } from "../../../../src/data/peers/change-log.ts";
import { encodeFrame, encodeOffsetFrame } from "../../../../src/data/peers/peer-frame.ts";
import { encodeSubscription, encodeWelcome } from "../../../../src/data/peers/peer-greeting.ts";
import { PeerOutput } from "../../../../src/data/peers/peer-output.ts";
import { topicIdOf } from "../../../../src/data/peers/shared-topics.ts";
import type { ChangeSink, PeerId, SharedKnowledge } from "../../../../src/data/shared-state.ts";
import fc from "../../../properties.ts";
import { type Clock, heartbeatMs, Line, Replica, scope } from "./replicas.ts";

const clock: Clock = { nowMs: 0 };
const protocolError = expect.objectContaining({ code: "PEER_PROTOCOL" });

/** Words that everybody learns. */
class Words implements SharedKnowledge {
  readonly kind = "knowledge";
  readonly topic: string;
  readonly words = new Set<string>();
  changes: ChangeSink | undefined;

  constructor(topic = "words") {
    this.topic = topic;
  }

  shareWith(changes: ChangeSink | undefined): void {
    this.changes = changes;
  }

  say(word: string): void {
    this.words.add(word);
    this.changes?.append(Buffer.from(word), Buffer.byteLength(word));
  }

  apply(_peer: PeerId, payload: Buffer): boolean {
    if (payload.length === 0) return false;
    this.words.add(payload.toString());
    return true;
  }

  *known(): Iterable<Uint8Array> {
    for (const word of this.words) yield Buffer.from(word);
  }
}

function pair(): { a: Replica; b: Replica; heard: Words; said: Words; line: Line } {
  const a = new Replica(clock).knows(1);
  const b = new Replica(clock).knows(1);
  const heard = new Words();
  const said = new Words();
  a.share([heard]);
  b.share([said]);
  return { a, b, heard, said, line: new Line(a, b) };
}

describe("a peer that begins", () => {
  it("is told what is known, a little at a time, and what is new before it", () => {
    const { heard, said, line } = pair();
    for (let i = 0; i < 5000; i++) said.say(`old-${i}-${"x".repeat(20)}`);
    line.open();
    line.move();
    line.move();
    line.pump();
    line.move();
    expect(heard.words.size).toBeGreaterThan(0);
    expect(heard.words.size).toBeLessThan(1000);
    said.say("new");
    line.pump();
    line.move();
    expect(heard.words.has("new")).toBe(true);
    expect(line.feed.hasKnown).toBe(false);
    line.settle();
    expect(heard.words).toEqual(said.words);
    expect(line.feed.hasKnown).toBe(true);
  });

  it("is told again what is known when the first telling broke off, though it resumes the changes", () => {
    const { b, heard, said, line } = pair();
    for (let i = 0; i < 5000; i++) said.say(`old-${i}-${"x".repeat(20)}`);
    line.open();
    line.move();
    line.move();
    line.break();
    line.settle();
    expect(heard.words).toEqual(said.words);
    expect(b.counters).toMatchObject({ resumed: 1, snapshots: 1 });
  });

  it("is not told again what is known when it comes back", () => {
    const { b, said, line } = pair();
    for (let i = 0; i < 3000; i++) said.say(`old-${i}-${"x".repeat(20)}`);
    line.settle();
    const { sentBytes } = b.counters;
    line.break();
    line.settle();
    expect(b.counters.sentBytes - sentBytes).toBeLessThan(200);
  });
});

describe("a peer that reads slowly", () => {
  it("makes the writer keep no more than its log, and is then told everything anew", () => {
    const { a, b, heard, said, line } = pair();
    line.settle();
    line.pendingBytes = 1_000_000;
    b.store.book(b.endpoint("1"), 9);
    for (let i = 0; i < 9 * 16 * 16; i++) said.say(`${i}`.padEnd(4096, "."));
    for (let i = 0; i < 100; i++) line.pump();
    expect(b.counters.overrun).toBe(0);
    expect(line.output.hasMore).toBe(false);
    expect(b.changes.head - b.changes.first).toBeLessThanOrEqual(8 * 1024 * 1024);
    line.pendingBytes = 0;
    line.settle();
    expect(b.counters).toMatchObject({ overrun: 1, snapshots: 2 });
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 9 });
    expect(heard.words).toEqual(said.words);
  });

  it("is given a bounded part of the log at once", () => {
    const { b, said, line } = pair();
    line.settle();
    for (let i = 0; i < 1000; i++) said.say(`${i}`.padEnd(4096, "."));
    const { sentBytes } = b.counters;
    line.output.pump();
    expect(b.counters.sentBytes - sentBytes).toBeLessThan(5 * segmentBytes);
    expect(line.output.hasMore).toBe(true);
  });
});

describe("a feed", () => {
  it("finds out that it called itself, and counts nothing of it", () => {
    const a = new Replica(clock).knows(1);
    a.store.book(a.endpoint("1"), 5);
    const line = new Line(a, a);
    line.open();
    line.move();
    line.move();
    expect(line.feed.useless).toBe("self");
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
  });

  it("leaves a peer to the feed that hears it already, and takes over when that one is dropped", () => {
    const { a, b, line } = pair();
    b.store.book(b.endpoint("1"), 5);
    line.settle();
    const other = new Line(a, b);
    other.open();
    other.move();
    other.move();
    expect(other.feed.useless).toBe("known-elsewhere");
    other.break();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
    line.break();
    line.feed.drop();
    other.settle();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
  });

  it("is refused by replicas of another pool, and told so", () => {
    const { line } = pair();
    const other = new Replica(clock);
    const output = new PeerOutput({
      identity: { id: other.id, scope: "default/another", heartbeatMs },
      changes: other.changes,
      topics: other.topics,
      counters: other.counters,
      now: () => 0,
      wire: { send: (bytes) => line.feed.receive(bytes), pendingBytes: 0 },
    });
    output.receive(line.feed.begin());
    expect(line.feed.useless).toBe("refused");
    expect(line.feed.refusal).toBe("replicas of default/another, not of default/pool");
    expect(output.refusal).toBe("replicas of default/another, not of default/pool");
    expect(output.peer).toBeUndefined();
  });

  it("ends a connection with a gap, and begins anew", () => {
    const { a, b, line } = pair();
    b.store.book(b.endpoint("1"), 5);
    line.settle();
    const body = Buffer.alloc(8);
    body.writeDoubleLE(b.changes.head + 64);
    expect(() => line.feed.receive(encodeFrame("changes", body))).toThrow(protocolError);
    line.break();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
    line.settle();
    expect(b.counters.snapshots).toBe(2);
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
  });

  it("keeps the values before while new ones are told, and those when the telling breaks off", () => {
    const { a, b, line } = pair();
    b.store.book(b.endpoint("1"), 5);
    line.settle();
    line.feed.receive(encodeOffsetFrame("replace", b.changes.head));
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
    line.break();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
    line.settle();
    expect(a.loads()["default/1"]).toEqual({ requests: 1, tokens: 5 });
  });

  it("skips the topics that it does not have, and counts payloads that it cannot read", () => {
    const { a, said, line } = pair();
    a.share([new Words("other words")]);
    line.settle();
    said.say("hello");
    line.settle();
    expect(a.counters.unknownTopic).toBeGreaterThan(0);
    const payload = Buffer.alloc(8);
    payload.writeUInt32LE(topicIdOf("load"), 4);
    line.feed.receive(encodeFrame("known", payload));
    expect(a.counters.malformed).toBe(1);
  });

  it("survives whatever bytes come, and counts nothing for ever", () => {
    const kinds = [
      "welcome",
      "refused",
      "replace",
      "own",
      "replaced",
      "changes",
      "known",
      "known-end",
      "alive",
      "bye",
      "read",
    ] as const;
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.uint8Array({ maxLength: 200 }),
            fc
              .tuple(fc.constantFrom(...kinds), fc.uint8Array({ maxLength: 120 }))
              .map(([kind, body]) => encodeFrame(kind, body)),
            fc.nat(1000).map((offset) => encodeOffsetFrame("changes", offset)),
            fc
              .tuple(fc.constantFrom("own", "known", "changes"), fc.uint8Array({ maxLength: 64 }))
              .map(([kind, payload]) => {
                const entry = Buffer.alloc(8);
                entry.writeUInt32LE(payload.length, 0);
                entry.writeUInt32LE(topicIdOf("load"), 4);
                const offset = kind === "changes" ? [Buffer.alloc(8)] : [];
                return encodeFrame(kind as "own", Buffer.concat([...offset, entry, payload]));
              }),
          ),
          { maxLength: 20 },
        ),
        fc.boolean(),
        (chunks, isGreeted) => {
          const a = new Replica(clock).knows(3);
          const { feed } = new Line(a, new Replica(clock));
          feed.begin();
          try {
            if (isGreeted) {
              feed.receive(encodeWelcome({ id: "00000000000000ff" as PeerId, heartbeatMs }));
              feed.receive(encodeOffsetFrame("replace", 0));
            }
            for (const chunk of chunks) feed.receive(Buffer.from(chunk));
          } catch (error) {
            expect(error).toEqual(protocolError);
          }
          for (const { load } of a.store.snapshot()) {
            expect(load.requests).toBeGreaterThanOrEqual(0);
            expect(load.tokens).toBeGreaterThanOrEqual(0);
            expect(Number.isFinite(load.tokens)).toBe(true);
          }
          feed.ended();
          feed.drop();
          for (const { load } of a.store.snapshot()) expect(load).toMatchObject({ requests: 0, tokens: 0 });
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("an output", () => {
  const outputOf = (replica: Replica, sent: Buffer[]): PeerOutput =>
    new PeerOutput({
      identity: { id: replica.id, scope, heartbeatMs },
      changes: replica.changes,
      topics: replica.topics,
      counters: replica.counters,
      now: () => 0,
      wire: { send: (bytes) => sent.push(bytes), pendingBytes: 0 },
    });

  it("says nothing to who has not said who it is", () => {
    const b = new Replica(clock).knows(1);
    b.store.book(b.endpoint("1"), 5);
    const sent: Buffer[] = [];
    const output = outputOf(b, sent);
    output.pump();
    output.heartbeat();
    output.leave();
    expect(sent).toEqual([]);
  });

  it("survives whatever bytes come, and says nothing of its state to them", () => {
    const b = new Replica(clock).knows(1);
    b.store.book(b.endpoint("1"), 5);
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.uint8Array({ maxLength: 700 }),
            fc.uint8Array({ maxLength: 60 }).map((body) => encodeFrame("subscribe", body)),
            fc.uint8Array({ maxLength: 20 }).map((body) => encodeFrame("read", body)),
          ),
          { maxLength: 10 },
        ),
        (chunks) => {
          const sent: Buffer[] = [];
          const output = outputOf(b, sent);
          try {
            for (const chunk of chunks) output.receive(Buffer.from(chunk));
          } catch (error) {
            expect(error).toEqual(protocolError);
          }
          output.pump();
          expect(sent).toEqual([]);
        },
      ),
      { numRuns: 300 },
    );
  });

  it.each([
    ["a place in its log that it no longer has", (b: Replica) => ({ id: b.id, offset: 1 })],
    ["a place in the future", (b: Replica) => ({ id: b.id, offset: 2 ** 50 })],
    ["the log of another process", () => ({ id: "0123456789abcdef" as PeerId, offset: 0 })],
  ])("tells everything to who asks for %s", (_what, read) => {
    const b = new Replica(clock, 2 * segmentBytes).knows(1);
    for (let i = 0; i < 5000; i++) {
      b.store.book(b.endpoint("1"), 1);
      b.topics.collect();
    }
    const output = outputOf(b, []);
    output.receive(encodeSubscription({ id: "00000000000000aa" as PeerId, scope, read: read(b), wantsKnown: false }));
    expect(b.counters).toMatchObject({ snapshots: 1, resumed: 0 });
  });
});
