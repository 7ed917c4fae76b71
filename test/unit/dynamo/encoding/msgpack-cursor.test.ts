import { describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { MsgpackCursor } from "../../../../src/dynamo/encoding/msgpack-cursor.ts";
import { MalformedMessage } from "../../../../src/dynamo/encoding/value-reader.ts";
import fc from "../../../properties.ts";

type Value = null | boolean | number | bigint | string | Uint8Array | Value[] | { [key: string]: Value };

const values = fc.letrec<{ value: Value }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constant(null),
    fc.boolean(),
    fc.integer(),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }),
    fc.double(),
    fc.string(),
    fc.string({ minLength: 300, maxLength: 310 }),
    fc.uint8Array({ maxLength: 300 }),
    fc.array(tie("value"), { maxLength: 20 }),
    fc.dictionary(fc.string(), tie("value"), { maxKeys: 18 }),
  ),
})).value;

function cursorOver(bytes: Uint8Array): MsgpackCursor {
  const cursor = new MsgpackCursor();
  cursor.reset(Buffer.from(bytes));
  return cursor;
}

describe("the msgpack cursor", () => {
  it("passes over any value to its very end, and over none that is cut short", () => {
    fc.assert(
      fc.property(values, (value) => {
        const bytes = encode(value, { useBigInt64: true });
        const cursor = cursorOver(bytes);
        cursor.skip();
        expect(cursor.at).toBe(bytes.length);
        for (let length = 0; length < Math.min(bytes.length, 40); length++) {
          expect(() => cursorOver(bytes.subarray(0, length)).skip()).toThrow(MalformedMessage);
        }
      }),
      { numRuns: 60 },
    );
  });

  it("reads every integer of 64 bits exactly", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }), fc.boolean(), (value, asNumber) => {
        const isSafe = value >= -(2n ** 31n) && value < 2n ** 31n;
        const cursor = cursorOver(encode(asNumber && isSafe ? Number(value) : value, { useBigInt64: true }));
        cursor.u64();
        expect((BigInt(cursor.high) << 32n) | BigInt(cursor.low)).toBe(BigInt.asUintN(64, value));
        expect(cursor.isAtEnd).toBe(true);
      }),
    );
  });

  it("reads texts and byte strings of every length's form", () => {
    for (const size of [0, 1, 31, 32, 255, 256, 65_535, 65_536]) {
      const text = cursorOver(encode("x".repeat(size)));
      text.text();
      expect(text.string()).toBe("x".repeat(size));
      const bytes = cursorOver(encode(new Uint8Array(size).fill(7)));
      bytes.binary();
      expect(bytes.slice()).toEqual(Buffer.alloc(size, 7));
    }
  });

  it.each([
    ["a reserved byte", "c1"],
    ["an array longer than the payload", "dd7fffffff01"],
    ["a map longer than the payload", "df7fffffffa161"],
    ["nothing", ""],
  ])("refuses %s", (_what, hex) => {
    expect(() => cursorOver(Buffer.from(hex, "hex")).skip()).toThrow(MalformedMessage);
  });
});
