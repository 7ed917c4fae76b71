/** Tables of prefill durations: what they predict between, before and beyond their points, and which are refused. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "@jest/globals";
import {
  type PrefillLoadTable,
  parsePrefillLoadTable,
} from "../../../../src/prefill-router/prefill-load/prefill-load-table.ts";
import fc from "../../../properties.ts";

const written = {
  format: "signalbox-prefill-load-table",
  version: 1,
  estimator: "a hand",
  config: { model: "m" },
  tokens: [1, 11, 111],
  prefixTokens: [0, 100],
  milliseconds: [
    [10, 20],
    [20, 40],
    [220, 440],
  ],
};

function tableOf(members: object): PrefillLoadTable {
  const read = parsePrefillLoadTable(JSON.stringify({ ...written, ...members }));
  if (read.kind !== "table") throw new Error(read.fault);
  return read.table;
}

function faultOf(members: object): string | undefined {
  const read = parsePrefillLoadTable(JSON.stringify({ ...written, ...members }));
  return read.kind === "unsound" ? read.fault : undefined;
}

describe("a table of prefill durations", () => {
  it.each([
    { of: "a point", tokens: 11, prefix: 100, ms: 40 },
    { of: "the first point", tokens: 1, prefix: 0, ms: 10 },
    { of: "the last point", tokens: 111, prefix: 100, ms: 440 },
    { of: "the middle of two tokens", tokens: 61, prefix: 0, ms: 120 },
    { of: "the middle of two prefixes", tokens: 11, prefix: 50, ms: 30 },
    { of: "the middle of four points", tokens: 61, prefix: 50, ms: 180 },
    { of: "fewer tokens than any", tokens: 0.5, prefix: 0, ms: 10 },
    { of: "more tokens than any, by the last line", tokens: 211, prefix: 0, ms: 420 },
    { of: "a longer prefix than any, by the last line", tokens: 1, prefix: 200, ms: 30 },
    { of: "more of both", tokens: 211, prefix: 200, ms: 420 + 840 },
  ])("predicts for $of", ({ tokens, prefix, ms }) => {
    expect(tableOf({}).predictMs(tokens, prefix)).toBeCloseTo(ms, 9);
  });

  it("is off by less than 1 % from what the estimator says directly, where it was written by the package's script", () => {
    const fixtures = join(import.meta.dirname, "../../../fixtures/prefill-load");
    const read = parsePrefillLoadTable(readFileSync(join(fixtures, "table.json"), "utf8"));
    if (read.kind !== "table") throw new Error(read.fault);
    const { predictions } = JSON.parse(readFileSync(join(fixtures, "direct.json"), "utf8")) as {
      readonly predictions: readonly (readonly [tokens: number, prefix: number, ms: number])[];
    };
    expect(read.table.estimator).toBe("aiconfigurator_core 0.12.0");
    const off = predictions.map(([tokens, prefix, ms]) => Math.abs(read.table.predictMs(tokens, prefix) / ms - 1));
    expect(off).toHaveLength(400);
    expect(Math.max(...off)).toBeLessThan(0.01);
    expect(off.reduce((sum, one) => sum + one, 0) / off.length).toBeLessThan(0.002);
  });

  it("may have one point, which then holds for all", () => {
    const table = tableOf({ tokens: [5], prefixTokens: [0], milliseconds: [[7]] });
    expect([table.predictMs(1, 0), table.predictMs(5, 0), table.predictMs(900, 900)]).toEqual([7, 7, 7]);
  });

  it("predicts no negative time where its last line falls", () => {
    const table = tableOf({ tokens: [1, 2], prefixTokens: [0], milliseconds: [[5], [1]] });
    expect(table.predictMs(100, 0)).toBe(0);
  });

  it("lies between the points around it, everywhere", () => {
    const axis = (least: number) =>
      fc.uniqueArray(fc.integer({ min: least, max: 5000 }), { minLength: 2, maxLength: 12 }).map(ascending);
    const tables = fc.tuple(axis(1), axis(0)).chain(([tokens, prefixTokens]) =>
      fc.record({
        tokens: fc.constant(tokens),
        prefixTokens: fc.constant(prefixTokens),
        milliseconds: fc.array(
          fc.array(fc.integer({ min: 0, max: 1000 }), {
            minLength: prefixTokens.length,
            maxLength: prefixTokens.length,
          }),
          { minLength: tokens.length, maxLength: tokens.length },
        ),
      }),
    );
    fc.assert(
      fc.property(
        tables,
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (of, at, across) => {
          const table = tableOf(of);
          const tokens = (of.tokens[0] ?? 0) + at * ((of.tokens.at(-1) ?? 0) - (of.tokens[0] ?? 0));
          const prefix =
            (of.prefixTokens[0] ?? 0) + across * ((of.prefixTokens.at(-1) ?? 0) - (of.prefixTokens[0] ?? 0));
          const row = Math.max(
            0,
            of.tokens.findLastIndex((point) => point <= tokens),
          );
          const column = Math.max(
            0,
            of.prefixTokens.findLastIndex((point) => point <= prefix),
          );
          const around = [row, row + 1].flatMap((each) => (of.milliseconds[each] ?? []).slice(column, column + 2));
          const predicted = table.predictMs(tokens, prefix);
          expect(predicted).toBeGreaterThanOrEqual(Math.min(...around) - 1e-9);
          expect(predicted).toBeLessThanOrEqual(Math.max(...around) + 1e-9);
        },
      ),
    );
  });

  it.each([
    { members: { format: "csv" }, fault: "is not of format signalbox-prefill-load-table, version 1" },
    { members: { version: 2 }, fault: "is not of format signalbox-prefill-load-table, version 1" },
    { members: { tokens: [] }, fault: "tokens must be 1 to 4096 numbers" },
    { members: { tokens: "all" }, fault: "tokens must be 1 to 4096 numbers" },
    { members: { tokens: [0, 1, 2] }, fault: "tokens[0] must be a whole number above 0" },
    { members: { tokens: [1, 5, 5] }, fault: "tokens[2] must be a whole number above 5" },
    { members: { tokens: [1, 2.5, 3] }, fault: "tokens[1] must be a whole number above 1" },
    { members: { prefixTokens: [-1, 1] }, fault: "prefixTokens[0] must be a whole number above -1" },
    { members: { prefixTokens: [0] }, fault: "milliseconds[0] must have a number for each of the 1 prefixTokens" },
    { members: { milliseconds: [[1, 2]] }, fault: "milliseconds must have a row for each of the 3 tokens" },
    {
      members: { milliseconds: [[1, 2], [1, 2], 3] },
      fault: "milliseconds[2] must have a number for each of the 2 prefixTokens",
    },
    {
      members: {
        milliseconds: [
          [1, 2],
          [1, -2],
          [1, 2],
        ],
      },
      fault: "milliseconds[1][1] must be between 0 and 1000000000",
    },
    {
      members: {
        milliseconds: [
          [1, 2],
          [1, null],
          [1, 2],
        ],
      },
      fault: "milliseconds[1][1] must be between 0 and 1000000000",
    },
    {
      members: { tokens: from(1, 1100), prefixTokens: from(0, 1000) },
      fault: "has more than 1048576 cells",
    },
  ])("is refused where $fault", ({ members, fault }) => {
    expect(faultOf(members)).toBe(fault);
  });

  it.each(["", "[1", "3", "null"])("is refused as %j", (text) => {
    expect(parsePrefillLoadTable(text).kind).toBe("unsound");
  });
});

function ascending(values: readonly number[]): number[] {
  return [...values].sort((a, b) => a - b);
}

function from(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}
