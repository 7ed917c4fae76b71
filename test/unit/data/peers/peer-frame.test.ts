import { describe, expect, it } from "@jest/globals";
import {
  encodeFrame,
  encodeOffsetFrame,
  type FrameKind,
  FrameReader,
  maxBodyBytes,
  offsetOf,
} from "../../../../src/data/peers/peer-frame.ts";
import fc from "../../../properties.ts";

interface Frame {
  readonly kind: FrameKind;
  readonly body: string;
}

function readAll(chunks: readonly Buffer[], limit = maxBodyBytes): Frame[] {
  const frames: Frame[] = [];
  const reader = new FrameReader(limit, (kind, body) => frames.push({ kind, body: body.toString("hex") }));
  for (const chunk of chunks) reader.receive(chunk);
  return frames;
}

const kinds = ["subscribe", "welcome", "replace", "own", "changes", "known", "alive", "bye", "read"] as const;
const frame = fc.record({ kind: fc.constantFrom(...kinds), body: fc.uint8Array({ maxLength: 5000 }) });

describe("frames between replicas", () => {
  it("are the same wherever the stream is cut", () => {
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 6 }), fc.array(fc.nat(6000), { maxLength: 20 }), (frames, cuts) => {
        const bytes = Buffer.concat(frames.map(({ kind, body }) => encodeFrame(kind, body)));
        const chunks: Buffer[] = [];
        let from = 0;
        for (const cut of cuts) {
          chunks.push(bytes.subarray(from, Math.min(from + cut, bytes.length)));
          from = Math.min(from + cut, bytes.length);
        }
        chunks.push(bytes.subarray(from));
        expect(readAll(chunks)).toEqual(
          frames.map(({ kind, body }) => ({ kind, body: Buffer.from(body).toString("hex") })),
        );
      }),
    );
  });

  it("are the same when they come byte by byte", () => {
    const bytes = Buffer.concat([
      encodeFrame("bye"),
      encodeOffsetFrame("alive", 2 ** 40),
      encodeFrame("own", Buffer.alloc(300, 7)),
    ]);
    expect(readAll(Array.from(bytes, (byte) => Buffer.from([byte])))).toEqual(readAll([bytes]));
  });

  it.each([0, maxBodyBytes + 2, 0xffff_ffff])(
    "with a length of %i are refused before a byte of them is kept",
    (length) => {
      const header = Buffer.alloc(4);
      header.writeUInt32LE(length);
      expect(() => readAll([header])).toThrow(expect.objectContaining({ code: "PEER_PROTOCOL" }));
      expect(() => readAll(Array.from(header, (byte) => Buffer.from([byte])))).toThrow(
        expect.objectContaining({ code: "PEER_PROTOCOL" }),
      );
    },
  );

  it.each([0, 13, 255])("of the unknown kind %i are refused", (kind) => {
    expect(() => readAll([Buffer.from([1, 0, 0, 0, kind])])).toThrow(
      expect.objectContaining({ code: "PEER_PROTOCOL" }),
    );
  });

  it("hold offsets exactly, and refuse those that are none", () => {
    const body = (value: number): Buffer => {
      const bytes = Buffer.alloc(8);
      bytes.writeDoubleLE(value);
      return bytes;
    };
    expect(offsetOf(body(Number.MAX_SAFE_INTEGER))).toBe(Number.MAX_SAFE_INTEGER);
    for (const value of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 60]) {
      expect(() => offsetOf(body(value))).toThrow(expect.objectContaining({ code: "PEER_PROTOCOL" }));
    }
    expect(() => offsetOf(Buffer.alloc(7))).toThrow(expect.objectContaining({ code: "PEER_PROTOCOL" }));
  });
});
