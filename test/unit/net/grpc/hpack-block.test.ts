import { describe, expect, it } from "@jest/globals";
import { withValidAuthority } from "../../../../src/net/grpc/hpack-block.ts";
import { decodeHuffman } from "../../../../src/net/grpc/hpack-text.ts";

const plain = (text: string) => Buffer.concat([Buffer.from([text.length]), Buffer.from(text)]);
const coded = (bytes: string) => {
  const code = Buffer.from(bytes, "hex");
  return Buffer.concat([Buffer.from([0x80 | code.length]), code]);
};
/** Indexed: ":method: POST". */
const method = Buffer.from([0x83]);
const literal = (first: number, ...parts: readonly Buffer[]) => Buffer.concat([Buffer.from([first]), ...parts]);

describe("decodeHuffman", () => {
  // RFC 7541 appendix C.4 and C.6.
  it.each([
    ["f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"],
    ["a8eb10649cbf", "no-cache"],
    ["25a849e95ba97d7f", "custom-key"],
    ["25a849e95bb8e8b4bf", "custom-value"],
    ["6402", "302"],
    ["aec3771a4b", "private"],
    ["d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"],
    ["9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"],
    [
      "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
      "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ],
  ])("reads %s", (bytes, text) => {
    expect(decodeHuffman(Buffer.from(bytes, "hex"))).toBe(text);
  });

  it("reads nothing else", () => {
    expect(decodeHuffman(Buffer.from("ffffffff", "hex"))).toBeUndefined();
    expect(decodeHuffman(Buffer.from("1c", "hex"))).toBeUndefined();
  });
});

describe("withValidAuthority", () => {
  const named = plain(":authority");
  it.each<readonly [string, Buffer, Buffer]>([
    ["with incremental indexing", literal(0x41, plain("a|b:1")), literal(0x41, plain("a-b:1"))],
    ["without indexing", literal(0x01, plain("a|b")), literal(0x01, plain("a-b"))],
    ["never indexed", literal(0x11, plain("a|b")), literal(0x11, plain("a-b"))],
    ["with its name written out", literal(0x40, named, plain("|x")), literal(0x40, named, plain("-x"))],
    // "www", "|" in eleven bits, padding.
    ["in Huffman code", literal(0x41, coded("f1e3c7fc")), literal(0x41, plain("www-"))],
    [
      "longer than one byte of length says",
      literal(0x41, Buffer.from([0x7f, 0x81, 0x01]), Buffer.from(`${"a".repeat(255)}|`)),
      literal(0x41, Buffer.from([0x7f, 0x81, 0x01]), Buffer.from(`${"a".repeat(255)}-`)),
    ],
  ])("replaces an authority %s", (_how, field, expected) => {
    const after = literal(0x44, plain("/path|with|bars"));
    expect(withValidAuthority(Buffer.concat([method, field, after]))).toEqual(Buffer.concat([method, expected, after]));
  });

  it.each<readonly [string, Buffer]>([
    ["a valid authority", literal(0x41, plain("picker.ns:9002"))],
    ["an IPv6 address", literal(0x41, plain("[fd00::1]:9002"))],
    ["an indexed field", Buffer.from([0xbe])],
    ["a table size", Buffer.from([0x3f, 0xe1, 0x1f])],
    ["other fields", literal(0x40, plain("x-a"), plain("a|b"))],
    ["a block that ends early", Buffer.from([0x41, 0x05, 0x61, 0x7c])],
    ["a length without end", Buffer.from([0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])],
    ["nothing", Buffer.alloc(0)],
  ])("leaves %s", (_what, block) => {
    expect(withValidAuthority(block)).toBe(block);
  });
});
