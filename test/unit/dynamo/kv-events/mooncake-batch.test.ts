/** Batches of a Mooncake master, whole, foreign and broken. */
import { describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { MooncakeBatchReader, objectEvents } from "../../../../src/dynamo/kv-events/mooncake-batch.ts";
import { encodeBatch, encodePositionalBatch, type ObjectEvent } from "../../../mooncake.ts";
import fc from "../../../properties.ts";

const kinds = Object.entries(objectEvents);

function read(payload: Buffer): { readonly isWhole: boolean; readonly heard: readonly string[] } {
  const reader = new MooncakeBatchReader();
  const isWhole = reader.read(payload);
  const heard = Array.from({ length: reader.count }, (_, event) => {
    const [kind] = kinds.find(([, number]) => number === reader.kindOf(event)) ?? [];
    const start = reader.startOf(event);
    return kind === "keyless" ? kind : `${kind} ${payload.toString("utf8", start, start + reader.lengthOf(event))}`;
  });
  return { isWhole, heard };
}

const events: readonly ObjectEvent[] = [
  { type: "stored", key: "a_0_k", group: "g" },
  { type: "removed", key: "b_0_v" },
  { type: "stored", key: "c", tenant: "" },
  { type: "stored", key: "d", tenant: "somebody" },
  { type: "moved", key: "e" },
  { type: "stored" },
];

describe("a batch of a Mooncake master", () => {
  it.each([
    ["maps, as Mooncake writes them", encodeBatch],
    ["fields by position, as Dynamo may read them", encodePositionalBatch],
  ])("tells of the default tenant's objects, its events being %s", (_name, encodeEvents) => {
    expect(read(encodeEvents(events))).toEqual({
      isWhole: true,
      heard: ["stored a_0_k", "removed b_0_v", "stored c", "keyless"],
    });
  });

  it("may be longer than the one before it, and shorter", () => {
    const reader = new MooncakeBatchReader();
    for (const count of [3, 500, 2]) {
      const batch = encodeBatch(Array.from({ length: count }, (_, index) => ({ type: "stored", key: `${index}` })));
      expect(reader.read(batch)).toBe(true);
      expect(reader.count).toBe(count);
      const [start, length] = [reader.startOf(count - 1), reader.lengthOf(count - 1)];
      expect(batch.toString("utf8", start, start + length)).toBe(`${count - 1}`);
    }
  });

  it("may say nothing", () => {
    expect(read(encodeBatch([]))).toEqual({ isWhole: true, heard: [] });
  });

  it.each([
    ["no msgpack", Buffer.from("hello")],
    ["nothing", Buffer.alloc(0)],
    ["no events", Buffer.from(encode([1]))],
    ["events that are none", Buffer.from(encode([1, "stored", 0]))],
    ["an event that is a number", Buffer.from(encode([1, [7], 0]))],
    ["a type that is a number", Buffer.from(encode([1, [{ event_type: 1 }], 0]))],
    ["a key that is a list", Buffer.from(encode([1, [{ event_type: "stored", object_key: [] }], 0]))],
    ["more events than a step has", Buffer.from(encode([1, Array.from({ length: 16_385 }, () => ({})), 0]))],
    ["more events than bytes", Buffer.from([0x93, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff])],
  ])("is refused where it holds %s", (_name, payload) => {
    expect(read(payload)).toEqual({ isWhole: false, heard: [] });
  });

  it("is refused wherever it is cut short", () => {
    const whole = encodeBatch(events);
    // The rank at the end decides nothing.
    for (let length = 0; length < whole.length - 1; length++) {
      expect(read(whole.subarray(0, length)).isWhole).toBe(false);
    }
  });

  it("never throws, whatever the bytes", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => void read(Buffer.from(bytes))));
  });
});
