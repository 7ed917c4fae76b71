/** The hand-written codec against the generated one, on arbitrary messages and replies. */
import { describe, expect, it } from "@jest/globals";
import { generatedCodec } from "../../../../src/extproc/codec/generated.ts";
import { viewsCodec } from "../../../../src/extproc/codec/views.ts";
import type { Codec, DynamicMetadata, HeaderPair, Incoming, MetadataValue } from "../../../../src/extproc/messages.ts";
import { ProcessingResponse } from "../../../../src/gen/external_processor.ts";
import fc from "../../../properties.ts";
import {
  delimitedField,
  headerNames,
  keys,
  namespaces,
  processingRequest,
  varint,
  varintField,
} from "./arbitrary-messages.ts";

/** Everything that can be asked of a decoded message. */
function contentOf(incoming: Incoming): unknown {
  const headers: HeaderPair[] = [];
  incoming.forEachHeader((name, value) => headers.push([name, value]));
  return {
    kind: incoming.kind,
    endOfStream: incoming.endOfStream,
    body: incoming.body.toString("hex"),
    protocolConfig: incoming.protocolConfig,
    observabilityMode: incoming.observabilityMode,
    headers,
    headersSizeBytes: incoming.headersSizeBytes,
    lookups: headerNames.map((name) => incoming.header(name)),
    metadata: namespaces.map((namespace) => keys.map((key) => incoming.metadata(namespace, key))),
  };
}

function outcomeOf(codec: Codec, bytes: Uint8Array): unknown {
  try {
    return contentOf(codec.decode(Buffer.from(bytes)));
  } catch (error) {
    const { name } = error as { name?: unknown };
    if (name !== "CodecError") throw error;
    return name;
  }
}

describe("decoding", () => {
  it("reads the same from any ProcessingRequest with both codecs", () => {
    fc.assert(
      fc.property(processingRequest, (bytes) => {
        expect(outcomeOf(viewsCodec, bytes)).toEqual(outcomeOf(generatedCodec, bytes));
      }),
      { numRuns: 600 },
    );
  });

  it("reads a message cut at any byte as the generated codec does, or refuses it", () => {
    fc.assert(
      fc.property(processingRequest, (bytes) => {
        for (let length = 0; length < bytes.length; length++) {
          const cut = bytes.subarray(0, length);
          const views = outcomeOf(viewsCodec, cut);
          if (views !== "CodecError") expect(views).toEqual(outcomeOf(generatedCodec, cut));
        }
      }),
      { numRuns: 40 },
    );
  });

  it.each([
    ["views", viewsCodec],
    ["generated", generatedCodec],
  ])("never throws anything but CodecError for random bytes (%s)", (_name, codec) => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        outcomeOf(codec, bytes);
      }),
      { numRuns: 1500 },
    );
  });

  it("never throws anything but CodecError when a byte of a message is changed", () => {
    fc.assert(
      fc.property(processingRequest, fc.nat(), fc.nat(255), (bytes, at, byte) => {
        if (bytes.length > 0) bytes[at % bytes.length] = byte;
        outcomeOf(viewsCodec, bytes);
      }),
      { numRuns: 1500 },
    );
  });

  it("keeps the body as a view of the message", () => {
    const message = delimitedField(4, Buffer.concat([varintField(2, 1), delimitedField(1, Buffer.from("payload"))]));
    const { body } = viewsCodec.decode(message);
    expect(body.toString()).toBe("payload");
    expect(body.buffer).toBe(message.buffer);
  });

  it.each([
    ["a group", Buffer.from([0xa3, 0x01, 0xa4, 0x01])],
    ["a group within a header", delimitedField(2, delimitedField(1, delimitedField(1, Buffer.from([0xa3, 0x01]))))],
    ["field number zero", Buffer.from([0x02, 0x00])],
    ["wire type six", Buffer.from([0xa6, 0x01])],
    ["a length beyond the end", Buffer.from([0x22, 0x05, 0x00])],
    ["a length beyond its parent", delimitedField(4, Buffer.from([0x0a, 0x03, 0x61]))],
    ["a length of 2^63", Buffer.concat([Buffer.from([0x22]), Buffer.alloc(8, 0xff), Buffer.from([0x7f])])],
    ["a varint of eleven bytes", Buffer.concat([Buffer.from([0x50]), Buffer.alloc(10, 0x80), Buffer.from([0])])],
    ["malformed metadata", delimitedField(8, delimitedField(1, Buffer.from([0x12, 0x09])))],
  ])("refuses %s", (_name, bytes) => {
    expect(() => viewsCodec.decode(bytes)).toThrow(expect.objectContaining({ code: "MALFORMED_MESSAGE" }));
  });

  it("refuses metadata nested a thousand deep instead of exhausting the stack", () => {
    let value: Buffer = delimitedField(3, Buffer.from("x"));
    for (let depth = 0; depth < 1000; depth++) value = delimitedField(6, delimitedField(1, value));
    const message = delimitedField(
      8,
      delimitedField(1, delimitedField(2, delimitedField(1, delimitedField(2, value)))),
    );
    expect(outcomeOf(viewsCodec, message)).toBe("CodecError");
    expect(outcomeOf(generatedCodec, message)).toBe("CodecError");
  });

  it.each([
    ["views", viewsCodec],
    ["generated", generatedCodec],
  ])("prefers raw_value to value, and replaces invalid UTF-8 (%s)", (_name, codec) => {
    const header = (...fields: Buffer[]): Buffer => delimitedField(1, Buffer.concat(fields));
    const message = delimitedField(
      2,
      delimitedField(
        1,
        Buffer.concat([
          header(delimitedField(1, Buffer.from("a")), delimitedField(2, Buffer.from("value"))),
          header(
            delimitedField(1, Buffer.from("A")),
            delimitedField(3, Buffer.from("raw")),
            delimitedField(2, Buffer.from("v")),
          ),
          header(delimitedField(1, Buffer.from("b")), delimitedField(3, Buffer.from([0x61, 0xff, 0x62]))),
        ]),
      ),
    );
    const seen: HeaderPair[] = [];
    codec.decode(message).forEachHeader((name, text) => seen.push([name, text]));
    expect(seen).toEqual([
      ["a", "value"],
      ["a", "raw"],
      ["b", "a\ufffdb"],
    ]);
    expect(codec.decode(message).header("a")).toBe("raw");
  });

  it("lets a visitor decode another message in between", () => {
    const message = delimitedField(
      2,
      delimitedField(
        1,
        Buffer.concat([
          delimitedField(1, delimitedField(1, Buffer.from("a"))),
          delimitedField(1, delimitedField(1, Buffer.from("b"))),
        ]),
      ),
    );
    const names: string[] = [];
    viewsCodec.decode(message).forEachHeader((name) => {
      names.push(name);
      viewsCodec.decode(delimitedField(4, delimitedField(1, Buffer.alloc(500))));
    });
    expect(names).toEqual(["a", "b"]);
  });

  it("takes a length of five bytes that is written long", () => {
    const padded = Buffer.concat([
      Buffer.from([0x22]),
      Buffer.from([0x82, 0x80, 0x80, 0x80, 0x00]),
      varint(0x10),
      varint(1),
    ]);
    expect(outcomeOf(viewsCodec, padded)).toEqual(outcomeOf(generatedCodec, padded));
  });
});

const headerPair: fc.Arbitrary<HeaderPair> = fc.tuple(
  fc.string({ maxLength: 20 }),
  fc.string({ unit: "grapheme", maxLength: 30 }),
);
const headerPairs = fc.array(headerPair, { maxLength: 5 });
const names = fc.array(fc.string({ maxLength: 12 }), { maxLength: 3 });
const safeKey = fc.string({ maxLength: 8 }).filter((key) => key !== "__proto__");
const metadataValue: fc.Arbitrary<MetadataValue> = fc.oneof(
  fc.string({ unit: "grapheme", maxLength: 12 }),
  fc.double({ noNaN: true }),
  fc.dictionary(safeKey, fc.oneof(fc.string(), fc.double({ noNaN: true })), { maxKeys: 2 }),
);
const dynamicMetadata: fc.Arbitrary<DynamicMetadata> = fc.dictionary(
  safeKey,
  fc.dictionary(safeKey, metadataValue, { maxKeys: 3 }),
  {
    maxKeys: 2,
  },
);
const headerChanges = fc.record({
  setHeaders: headerPairs,
  removeHeaders: names,
  clearRouteCache: fc.boolean(),
  dynamicMetadata: fc.option(dynamicMetadata, { nil: undefined }),
});
const phase = fc.constantFrom("request" as const, "response" as const);
const parts = fc.array(
  fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes)),
  { maxLength: 3 },
);
const mutation = fc.oneof(
  fc.record({ kind: fc.constant("streamed" as const), parts, endOfStream: fc.boolean() }),
  fc.record({ kind: fc.constant("replace" as const), parts }),
  fc.record({ kind: fc.constant("unchanged" as const) }),
);

function decoded(reply: readonly Uint8Array[]): ProcessingResponse {
  return ProcessingResponse.decode(Buffer.concat(reply));
}

describe("encoding", () => {
  it("writes header replies that decode to the same with both codecs", () => {
    fc.assert(
      fc.property(phase, headerChanges, (side, changes) => {
        const reply = { phase: side, ...changes };
        expect(decoded(viewsCodec.encodeHeaders(reply))).toEqual(decoded(generatedCodec.encodeHeaders(reply)));
      }),
      { numRuns: 400 },
    );
  });

  it("writes body replies that decode to the same with both codecs", () => {
    fc.assert(
      fc.property(phase, mutation, fc.option(headerChanges, { nil: undefined }), (side, change, headers) => {
        const reply = { phase: side, mutation: change, headers };
        expect(decoded(viewsCodec.encodeBody(reply))).toEqual(decoded(generatedCodec.encodeBody(reply)));
      }),
      { numRuns: 400 },
    );
  });

  it("writes immediate replies that decode to the same with both codecs", () => {
    const body = fc.uint8Array({ maxLength: 300 });
    fc.assert(
      fc.property(
        fc.integer({ min: 100, max: 599 }),
        headerPairs,
        body,
        fc.string(),
        (status, setHeaders, bytes, details) => {
          const reply = { status, setHeaders, body: bytes, details };
          expect(decoded(viewsCodec.encodeImmediate(reply))).toEqual(decoded(generatedCodec.encodeImmediate(reply)));
        },
      ),
      { numRuns: 300 },
    );
  });

  it.each(["request", "response"] as const)("writes the same %s trailers reply", (side) => {
    expect(decoded(viewsCodec.encodeTrailers(side))).toEqual(decoded(generatedCodec.encodeTrailers(side)));
  });

  it("leaves body parts uncopied", () => {
    const part = Buffer.from("chunk");
    const reply = viewsCodec.encodeBody({
      phase: "response",
      mutation: { kind: "streamed", parts: [part], endOfStream: true },
      headers: undefined,
    });
    expect(reply[1]).toBe(part);
  });

  it("says explicitly that a header overwrites, in raw_value only", () => {
    const [option] = setHeadersOf(decoded(viewsCodec.encodeHeaders(headersReply([["a", "b"]]))));
    expect(option).toEqual({
      header: { key: "a", value: "", rawValue: Buffer.from("b") },
      append: undefined,
      appendAction: 2,
      keepEmptyValue: false,
    });
  });

  it("keeps earlier replies whole while later ones, some larger than its slab, are written", () => {
    const replies = Array.from({ length: 300 }, (_, index) => {
      const value = `${index}`.repeat(index % 50 === 0 ? 60_000 : 200);
      return { value, bytes: viewsCodec.encodeHeaders(headersReply([["h", value]])) };
    });
    for (const { value, bytes } of replies) {
      expect(setHeadersOf(decoded(bytes))[0]?.header?.rawValue.toString() === value).toBe(true);
    }
  });
});

function headersReply(setHeaders: readonly HeaderPair[]): Parameters<Codec["encodeHeaders"]>[0] {
  return { phase: "request", setHeaders, removeHeaders: [], clearRouteCache: false, dynamicMetadata: undefined };
}

function setHeadersOf({ response }: ProcessingResponse) {
  return response?.$case === "requestHeaders" ? (response.value.response?.headerMutation?.setHeaders ?? []) : [];
}
