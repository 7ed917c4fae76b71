/**
 * Wire bytes of arbitrary ProcessingRequests, written field by field so that fields come in any order, are repeated, and have unknown
 * ones of every wire type between them.
 */
import fc from "../../../properties.ts";

export function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 128) | 0x80);
    rest = Math.floor(rest / 128);
  }
  return Buffer.from([...bytes, rest]);
}

export function varintField(field: number, value: number): Buffer {
  return Buffer.concat([varint(field * 8), varint(value)]);
}

export function delimitedField(field: number, content: Uint8Array): Buffer {
  return Buffer.concat([varint(field * 8 + 2), varint(content.length), content]);
}

/** Field numbers that no message of the subset uses. */
const unknownNumber = fc.integer({ min: 20, max: 5000 });

const unknownField = fc.oneof(
  fc.tuple(unknownNumber, fc.nat()).map(([field, value]) => varintField(field, value)),
  fc.tuple(unknownNumber, fc.uint8Array({ maxLength: 40 })).map(([field, bytes]) => delimitedField(field, bytes)),
  fc
    .tuple(unknownNumber, fc.uint8Array({ minLength: 8, maxLength: 8 }))
    .map(([field, bytes]) => Buffer.concat([varint(field * 8 + 1), bytes])),
  fc
    .tuple(unknownNumber, fc.uint8Array({ minLength: 4, maxLength: 4 }))
    .map(([field, bytes]) => Buffer.concat([varint(field * 8 + 5), bytes])),
);

/** A message of these fields in any order, some repeated, with unknown fields between. */
function messageOf(...fields: fc.Arbitrary<Buffer>[]): fc.Arbitrary<Buffer> {
  const member = fc.oneof(
    { arbitrary: unknownField, weight: 1 },
    ...fields.map((arbitrary) => ({ arbitrary, weight: 3 })),
  );
  return fc.array(member, { maxLength: fields.length + 3 }).map((parts) => Buffer.concat(parts));
}

function field(number: number, content: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Buffer> {
  return content.map((bytes) => delimitedField(number, bytes));
}

function flag(number: number): fc.Arbitrary<Buffer> {
  return fc.constantFrom(0, 1, 2, 300).map((value) => varintField(number, value));
}

export const headerNames = ["x-a", ":path", "content-type", "x-gateway-destination-endpoint", "b"];

const headerKey = fc
  .tuple(fc.constantFrom(...headerNames), fc.boolean())
  .map(([name, upper]) => Buffer.from(upper ? name.toUpperCase() : name));
/** Invalid UTF-8 included, a byte order mark at the start excluded: ts-proto's reader drops it from `value`. */
const text = fc.uint8Array({ maxLength: 24 }).filter((bytes) => bytes[0] !== 0xef);
const rawText = fc.uint8Array({ maxLength: 24 });

const headerValue = messageOf(field(1, headerKey), field(2, text.map(toValidUtf8)), field(3, rawText));
const headerMap = messageOf(field(1, headerValue), field(1, headerValue), field(1, headerValue));
const httpHeaders = messageOf(field(1, headerMap), flag(3));
const httpBody = messageOf(field(1, fc.uint8Array({ maxLength: 300 })), flag(2), flag(3), flag(4));
const httpTrailers = messageOf(field(1, headerMap));

export const namespaces = ["envoy.lb", "envoy.lb.subset_hint", "", "n"];
export const keys = ["x-gateway-destination-endpoint-subset", "k", ""];

const plainText = fc.string({ maxLength: 12 }).map((value) => Buffer.from(value));
const leafValue = fc.oneof(
  field(3, plainText),
  flag(4),
  fc.constant(varintField(1, 0)),
  fc.double({ noNaN: true }).map((value) => {
    const bytes = Buffer.alloc(9);
    bytes[0] = 0x11;
    bytes.writeDoubleLE(value, 1);
    return bytes;
  }),
);
const listValue = fc.array(field(1, leafValue), { maxLength: 4 }).map((items) => Buffer.concat(items));
const innerStruct = fc
  .array(
    field(
      1,
      fc
        .tuple(plainText, leafValue)
        .map(([key, value]) => Buffer.concat([delimitedField(1, key), delimitedField(2, value)])),
    ).filter((entry) => !entry.includes("__proto__")),
    { maxLength: 2 },
  )
  .map((entries) => Buffer.concat(entries));
/** Never empty: ts-proto forgets an entry whose value holds nothing, and readers may differ there. */
const value = fc
  .array(fc.oneof(leafValue, field(6, listValue), field(5, innerStruct)), { minLength: 1, maxLength: 2 })
  .map((members) => Buffer.concat(members));

function mapEntry(name: fc.Arbitrary<string>, content: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> {
  return fc
    .tuple(name, content, fc.boolean())
    .map(([key, bytes, swapped]) =>
      swapped
        ? Buffer.concat([delimitedField(2, bytes), delimitedField(1, Buffer.from(key))])
        : Buffer.concat([delimitedField(1, Buffer.from(key)), delimitedField(2, bytes)]),
    );
}

const struct = messageOf(field(1, mapEntry(fc.constantFrom(...keys), value)));
const metadata = messageOf(field(1, mapEntry(fc.constantFrom(...namespaces), struct)));
const protocolConfig = messageOf(
  fc.constantFrom(0, 1, 2, 3, 4, 5, 9).map((mode) => varintField(1, mode)),
  fc.constantFrom(0, 1, 2, 3, 4, 5, 9).map((mode) => varintField(2, mode)),
);

export const processingRequest = messageOf(
  field(2, httpHeaders),
  field(3, httpHeaders),
  field(4, httpBody),
  field(5, httpBody),
  field(6, httpTrailers),
  field(7, httpTrailers),
  field(8, metadata),
  flag(10),
  field(11, protocolConfig),
);

function toValidUtf8(bytes: Uint8Array): Buffer {
  return Buffer.from(Buffer.from(bytes).toString());
}
