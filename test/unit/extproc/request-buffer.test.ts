import { describe, expect, it } from "@jest/globals";
import { RequestBuffer } from "../../../src/extproc/request-buffer.ts";
import fc from "../../properties.ts";

describe("the request buffer", () => {
  it("hands a single chunk out as the same view", () => {
    const buffer = new RequestBuffer();
    const chunk = Buffer.allocUnsafeSlow(5_000);
    buffer.append(chunk);
    buffer.append(Buffer.alloc(0));
    expect(buffer.take()).toBe(chunk);
    expect(buffer.length).toBe(0);
  });

  it("does not keep a receive slab alive that is several times the chunk", () => {
    const slab = Buffer.allocUnsafeSlow(1_000_000);
    const buffer = new RequestBuffer();
    buffer.append(slab.subarray(10, 110));
    expect(buffer.take().buffer.byteLength).toBeLessThan(100_000);
  });

  it("is the concatenation of its chunks, however they are cut", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom(0, 1, 2, 100, 4_095, 4_096, 10_000, 16_384), fc.nat(255)), { maxLength: 30 }),
        (sizes) => {
          const chunks = sizes.map(([size, byte]) => Buffer.alloc(size, byte));
          const buffer = new RequestBuffer();
          for (const chunk of chunks) buffer.append(chunk);
          const expected = Buffer.concat(chunks);
          expect(buffer.length).toBe(expected.length);
          expect(buffer.take().equals(expected)).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });

  it("costs memory in proportion to a body that is sent byte by byte", () => {
    const buffer = new RequestBuffer();
    const before = process.memoryUsage().arrayBuffers;
    const slab = Buffer.alloc(200_000, "a");
    for (let i = 0; i < slab.length; i++) buffer.append(slab.subarray(i, i + 1));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2_000_000);
    expect(buffer.take().equals(slab)).toBe(true);
  });
});
