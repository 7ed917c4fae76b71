/** The reader of KV events in both codecs against plain values, and against messages recorded from Dynamo 1.6.1. */
import { describe, expect, it } from "@jest/globals";
import { JsonReader } from "../../../../src/dynamo/encoding/json-reader.ts";
import { MsgpackReader } from "../../../../src/dynamo/encoding/msgpack-reader.ts";
import { MalformedMessage } from "../../../../src/dynamo/encoding/value-reader.ts";
import { Envelope } from "../../../../src/dynamo/event-plane/envelope.ts";
import { openFrames } from "../../../../src/dynamo/event-plane/zmq-frames.ts";
import { encodeRecoveryQuestion, RecoveryAnswer } from "../../../../src/dynamo/kv-events/recovery-query.ts";
import { RouterEventReader } from "../../../../src/dynamo/kv-events/router-event-reader.ts";
import fc from "../../../properties.ts";
import { framesOf, type RecordedMessage, wires } from "../wires.ts";
import { encodeEvents, event, type PlainEvent, plainView, readAll } from "./event-messages.ts";

function read(codec: "json" | "msgpack", bytes: Uint8Array, isSkimming = false): unknown[] {
  const reader = codec === "json" ? new JsonReader() : new MsgpackReader();
  const events = new RouterEventReader(reader);
  events.isSkimming = isSkimming;
  reader.open(bytes);
  events.begin(reader);
  const seen = readAll(events);
  expect(reader.at).toBe(bytes.length);
  return seen;
}

/** Recorded JSON with exact integers, as the plain values of the tests. */
function parseExact(text: string): unknown {
  return JSON.parse(text, (key, value: unknown, context?: { readonly source?: string }) => {
    const isId = key === "worker_id" || /hash/.test(key) || /^\d+$/.test(key);
    return isId && typeof value === "number" && context?.source !== undefined ? BigInt(context.source) : value;
  });
}

describe.each(["json", "msgpack"] as const)("KV events in %s", (codec) => {
  it("are read as they were written, whatever their order of keys and their unknown keys", () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 8 }), fc.boolean(), (events, isTurned) => {
        const written = isTurned ? events.map((one) => turned({ ...one, later: [1, { a: 2 }] })) : events;
        expect(read(codec, encodeEvents(codec, written))).toEqual(events.map(plainView));
      }),
      { numRuns: 200 },
    );
  });

  it("may be one event alone, as older workers send it", () => {
    fc.assert(
      fc.property(event, (one) => {
        expect(read(codec, encodeEvents(codec, one))).toEqual([plainView(one)]);
      }),
      { numRuns: 50 },
    );
  });

  it("are checked whole while skimming, hashes aside", () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 8 }), (events) => {
        const counts = read(codec, encodeEvents(codec, events), true).map(
          (one) => (one as { engineHashes: unknown[] }).engineHashes.length,
        );
        expect(counts).toEqual(
          events.map((one) => (plainView(one) as { engineHashes: unknown[] }).engineHashes.length),
        );
      }),
      { numRuns: 50 },
    );
  });

  it("throw MalformedMessage wherever the bytes end too early", () => {
    fc.assert(
      fc.property(
        fc.array(event, { minLength: 1, maxLength: 3 }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (events, share) => {
          const bytes = encodeEvents(codec, events);
          const cut = bytes.subarray(0, Math.floor(bytes.length * share));
          expect(() => read(codec, cut)).toThrow(MalformedMessage);
        },
      ),
      { numRuns: 200 },
    );
  });

  const good = { worker_id: 1n, event: { event_id: 1, data: "cleared" } };
  it.each([
    ["no worker", { event: good.event }],
    ["no event", { worker_id: 1n }],
    ["no data", { worker_id: 1n, event: { event_id: 1 } }],
    ["an unknown kind", { worker_id: 1n, event: { event_id: 1, data: "evicted" } }],
    [
      "two kinds",
      { worker_id: 1n, event: { event_id: 1, data: { removed: { block_hashes: [] }, stored: { blocks: [] } } } },
    ],
    ["no blocks", { worker_id: 1n, event: { event_id: 1, data: { stored: { parent_hash: null } } } }],
    [
      "half a block",
      { worker_id: 1n, event: { event_id: 1, data: { stored: { parent_hash: null, blocks: [{ block_hash: 1n }] } } } },
    ],
    ["an id above 2^53", { worker_id: 1n, event: { event_id: 2n ** 53n, data: "cleared" } }],
    ["a hash that is negative", { worker_id: 1n, event: { event_id: 1, data: { removed: { block_hashes: [-5] } } } }],
    ["a rank above 2^32", { worker_id: 1n, event: { event_id: 1, data: "cleared", dp_rank: 2n ** 32n } }],
  ])("are refused with %s", (_name, broken) => {
    expect(() => read(codec, encodeEvents(codec, [good, broken]))).toThrow(MalformedMessage);
  });

  it("name a tier that is not known, without being refused", () => {
    const [seen] = read(codec, encodeEvents(codec, [{ ...good, storage_tier: "tape" }]));
    expect(seen).toMatchObject({ tier: -1 });
  });

  it("are read from a recovery answer, before and after which its other fields may stand", () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 5 }), fc.boolean(), (events, isFirst) => {
        const rest = { last_event_id: 77, reset_scope: "all", news: {} };
        const bytes = encodeEvents(codec, { TreeDump: isFirst ? { events, ...rest } : { ...rest, events } });
        const reader = codec === "json" ? new JsonReader() : new MsgpackReader();
        const answer = new RecoveryAnswer(reader);
        expect(answer.open(bytes)).toBe(true);
        const routerEvents = new RouterEventReader(reader);
        routerEvents.begin(reader);
        expect(readAll(routerEvents)).toEqual(events.map(plainView));
        answer.finish();
        expect(answer).toMatchObject({ kind: "tree-dump", lastEventId: 77, isWholeRank: true });
        reader.restart(answer.eventsAt);
        routerEvents.begin(reader);
        expect(readAll(routerEvents)).toHaveLength(events.length);
      }),
      { numRuns: 50 },
    );
  });

  it.each([
    [{ TooNew: { requested_start: 9, requested_end: null, newest_available: 4 } }, { kind: "too-new", lastEventId: 4 }],
    [{ InvalidRange: { start_id: 4, end_id: 2 } }, { kind: "invalid-range" }],
    [{ Error: "worker_id mismatch" }, { kind: "error", message: "worker_id mismatch" }],
    [
      { TreeDumpFailed: { last_event_id: 3, message: "too deep" } },
      { kind: "tree-dump-failed", message: "too deep", lastEventId: 3 },
    ],
    [{ Status: { ready: true } }, { kind: "unknown", message: "Status" }],
  ])("may be refused by the worker: %j", (value, expected) => {
    const answer = new RecoveryAnswer(codec === "json" ? new JsonReader() : new MsgpackReader());
    expect(answer.open(encodeEvents(codec, value))).toBe(false);
    expect(answer).toMatchObject(expected);
  });

  it("see that a dump is of one domain only", () => {
    const bytes = encodeEvents(codec, {
      TreeDump: { last_event_id: 1, reset_scope: { domain: "cache_owner" }, events: [] },
    });
    const answer = new RecoveryAnswer(codec === "json" ? new JsonReader() : new MsgpackReader());
    answer.open(bytes);
    expect(answer.isWholeRank).toBe(false);
  });
});

/** Keys in the other order, at every level. */
function turned(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(turned);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([key, item]) => [key, turned(item)]),
  );
}

describe("recorded messages", () => {
  it.each([
    ["stored", wires.zmq.stored],
    ["removed", wires.zmq.removed],
  ] as const)("of kind %s are read as Dynamo wrote them", (_kind, message: RecordedMessage) => {
    const envelope = new Envelope("kv-events");
    const body = openFrames(framesOf(message), Buffer.from("kv-events"));
    envelope.read(body as Buffer);
    expect(envelope.publisherId).toBe(BigInt(message.publisherId));
    expect(envelope.isOfTopic).toBe(true);
    expect(read("msgpack", envelope.payload)).toEqual((parseExact(message.payload) as PlainEvent[]).map(plainView));
  });

  it("over NATS hold the same envelope without a frame around it", () => {
    for (const { hex } of wires.nats) {
      const envelope = new Envelope("kv-events");
      envelope.read(Buffer.from(hex, "hex"));
      const [first] = read("msgpack", envelope.payload);
      expect(envelope.isOfTopic).toBe(true);
      expect(first).toMatchObject({ dpRank: 0, tier: 0, domain: 1 });
    }
  });

  it("of a recovery are the same in both codecs", () => {
    const seen = wires.recovery
      .filter(({ start }) => start === 40)
      .map(({ codec, hex }) => {
        const reader = codec === "json" ? new JsonReader() : new MsgpackReader();
        const answer = new RecoveryAnswer(reader);
        expect(answer.open(Buffer.from(hex, "hex"))).toBe(true);
        const events = new RouterEventReader(reader);
        events.begin(reader);
        const all = readAll(events);
        answer.finish();
        return { all, kind: answer.kind, lastEventId: answer.lastEventId };
      });
    expect(seen).toHaveLength(2);
    expect(seen[0]).toEqual(seen[1]);
    expect(seen[0]).toMatchObject({ kind: "events" });
    expect(seen[0]?.all).toHaveLength((seen[0]?.lastEventId ?? 0) - 39);
  });
});

describe("the recovery question", () => {
  it("says the same in both codecs, with a u64 worker id that no double holds", () => {
    const question = { workerId: 0xfedc_ba98_7654_3211n, dpRank: 3, startEventId: 12 };
    expect(encodeRecoveryQuestion(question, "json").toString()).toBe(
      '{"worker_id":18364758544493064721,"dp_rank":3,"start_event_id":12,"end_event_id":null,"supports_tree_dump_failed":true}',
    );
    expect(encodeRecoveryQuestion(question, "msgpack")).toEqual(
      encodeEvents("msgpack", {
        worker_id: question.workerId,
        dp_rank: 3,
        start_event_id: 12,
        end_event_id: null,
        supports_tree_dump_failed: true,
      }),
    );
    expect(encodeRecoveryQuestion({ ...question, startEventId: undefined }, "json").toString()).toContain(
      '"start_event_id":null',
    );
  });
});
