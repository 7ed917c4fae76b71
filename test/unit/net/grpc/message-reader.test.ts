import { gzipSync } from "node:zlib";
import { describe, expect, it } from "@jest/globals";
import { MessageReader } from "../../../../src/net/grpc/message-reader.ts";
import fc from "../../../properties.ts";

function frame(message: Uint8Array, flag = 0): Buffer {
  const prefix = Buffer.alloc(5);
  prefix[0] = flag;
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** Reads chunks one after the other; messages as they came, then the fault if there was one. */
function readAll(chunks: readonly Buffer[], maxMessageBytes = 1 << 20, encoding?: string) {
  const messages: Buffer[] = [];
  const faults: [number, string][] = [];
  const reader = new MessageReader(maxMessageBytes, encoding);
  const sink = {
    message: (bytes: Buffer) => messages.push(bytes),
    fault: (status: number, message: string) => faults.push([status, message]),
  };
  for (const chunk of chunks) reader.read(chunk, sink);
  return { messages, faults, isAtBoundary: reader.isAtBoundary };
}

describe("the message reader", () => {
  it("finds the same messages however the bytes are cut", () => {
    const messages = fc.array(fc.uint8Array({ maxLength: 30 }), { maxLength: 6 });
    fc.assert(
      fc.property(messages, fc.array(fc.nat(), { maxLength: 12 }), (contents, cuts) => {
        const bytes = Buffer.concat(contents.map((content) => frame(content)));
        const points = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
        const chunks = points.slice(1).map((end, index) => bytes.subarray(points[index], end));
        const { messages: found, faults, isAtBoundary } = readAll(chunks);
        expect(found.map((message) => message.toString("hex"))).toEqual(
          contents.map((content) => Buffer.from(content).toString("hex")),
        );
        expect(faults).toEqual([]);
        expect(isAtBoundary).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it("hands on a view of a message that lies whole in a chunk", () => {
    const chunk = frame(Buffer.from("whole"));
    const { messages } = readAll([chunk]);
    expect(messages[0]?.buffer).toBe(chunk.buffer);
  });

  it("gathers a message that is larger than its first allocation", () => {
    const content = Buffer.alloc(900_000, "abcdefg");
    const bytes = frame(content);
    const chunks = Array.from({ length: Math.ceil(bytes.length / 10_000) }, (_, index) =>
      bytes.subarray(index * 10_000, (index + 1) * 10_000),
    );
    const { messages } = readAll(chunks);
    expect(messages[0]?.equals(content)).toBe(true);
  });

  it("allocates for what has come, not for what a prefix promises", () => {
    const prefix = Buffer.from([0, 0x3f, 0xff, 0xff, 0xff]);
    const before = process.memoryUsage().arrayBuffers;
    const { faults } = readAll([prefix, Buffer.alloc(100)], 0x7fffffff);
    expect(faults).toEqual([]);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2_000_000);
  });

  it.each([
    ["a message above the limit", frame(Buffer.alloc(1001)), undefined, 8],
    ["an unknown flag", frame(Buffer.from("x"), 2), undefined, 13],
    ["compression without an encoding", frame(Buffer.from("x"), 1), undefined, 13],
    ["compression with identity", frame(Buffer.from("x"), 1), "identity", 13],
    ["an encoding that is not supported", frame(Buffer.from("x"), 1), "zstd", 12],
    ["bytes that are no gzip", frame(Buffer.from("x"), 1), "gzip", 13],
    ["a message that inflates above the limit", frame(gzipSync(Buffer.alloc(1001)), 1), "gzip", 8],
  ] as const)("stops at %s", (_name, bytes, encoding, status) => {
    const { messages, faults } = readAll([bytes, frame(Buffer.from("never"))], 1000, encoding);
    expect(messages).toEqual([]);
    expect(faults.map(([code]) => code)).toEqual([status]);
  });

  it("says whether the bytes end within a message", () => {
    expect(readAll([frame(Buffer.from("abc")).subarray(0, 3)]).isAtBoundary).toBe(false);
    expect(readAll([frame(Buffer.from("abc")).subarray(0, 7)]).isAtBoundary).toBe(false);
    expect(readAll([frame(Buffer.from("abc"))]).isAtBoundary).toBe(true);
  });

  it("hands nothing on after it was stopped within a chunk", () => {
    const reader = new MessageReader(100, undefined);
    const seen: string[] = [];
    const sink = {
      message(bytes: Buffer) {
        seen.push(bytes.toString());
        reader.stop();
      },
      fault: () => {},
    };
    reader.read(Buffer.concat([frame(Buffer.from("one")), frame(Buffer.from("two"))]), sink);
    reader.read(frame(Buffer.from("three")), sink);
    expect(seen).toEqual(["one"]);
  });

  it("takes the memory of an unfinished message from the allowance and gives all of it back", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 400_000 }), { maxLength: 4 }),
        fc.integer({ min: 1_000, max: 50_000 }),
        fc.boolean(),
        (sizes, chunkBytes, isCut) => {
          let held = 0;
          let mostHeld = 0;
          const allowance = {
            take(bytes: number) {
              held += bytes;
              mostHeld = Math.max(mostHeld, held);
              return true;
            },
            give(bytes: number) {
              held -= bytes;
            },
          };
          const reader = new MessageReader(1 << 20, undefined, allowance);
          const lengths: number[] = [];
          const sink = { message: (bytes: Buffer) => lengths.push(bytes.length), fault: () => {} };
          const all = Buffer.concat(sizes.map((size) => frame(Buffer.alloc(size))));
          const bytes = isCut ? all.subarray(0, -1) : all;
          for (let at = 0; at < bytes.length; at += chunkBytes) reader.read(bytes.subarray(at, at + chunkBytes), sink);
          reader.stop();
          expect(held).toBe(0);
          expect(mostHeld).toBeLessThanOrEqual(Math.max(0, ...sizes));
          expect(lengths).toEqual(isCut ? sizes.slice(0, -1) : sizes);
        },
      ),
    );
  });

  it("refuses a message for which the allowance has no room, and holds nothing of it", () => {
    let held = 0;
    const allowance = {
      take: (bytes: number) => {
        if (held + bytes > 100_000) return false;
        held += bytes;
        return true;
      },
      give: (bytes: number) => {
        held -= bytes;
      },
    };
    const faults: number[] = [];
    const reader = new MessageReader(1 << 20, undefined, allowance);
    const sink = { message: () => {}, fault: (status: number) => faults.push(status) };
    const bytes = frame(Buffer.alloc(500_000));
    for (let at = 0; at < bytes.length; at += 10_000) reader.read(bytes.subarray(at, at + 10_000), sink);
    expect(faults).toEqual([8]);
    expect(held).toBe(0);
  });

  it("spends little on a message of which little has come", () => {
    let held = 0;
    const allowance = {
      take: (bytes: number) => {
        held += bytes;
        return true;
      },
      give: () => {},
    };
    const reader = new MessageReader(1 << 26, undefined, allowance);
    const bytes = frame(Buffer.alloc(1 << 20));
    reader.read(bytes.subarray(0, 6), { message: () => {}, fault: () => {} });
    expect(held).toBeLessThanOrEqual(16 * 1024);
  });

  it("does not inflate a message beyond 4 MiB, whatever size a plain one may have", () => {
    const bomb = frame(gzipSync(Buffer.alloc(5 << 20)), 1);
    expect(readAll([bomb], 1 << 26, "gzip").faults.map(([status]) => status)).toEqual([8]);
  });
});
