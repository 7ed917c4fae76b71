import { describe, expect, it } from "@jest/globals";
import { AuthorityFilter } from "../../../../src/net/grpc/authority-filter.ts";
import { frameType, http2Frame } from "./http2-frames.ts";

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const settings = http2Frame(frameType.settings, 0, 0);
const data = http2Frame(frameType.data, 1, 1, Buffer.from("body"));
const authority = (text: string) => Buffer.concat([Buffer.from([0x41, text.length]), Buffer.from(text)]);
const block = (text: string) => Buffer.concat([Buffer.from([0x83, 0x86]), authority(text)]);
const endStream = 1;
const endHeaders = 4;
const padded = 8;
const priority = 32;
const continuation = 9;

function passed(input: Buffer, splitAt = input.length): Buffer {
  const filter = new AuthorityFilter();
  return Buffer.concat([...filter.push(input.subarray(0, splitAt)), ...filter.push(input.subarray(splitAt))].flat());
}

const invalid = "outbound|9002||picker";
const valid = "outbound-9002--picker";
const headersOf = (flags: number, payload: Buffer) => http2Frame(frameType.headers, flags, 1, payload);

describe("the authority filter", () => {
  const input = Buffer.concat([
    preface,
    settings,
    headersOf(endHeaders, block(invalid)),
    data,
    headersOf(5, block("x")),
  ]);
  const expected = Buffer.concat([
    preface,
    settings,
    headersOf(endHeaders, block(valid)),
    data,
    headersOf(5, block("x")),
  ]);

  it.each(Array.from({ length: input.length + 1 }, (_, at) => at))("says the same split at byte %i", (splitAt) => {
    expect(passed(input, splitAt)).toEqual(expected);
  });

  it("leaves out padding and priority of a block that it writes anew", () => {
    const weight = Buffer.from([0, 0, 0, 0, 15]);
    const payload = Buffer.concat([Buffer.from([2]), weight, block(invalid), Buffer.alloc(2)]);
    const frame = headersOf(endHeaders | padded | priority | endStream, payload);
    expect(passed(Buffer.concat([preface, frame]))).toEqual(
      Buffer.concat([preface, headersOf(endHeaders | endStream, block(valid))]),
    );
  });

  it("reads a block over several frames, and writes it so where it is long", () => {
    const long = Buffer.concat([
      block(invalid),
      Buffer.from([0x00, 0x01, 0x61, 0x7f, 0xa1, 0x9b, 0x01]),
      Buffer.alloc(20_000, 97),
    ]);
    const frames = Buffer.concat([
      preface,
      headersOf(0, long.subarray(0, 7)),
      http2Frame(continuation, 0, 1, long.subarray(7, 9000)),
      http2Frame(continuation, endHeaders, 1, long.subarray(9000)),
      data,
    ]);
    const written = Buffer.from(long.toString("latin1").replace(invalid, valid), "latin1");
    expect(passed(frames)).toEqual(
      Buffer.concat([
        preface,
        headersOf(0, written.subarray(0, 16_384)),
        http2Frame(continuation, endHeaders, 1, written.subarray(16_384)),
        data,
      ]),
    );
  });

  it("says whether it saw a block and whether it changed one", () => {
    const filter = new AuthorityFilter();
    filter.push(Buffer.concat([preface, settings]));
    expect(filter).toMatchObject({ sawBlock: false, changed: false });
    filter.push(headersOf(endHeaders, block("x")));
    expect(filter).toMatchObject({ sawBlock: true, changed: false });
    filter.push(headersOf(endHeaders, block(invalid)));
    expect(filter).toMatchObject({ sawBlock: true, changed: true });
  });

  it("keeps a reset apart from the stream that came with it", () => {
    const filter = new AuthorityFilter();
    filter.push(preface);
    const open = headersOf(endHeaders, block("x"));
    const reset = http2Frame(frameType.resetStream, 0, 1, Buffer.alloc(4));
    const groups = filter
      .push(Buffer.concat([open, data, reset, reset, open, reset]))
      .map((parts) => Buffer.concat(parts));
    expect(groups).toEqual([Buffer.concat([open, data]), Buffer.concat([reset, reset, open]), reset]);
  });

  it("passes what needs no change on as it is, resets of earlier streams included", () => {
    const filter = new AuthorityFilter();
    filter.push(preface);
    const reset = http2Frame(frameType.resetStream, 0, 3, Buffer.alloc(4));
    const chunk = Buffer.concat([headersOf(endHeaders, block("x")), data, reset, data]);
    const groups = filter.push(chunk);
    expect(groups).toEqual([[chunk]]);
    expect(groups[0]?.[0]?.buffer).toBe(chunk.buffer);
  });

  it("holds nothing of a frame that is longer than any server allows", () => {
    const filter = new AuthorityFilter();
    filter.push(preface);
    const begin = headersOf(endHeaders, Buffer.alloc(16_385, 0x83)).subarray(0, 10);
    expect(Buffer.concat(filter.push(begin).flat())).toEqual(begin);
    expect(Buffer.concat(filter.push(Buffer.from([0x83])).flat())).toEqual(Buffer.from([0x83]));
  });

  it("holds no more than a megabyte of a block without end", () => {
    const filter = new AuthorityFilter();
    filter.push(preface);
    const frame = headersOf(0, Buffer.alloc(16_384, 0x83));
    let passedOn = 0;
    for (let sent = 0; sent < 100; sent++) passedOn += Buffer.concat(filter.push(frame).flat()).length;
    expect(passedOn).toBe(100 * frame.length);
  });
});
