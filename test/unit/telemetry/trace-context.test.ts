import { describe, expect, it } from "@jest/globals";
import { encodeTraceparent, parseTraceparent } from "../../../src/telemetry/trace-context.ts";

const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
const spanId = "00f067aa0ba902b7";

describe("traceparent", () => {
  it.each([
    [`00-${traceId}-${spanId}-01`, true],
    [`00-${traceId}-${spanId}-00`, false],
    [`00-${traceId}-${spanId}-ff`, true],
    [`00-${traceId}-${spanId}-02`, false],
    [`cc-${traceId}-${spanId}-01`, true],
    [`cc-${traceId}-${spanId}-01-what-the-future-brings`, true],
  ])("%s is sampled: %s", (value, isSampled) => {
    expect(parseTraceparent(value)).toEqual({ traceId, spanId, isSampled });
  });

  it.each([
    undefined,
    "",
    "00",
    `00-${traceId}-${spanId}`,
    `00-${traceId}-${spanId}-1`,
    `00-${traceId}-${spanId}-01-`,
    `00-${traceId}-${spanId}-01-extra`,
    `cc-${traceId}-${spanId}-01.extra`,
    `ff-${traceId}-${spanId}-01`,
    `00-${"0".repeat(32)}-${spanId}-01`,
    `00-${traceId}-${"0".repeat(16)}-01`,
    `00-${traceId.toUpperCase()}-${spanId}-01`,
    `00-${traceId.replace("4", "g")}-${spanId}-01`,
    `00_${traceId}-${spanId}-01`,
    `00-${traceId}-${spanId}-zz`,
    ` 00-${traceId}-${spanId}-01`,
  ])("%j is none", (value) => {
    expect(parseTraceparent(value)).toBeUndefined();
  });

  it("is written so that it is read back", () => {
    expect(parseTraceparent(encodeTraceparent(traceId, spanId))).toEqual({ traceId, spanId, isSampled: true });
  });
});
