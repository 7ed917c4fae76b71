/** HTTP/1.1 responses at every split, and what is refused. */
import { describe, expect, it } from "@jest/globals";
import { ResponseReader } from "../../../../src/net/http1/response-reader.ts";
import fc from "../../../properties.ts";

const limits = { maxHeaderBytes: 1024, maxBodyBytes: 10_000 };

interface Outcome {
  readonly status: number;
  readonly body: string;
  readonly keepsAlive: boolean;
}

/** Reads parts as one response; each part arrives in one buffer that is overwritten after the read, as the client's is. */
function read(parts: readonly Buffer[], ends: boolean, reader = new ResponseReader(limits)): Outcome | string {
  for (const part of parts) {
    const bytes = Buffer.from(part);
    const fault = reader.push(bytes);
    if (fault !== undefined) return fault;
    if (reader.isComplete && part === parts.at(-1)) break;
    bytes.fill(0x21);
  }
  if (!reader.isComplete) {
    const fault = ends ? reader.end() : "incomplete";
    if (fault !== undefined) return fault;
  }
  return { status: reader.status, body: reader.body().toString("latin1"), keepsAlive: reader.keepsAlive };
}

function splitAt(text: string, ...cuts: readonly number[]): readonly Buffer[] {
  const bytes = Buffer.from(text, "latin1");
  const bounds = [0, ...cuts, bytes.length];
  return bounds.slice(1).map((end, index) => bytes.subarray(bounds[index], end));
}

const head = "HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\n";
const cases: readonly [string, string, Outcome, boolean][] = [
  ["a length", `${head}Content-Length: 5\r\n\r\nhello`, { status: 200, body: "hello", keepsAlive: true }, false],
  ["an empty length", `${head}content-length:0\r\n\r\n`, { status: 200, body: "", keepsAlive: true }, false],
  [
    "one chunk",
    `${head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`,
    { status: 200, body: "hello", keepsAlive: true },
    false,
  ],
  [
    "several chunks, an extension and trailers",
    `${head}transfer-encoding: Chunked\r\n\r\n3;a=b\r\nhel\r\n0a \r\nlo wonderf\r\n2\r\nul\r\n000\r\nx-trailer: 1\r\ny: 2\r\n\r\n`,
    { status: 200, body: "hello wonderful", keepsAlive: true },
    false,
  ],
  ["the end of the connection", `${head}\r\nhello`, { status: 200, body: "hello", keepsAlive: false }, true],
  [
    "an informational response before it",
    `HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n${head}content-length: 2\r\n\r\nok`,
    { status: 200, body: "ok", keepsAlive: true },
    false,
  ],
  ["no body by its status", "HTTP/1.1 204 No Content\r\n\r\n", { status: 204, body: "", keepsAlive: true }, false],
  [
    "connection: close",
    `${head}connection: Close\r\ncontent-length: 2\r\n\r\nok`,
    { status: 200, body: "ok", keepsAlive: false },
    false,
  ],
  [
    "version 1.0",
    "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    { status: 200, body: "ok", keepsAlive: false },
    false,
  ],
  [
    "version 1.0 kept alive",
    "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok",
    { status: 200, body: "ok", keepsAlive: true },
    false,
  ],
  [
    "an error status without a phrase",
    "HTTP/1.1 503 \r\ncontent-length: 2\r\n\r\nno",
    { status: 503, body: "no", keepsAlive: true },
    false,
  ],
];

describe("an HTTP/1.1 response", () => {
  it.each(cases)("with %s reads the same however it is split", (_case, text, expected, ends) => {
    expect(read(splitAt(text), ends)).toEqual(expected);
    for (let cut = 1; cut < text.length; cut++) expect([cut, read(splitAt(text, cut), ends)]).toEqual([cut, expected]);
    expect(read(splitAt(text, ...Array.from({ length: text.length - 1 }, (_, index) => index + 1)), ends)).toEqual(
      expected,
    );
  });

  it("is read from the bytes of the read itself when its body came in one piece", () => {
    const reader = new ResponseReader(limits);
    const bytes = Buffer.from(`${head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`);
    expect(reader.push(bytes)).toBeUndefined();
    expect(reader.body().buffer).toBe(bytes.buffer);
  });

  it("leaves nothing to the next one read with the same reader", () => {
    const reader = new ResponseReader(limits);
    const long = `${head}connection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n`;
    expect(read(splitAt(long, 150), false, reader)).toMatchObject({ body: "abcdef", keepsAlive: false });
    reader.reset();
    expect(read(splitAt(`${head}content-length: 1\r\n\r\nx`), false, reader)).toEqual({
      status: 200,
      body: "x",
      keepsAlive: true,
    });
  });

  it.each([
    ["not HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n", "MALFORMED_RESPONSE"],
    ["an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\n", "MALFORMED_RESPONSE"],
    ["a status out of range", "HTTP/1.1 999 X\r\n\r\n", "MALFORMED_RESPONSE"],
    ["a protocol switch", "HTTP/1.1 101 X\r\n\r\n", "MALFORMED_RESPONSE"],
    ["a length that is no number", `${head}content-length: 5x\r\n\r\n`, "MALFORMED_RESPONSE"],
    ["two lengths that differ", `${head}content-length: 5\r\ncontent-length: 6\r\n\r\n`, "MALFORMED_RESPONSE"],
    ["a negative length", `${head}content-length: -5\r\n\r\n`, "MALFORMED_RESPONSE"],
    ["a chunk size that is no number", `${head}transfer-encoding: chunked\r\n\r\nxyz\r\n`, "MALFORMED_RESPONSE"],
    ["a chunk longer than its size", `${head}transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n`, "MALFORMED_RESPONSE"],
    ["an endless chunk line", `${head}transfer-encoding: chunked\r\n\r\n2;${"x".repeat(2000)}`, "MALFORMED_RESPONSE"],
    ["bytes after its end", `${head}content-length: 1\r\n\r\nxy`, "MALFORMED_RESPONSE"],
    ["compression nobody asked for", `${head}content-encoding: gzip\r\n\r\n`, "UNSUPPORTED_ENCODING"],
    ["another transfer coding", `${head}transfer-encoding: gzip, chunked\r\n\r\n`, "UNSUPPORTED_ENCODING"],
    ["a head without end", `${head}x: ${"y".repeat(1100)}`, "HEADERS_TOO_LARGE"],
    ["a head beyond the limit", `${head}x: ${"y".repeat(1100)}\r\n\r\n`, "HEADERS_TOO_LARGE"],
    [
      "trailers beyond the limit",
      `${head}transfer-encoding: chunked\r\n\r\n0\r\n${`a: ${"b".repeat(500)}\r\n`.repeat(3)}`,
      "HEADERS_TOO_LARGE",
    ],
    ["a length beyond the limit", `${head}content-length: 10001\r\n\r\n`, "BODY_TOO_LARGE"],
    ["a chunk beyond the limit", `${head}transfer-encoding: chunked\r\n\r\n2711\r\n`, "BODY_TOO_LARGE"],
    ["a huge chunk size", `${head}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n`, "MALFORMED_RESPONSE"],
    [
      "chunks beyond the limit in sum",
      `${head}transfer-encoding: chunked\r\n\r\n${`1000\r\n${"x".repeat(4096)}\r\n`.repeat(3)}`,
      "BODY_TOO_LARGE",
    ],
    ["a body without end beyond the limit", `${head}\r\n${"x".repeat(10_001)}`, "BODY_TOO_LARGE"],
    ["too few bytes", `${head}content-length: 5\r\n\r\nhell`, "TRUNCATED"],
    ["no last chunk", `${head}transfer-encoding: chunked\r\n\r\n2\r\nab\r\n`, "TRUNCATED"],
    ["half a head", head, "TRUNCATED"],
  ])("is refused when it has %s", (_case, text, fault) => {
    expect(read(splitAt(text), true)).toBe(fault);
    const bytewise = Array.from({ length: text.length - 1 }, (_, index) => index + 1);
    expect(read(splitAt(text, ...bytewise), true)).toBe(fault);
  });

  it("of random bytes is refused or read, never thrown on", () => {
    const token = fc.constantFrom(
      "HTTP/1.1 200 OK\r\n",
      "\r\n",
      "content-length: 3\r\n",
      "transfer-encoding: chunked\r\n",
      "3\r\nabc\r\n",
      "0\r\n",
      "\n",
      ":",
    );
    fc.assert(
      fc.property(
        fc.array(fc.oneof(token, fc.string({ maxLength: 8 })), { maxLength: 20 }),
        fc.nat({ max: 60 }),
        (tokens, cut) => {
          const text = tokens.join("");
          expect(read(splitAt(text, Math.min(cut, text.length)), true)).toBeDefined();
        },
      ),
      { numRuns: 1000 },
    );
  });
});
