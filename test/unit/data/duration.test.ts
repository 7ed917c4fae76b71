import { describe, expect, it } from "@jest/globals";
import { formatBytes, formatDuration, parseBytes, parseDuration } from "../../../src/data/duration.ts";
import fc from "../../properties.ts";

describe("a duration in Go's syntax", () => {
  it.each([
    ["0", 0],
    ["200ms", 200],
    ["1.5s", 1500],
    ["1m30s", 90_000],
    ["2h", 7_200_000],
    ["500us", 0.5],
    ["100µs", 0.1],
    ["1.5h", 5_400_000],
    ["-5s", -5000],
    [".5s", 500],
    ["", undefined],
    ["5", undefined],
    ["1s ", undefined],
    ["5 s", undefined],
    ["s", undefined],
    ["1d", undefined],
  ])("%j is %p ms", (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  it("is formatted so that it parses back", () => {
    fc.assert(fc.property(fc.nat(1e9), (ms) => expect(parseDuration(formatDuration(ms))).toBe(ms)));
  });
});

describe("a number of bytes", () => {
  it.each([
    ["0", 0],
    ["4194304", 4_194_304],
    ["64Mi", 67_108_864],
    ["64MiB", 67_108_864],
    ["1G", 1e9],
    ["1.5Ki", 1536],
    ["", undefined],
    ["-1", undefined],
    ["64 Mi", undefined],
    ["64mi", undefined],
    ["9e99", undefined],
  ])("%j is %p", (text, bytes) => {
    expect(parseBytes(text)).toBe(bytes);
  });

  it("is formatted so that it parses back", () => {
    fc.assert(fc.property(fc.nat(2 ** 40), (bytes) => expect(parseBytes(formatBytes(bytes))).toBe(bytes)));
  });
});
