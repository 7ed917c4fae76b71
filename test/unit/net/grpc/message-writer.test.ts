import { describe, expect, it } from "@jest/globals";
import { MessageWriter } from "../../../../src/net/grpc/message-writer.ts";
import fc from "../../../properties.ts";

interface Write {
  readonly bytes: Uint8Array;
  readonly hasCallback: boolean;
}

/** Adds messages, writes them, and returns the writes; all of them must lie within one cork if there are several. */
function writesOf(messages: readonly (readonly Uint8Array[])[]): Write[] {
  const writes: Write[] = [];
  let corked = 0;
  const writer = new MessageWriter();
  for (const parts of messages)
    writer.add(
      parts,
      parts.reduce((sum, part) => sum + part.length, 0),
    );
  writer.writeTo(
    {
      cork: () => corked++,
      uncork: () => corked--,
      write: (bytes, written) => writes.push({ bytes: Uint8Array.from(bytes), hasCallback: written !== undefined }),
    },
    () => {},
  );
  expect(corked).toBe(0);
  expect(writer.queuedBytes).toBe(0);
  return writes;
}

function framed(parts: readonly Uint8Array[]): Buffer {
  const message = Buffer.concat(parts);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

describe("the message writer", () => {
  it("writes the same bytes whatever it joins, and calls back with the last write only", () => {
    const size = fc.constantFrom(0, 1, 20, 300, 4095, 4096, 9000, 20_000);
    const messages = fc.array(fc.array(size, { maxLength: 3 }), { minLength: 1, maxLength: 5 });
    fc.assert(
      fc.property(messages, (sizes) => {
        const contents = sizes.map((parts, index) => parts.map((bytes) => Buffer.alloc(bytes, bytes + index)));
        const writes = writesOf(contents);
        expect(Buffer.concat(writes.map(({ bytes }) => bytes)).equals(Buffer.concat(contents.map(framed)))).toBe(true);
        expect(writes.map(({ hasCallback }) => hasCallback)).toEqual(
          writes.map((_, index) => index === writes.length - 1),
        );
      }),
      { numRuns: 300 },
    );
  });

  it("joins small messages into one write", () => {
    expect(writesOf(Array.from({ length: 50 }, () => [Buffer.from("head"), Buffer.alloc(200)]))).toHaveLength(1);
  });

  it("leaves large parts uncopied", () => {
    const body = Buffer.alloc(62_000);
    const written: Uint8Array[] = [];
    const writer = new MessageWriter();
    writer.add([Buffer.from("head"), body], body.length + 4);
    writer.add([Buffer.from("head"), body], body.length + 4);
    writer.writeTo({ cork: () => {}, uncork: () => {}, write: (bytes) => written.push(bytes) }, undefined);
    expect(written.map((bytes) => bytes === body)).toEqual([false, true, false, true]);
  });
});
