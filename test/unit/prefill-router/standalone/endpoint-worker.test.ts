import { describe, expect, it } from "@jest/globals";
import { type RankSpan, spanWith } from "../../../../src/prefill-router/standalone/endpoint-worker.ts";

describe("the ranks of a server", () => {
  it.each([
    [[0], { first: 0, size: 1 }],
    [[3], { first: 3, size: 1 }],
    [[0, 1, 2], { first: 0, size: 3 }],
    [[2, 0, 2], { first: 0, size: 3 }],
    [[0, 255], { first: 0, size: 256 }],
    [[0, 256], undefined],
    [[4_294_967_295, 0], undefined],
  ])("%j have spoken", (ranks, expected) => {
    let span: RankSpan | undefined;
    for (const rank of ranks) span = spanWith(span, rank);
    expect(span).toEqual(expected);
  });
});
