import { describe, expect, it } from "@jest/globals";
import { ChangeLog, entryHeaderBytes, segmentBytes } from "../../../../src/data/peers/change-log.ts";
import { maxSharedPayloadBytes } from "../../../../src/data/shared-state.ts";
import fc from "../../../properties.ts";

/** What a reader that begins at the offset reads, and where it then is. */
function readOn(log: ChangeLog, offset: number): { readonly payloads: string[]; readonly at: number } | undefined {
  const payloads: string[] = [];
  for (let at = offset; ; ) {
    const bytes = log.read(at);
    if (bytes === undefined) return undefined;
    if (bytes.length === 0) return { payloads, at };
    for (let entry = 0; entry < bytes.length; ) {
      const length = bytes.readUInt32LE(entry);
      payloads.push(bytes.toString("latin1", entry + entryHeaderBytes, entry + entryHeaderBytes + length));
      entry += entryHeaderBytes + length;
    }
    at += bytes.length;
  }
}

describe("the change log", () => {
  it("gives each reader everything that was written since, whole and in order, or says that it cannot", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(20_000), { maxLength: 60 }), (sizes) => {
        const log = new ChangeLog(4 * segmentBytes);
        const offsets: number[] = [];
        const written: string[] = [];
        sizes.forEach((size, index) => {
          offsets.push(log.head);
          const text = String.fromCharCode(33 + (index % 90)).repeat(size);
          expect(log.append(7, Buffer.from(text, "latin1"), size)).toBe(true);
          written.push(text);
        });
        offsets.forEach((offset, index) => {
          const read = readOn(log, offset);
          if (offset < log.first) expect(read).toBeUndefined();
          else expect(read).toEqual({ payloads: written.slice(index), at: log.head });
        });
        expect(log.head - log.first).toBeLessThanOrEqual(4 * segmentBytes);
      }),
      { numRuns: 40 },
    );
  });

  it("keeps what a reader was given as it was", () => {
    const log = new ChangeLog(2 * segmentBytes);
    log.append(1, Buffer.from("first"), 5);
    const given = log.read(0);
    for (let i = 0; i < 40; i++) log.append(1, Buffer.alloc(10_000, 88), 10_000);
    expect(log.read(0)).toBeUndefined();
    expect(given?.toString("latin1", entryHeaderBytes)).toBe("first");
  });

  it("takes the beginning of a buffer, and nothing that is too long", () => {
    const log = new ChangeLog();
    expect(log.append(1, Buffer.alloc(maxSharedPayloadBytes + 1), maxSharedPayloadBytes + 1)).toBe(false);
    expect(log.append(1, Buffer.from("abcdef"), 3)).toBe(true);
    expect(readOn(log, 0)?.payloads).toEqual(["abc"]);
  });

  it("has nothing before it begins or beyond its head", () => {
    const log = new ChangeLog();
    expect(log.read(0)).toHaveLength(0);
    log.append(1, Buffer.from("a"), 1);
    expect(log.read(log.head + 1)).toBeUndefined();
  });
});
