/** What routers and workers tell each other of load, against messages recorded from Dynamo 1.6.1. */
import { describe, expect, it } from "@jest/globals";
import { MalformedMessage } from "../../../../src/dynamo/encoding/value-reader.ts";
import { Envelope } from "../../../../src/dynamo/event-plane/envelope.ts";
import { openFrames } from "../../../../src/dynamo/event-plane/zmq-frames.ts";
import { parseActiveLoad } from "../../../../src/dynamo/kv-events/active-load.ts";
import {
  type ActiveSequenceEvent,
  encodeActiveSequenceEvents,
  parseActiveSequenceEvents,
} from "../../../../src/dynamo/kv-events/active-sequences.ts";
import fc from "../../../properties.ts";
import { framesOf, wires } from "../wires.ts";

function payloadOf(message: { readonly frames: readonly string[] }, topic: string): Buffer {
  const envelope = new Envelope(topic);
  envelope.read(openFrames(framesOf(message), Buffer.from(topic)) as Buffer);
  return Buffer.from(envelope.payload);
}

const u64 = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
const optional = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(value, { nil: undefined });

const change: fc.Arbitrary<ActiveSequenceEvent["change"]> = fc.oneof(
  fc.constant({ kind: "free" as const }),
  fc.constant({ kind: "prefill-completed" as const }),
  optional(fc.nat()).chain((prefillTokens) =>
    fc.record({
      kind: fc.constant("add" as const),
      sequenceHashes: optional(fc.array(u64).map((hashes) => wordsOf(hashes))),
      trackPrefillTokens: fc.boolean(),
      expectedOutputTokens: optional(fc.nat()),
      prefillTokens: fc.constant(prefillTokens),
      expectedPrefillMs: prefillTokens === undefined ? fc.constant(undefined) : optional(fc.nat(100_000)),
    }),
  ),
);

const event: fc.Arbitrary<ActiveSequenceEvent> = fc.record({
  requestId: fc.string(),
  workerId: u64,
  dpRank: fc.nat(15),
  change,
  routerId: u64,
  loraName: optional(fc.string()),
});

function wordsOf(hashes: readonly bigint[]): Uint32Array {
  return Uint32Array.from(hashes.flatMap((hash) => [Number(hash & 0xffff_ffffn), Number(hash >> 32n)]));
}

describe("active-sequence events", () => {
  it("are read back as they were written", () => {
    fc.assert(
      fc.property(fc.array(event, { maxLength: 5 }), (events) => {
        expect(parseActiveSequenceEvents(encodeActiveSequenceEvents(events))).toEqual(events);
      }),
    );
  });

  it.each(wires.activeSequences)("are written byte for byte as Dynamo writes them (message %#)", (message) => {
    const payload = payloadOf(message, "active_sequences_events");
    expect(Buffer.from(encodeActiveSequenceEvents(parseActiveSequenceEvents(payload)))).toEqual(payload);
    expect(parseActiveSequenceEvents(Buffer.from(message.payload))).toEqual(parseActiveSequenceEvents(payload));
  });

  it("may come alone, without a batch around them", () => {
    const alone =
      '{"request_id":"r","worker":{"worker_id":18446744073709551615,"dp_rank":2},"data":"Free","router_id":9,"lora_name":null}';
    const expected = {
      requestId: "r",
      workerId: 0xffff_ffff_ffff_ffffn,
      dpRank: 2,
      change: { kind: "free" },
      routerId: 9n,
      loraName: undefined,
    };
    expect(parseActiveSequenceEvents(Buffer.from(alone))).toEqual([expected]);
  });

  it.each([
    "{}",
    '{"events":[{}]}',
    '{"events":[{"request_id":"r","worker":{"worker_id":1},"data":"Frobnicate","router_id":1}]}',
    "[1]",
    "",
  ])("are refused when they are %j", (text) => {
    expect(() => parseActiveSequenceEvents(Buffer.from(text))).toThrow(MalformedMessage);
  });
});

describe("kv_metrics", () => {
  it("are read as Dynamo writes them", () => {
    const load = parseActiveLoad(payloadOf(wires.zmq.kvMetrics, "kv_metrics"));
    expect(load).toEqual(parseActiveLoad(Buffer.from(wires.zmq.kvMetrics.payload)));
    expect(load.kvUsedBlocks).toBeGreaterThan(0);
    expect(load.activePrefillTokens).toBeUndefined();
  });

  it("are refused without a worker", () => {
    expect(() => parseActiveLoad(Buffer.from('{"dp_rank":1}'))).toThrow(MalformedMessage);
  });
});
