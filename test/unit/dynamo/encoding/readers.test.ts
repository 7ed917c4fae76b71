/** Both value readers against the libraries they stand in for: the same values, every integer exact, and no bytes that make them read beyond the end. */
import { describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { JsonReader } from "../../../../src/dynamo/encoding/json-reader.ts";
import { MsgpackReader } from "../../../../src/dynamo/encoding/msgpack-reader.ts";
import { MsgpackWriter } from "../../../../src/dynamo/encoding/msgpack-writer.ts";
import { payloadCodecOf } from "../../../../src/dynamo/encoding/payload-codec.ts";
import {
  bigintOf,
  MalformedMessage,
  rangeText,
  readBigInt,
  readInteger,
  readString,
  type ValueReader,
} from "../../../../src/dynamo/encoding/value-reader.ts";
import { encodeExactJson } from "../../../../src/dynamo/record-json.ts";
import fc from "../../../properties.ts";

const u64 = fc.oneof(
  fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
  fc.constantFrom(0n, 127n, 128n, 255n, 256n, 65_535n, 65_536n, 0xffff_ffffn, 0x1_0000_0000n, 0xffff_ffff_ffff_ffffn),
);

interface Codec {
  readonly name: string;
  readonly create: () => ValueReader;
  readonly encode: (value: unknown) => Uint8Array;
}

const codecs: readonly Codec[] = [
  { name: "msgpack", create: () => new MsgpackReader(), encode: (value) => encode(value, { useBigInt64: true }) },
  { name: "json", create: () => new JsonReader(), encode: (value) => Buffer.from(encodeExactJson(value)) },
];

const anyValue = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.array(tie("value"), { maxLength: 5 }),
    fc.dictionary(fc.string(), tie("value"), { maxKeys: 5 }),
  ),
})).value;

describe.each(codecs)("the $name reader", ({ create, encode: encodeValue }) => {
  it("reads every u64 exactly", () => {
    const reader = create();
    fc.assert(
      fc.property(u64, (value) => {
        reader.open(encodeValue([value]));
        reader.enterArray();
        expect(reader.nextItem()).toBe(true);
        expect(readBigInt(reader)).toBe(value);
        expect(reader.nextItem()).toBe(false);
      }),
    );
  });

  it("steps over any value and stands behind it", () => {
    const reader = create();
    fc.assert(
      fc.property(anyValue, (value) => {
        const bytes = encodeValue([value, "next"]);
        reader.open(bytes);
        reader.enterArray();
        reader.nextItem();
        reader.skip();
        expect(reader.nextItem()).toBe(true);
        expect(readString(reader)).toBe("next");
        expect(reader.nextItem()).toBe(false);
        expect(reader.at).toBe(bytes.length);
      }),
      { numRuns: 200 },
    );
  });

  it("walks keys in order with their values", () => {
    const reader = create();
    fc.assert(
      fc.property(fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), u64), (map) => {
        reader.open(encodeValue(map));
        const seen: Record<string, bigint> = {};
        reader.enterMap();
        while (reader.nextKey()) {
          const key = rangeText(reader);
          seen[key] = readBigInt(reader);
        }
        expect(seen).toEqual({ ...map });
      }),
    );
  });

  it("throws MalformedMessage for every prefix of a message, and for random bytes, but nothing else", () => {
    const reader = create();
    fc.assert(
      fc.property(anyValue, fc.uint8Array({ maxLength: 40 }), (value, noise) => {
        const bytes = encodeValue({ key: [value, "end"] });
        for (const part of [...prefixes(bytes), noise]) {
          reader.open(part);
          try {
            reader.skip();
          } catch (error) {
            expect(error).toBeInstanceOf(MalformedMessage);
            continue;
          }
          expect(part).toBe(noise);
        }
      }),
      { numRuns: 50 },
    );
  });

  it("refuses negative numbers, fractions and numbers above 2^64", () => {
    const reader = create();
    const faults = [[-1], [1.5], [-(2 ** 40)]];
    for (const fault of faults) {
      reader.open(encodeValue(fault));
      reader.enterArray();
      reader.nextItem();
      expect(() => reader.readU64()).toThrow(MalformedMessage);
    }
    reader.open(encodeValue([2n ** 53n]));
    reader.enterArray();
    reader.nextItem();
    expect(() => readInteger(reader)).toThrow("above 2^53");
  });

  it("enters no more containers than its depth, and steps over deeper ones or refuses them", () => {
    const reader = create();
    const deep = (depth: number): unknown => (depth === 0 ? 1 : [deep(depth - 1)]);
    reader.open(encodeValue(deep(80)));
    expect(() => {
      for (;;) {
        reader.enterArray();
        reader.nextItem();
      }
    }).toThrow("nested deeper");
    const bytes = encodeValue(deep(80));
    reader.open(bytes);
    try {
      reader.skip();
      expect(reader.at).toBe(bytes.length);
    } catch (error) {
      expect(error).toMatchObject({ code: "MALFORMED", message: expect.stringContaining("nested deeper") });
    }
  });
});

/** More keys and values than anybody reads, in ways that each have a path of their own. */
const floods: readonly (readonly [name: string, codec: "msgpack" | "json", bytes: () => Uint8Array])[] = [
  [
    "values to skip",
    "msgpack",
    () => Buffer.concat([Buffer.of(0x81, 0xa0, 0xdd, 0, 0x20, 0, 0), Buffer.alloc(1 << 21)]),
  ],
  [
    "keys",
    "msgpack",
    () => Buffer.concat([Buffer.of(0xdf, 0, 0x10, 0, 1), Buffer.alloc(1 << 22, Buffer.of(0xa0, 0x00))]),
  ],
  ["values to skip", "json", () => Buffer.from(`{"":[${"0,".repeat(1 << 20)}0]}`)],
  ["keys", "json", () => Buffer.from(`{${'"":0,'.repeat(1 << 20)}"":0}`)],
  ["white space", "json", () => Buffer.from(`{"":${" ".repeat(1 << 17)}0}`)],
  ["text", "json", () => Buffer.from(`{"":"${"x".repeat(1 << 24)}"}`)],
  ["digits", "json", () => Buffer.from(`{"":${"1".repeat(1 << 17)}}`)],
];

describe("a message with more than anybody asked for", () => {
  it.each(floods)("is malformed: %s in %s", (_name, codec, bytes) => {
    const reader = codec === "json" ? new JsonReader() : new MsgpackReader();
    const message = bytes();
    reader.open(message);
    reader.enterMap();
    expect(() => {
      while (reader.nextKey()) reader.skip();
    }).toThrow(MalformedMessage);
    expect(reader.at).toBeLessThan(message.length);
  });

  it.each(codecs)("may go on where its reader says that it has time ($name)", ({ create, encode: encodeValue }) => {
    const reader = create();
    reader.open(encodeValue(Array.from({ length: 300 }, () => Array.from({ length: 5000 }, () => 0))));
    reader.enterArray();
    let items = 0;
    for (; reader.nextItem(); items++) {
      reader.work = 0;
      reader.skip();
    }
    expect(items).toBe(300);
  });
});

function prefixes(bytes: Uint8Array): Uint8Array[] {
  return Array.from({ length: Math.min(bytes.length, 200) }, (_, length) => bytes.subarray(0, length));
}

describe("the msgpack reader", () => {
  it("refuses a container that promises more items than there are bytes, before reading any", () => {
    const reader = new MsgpackReader();
    reader.open(Uint8Array.of(0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3));
    expect(() => reader.enterArray()).toThrow("too few bytes");
  });
});

describe("the JSON reader", () => {
  it("refuses 2^64 and reads what stands just below", () => {
    const reader = new JsonReader();
    reader.open(Buffer.from("18446744073709551616"));
    expect(() => reader.readU64()).toThrow("above 2^64");
    reader.open(Buffer.from("18446744073709551615"));
    reader.readU64();
    expect(bigintOf(reader.low, reader.high)).toBe(0xffff_ffff_ffff_ffffn);
  });
});

describe("the msgpack writer", () => {
  it("writes what the library reads, byte for byte as the library writes it", () => {
    const writer = new MsgpackWriter();
    fc.assert(
      fc.property(
        fc.string({ maxLength: 400 }),
        u64,
        fc.uint8Array({ maxLength: 400 }),
        fc.boolean(),
        (text, number, bytes, flag) => {
          writer.reset();
          writer.array(6);
          writer.string(text);
          writer.bigint(number);
          writer.binary(bytes);
          writer.boolean(flag);
          writer.nil();
          writer.map(0);
          const narrow = number <= 0xffff_ffffn ? Number(number) : number;
          expect(Buffer.from(writer.finish())).toEqual(
            Buffer.from(encode([text, narrow, bytes, flag, null, {}], { useBigInt64: true })),
          );
        },
      ),
    );
  });
});

describe("payloadCodecOf", () => {
  it.each([
    ['{"a":1}', "json"],
    [" \n[1]", "json"],
    ['"sentinel"', "json"],
  ] as const)("takes %j for %s", (text, codec) => {
    expect(payloadCodecOf(Buffer.from(text))).toBe(codec);
  });

  it("takes maps and arrays of msgpack for msgpack", () => {
    for (const value of [{}, [], { a: 1 }, Array.from({ length: 100 }, () => 1)])
      expect(payloadCodecOf(encode(value))).toBe("msgpack");
  });
});
