import { describe, expect, it } from "@jest/globals";
import { copyInSlices } from "../../../src/tokens/thread/sliced-copy.ts";

const mebibyte = 1024 * 1024;

function pattern(length: number): Buffer {
  const body = Buffer.alloc(length);
  for (let at = 0; at < length; at += 997) body[at] = at % 251;
  return body;
}

describe("a copy of a body", () => {
  it.each([0, 1, 1000, 512 * 1024])("of %i bytes is there at once", (length) => {
    const body = pattern(length);
    let copy: Uint8Array | undefined;
    copyInSlices(body, (made) => {
      copy = made;
    });
    expect(Buffer.from(copy ?? []).equals(body)).toBe(true);
    body.fill(0xff);
    expect(length > 0 && copy?.[0] === 0xff).toBe(false);
  });

  it("of megabytes is made over several turns of the loop, which others have their share of", async () => {
    const body = pattern(5 * mebibyte + 13);
    let turns = 0;
    let isDone = false;
    const count = (): void => {
      turns++;
      if (!isDone) setImmediate(count);
    };
    setImmediate(count);
    const copy = await new Promise<Uint8Array>((resolve) => {
      copyInSlices(body, resolve);
    });
    isDone = true;
    expect(turns).toBeGreaterThanOrEqual(10);
    expect(Buffer.from(copy).equals(body)).toBe(true);
    expect(copy.byteOffset).toBe(0);
    expect(copy.buffer.byteLength).toBe(body.length);
  });

  it("is not finished once nobody wants it", async () => {
    let isCopied = false;
    copyInSlices(pattern(4 * mebibyte), () => {
      isCopied = true;
    }).cancel();
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(isCopied).toBe(false);
  });
});
