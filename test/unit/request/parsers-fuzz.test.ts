import { describe, expect, it } from "@jest/globals";
import type { ByteRange, ParsedBody } from "../../../src/request/parsed-body.ts";
import { createParserSet } from "../../../src/request/parser-set.ts";
import { isRejection, type Rejection } from "../../../src/request/rejection.ts";
import fc from "../../properties.ts";

const parsers = createParserSet(["openai-parser", "anthropic-parser", "vllmhttp-parser", "sglanghttp-parser"]);
const paths = [
  "/v1/chat/completions",
  "/v1/completions",
  "/v1/embeddings",
  "/v1/responses",
  "/v1/conversations",
  "/v1/images/generations",
  "/v1/messages",
  "/v1/messages/count_tokens",
  "/inference/v1/generate",
  "/generate",
];
const members = [
  "model",
  "stream",
  "user",
  "cache_salt",
  "nvext",
  "messages",
  "tools",
  "prompt",
  "input",
  "instructions",
  "items",
  "system",
  "metadata",
  "max_tokens",
  "token_ids",
  "sampling_params",
  "text",
  "input_ids",
];

function rangesOf(parsed: ParsedBody): readonly ByteRange[] {
  const { modelRange, nvextRange, earlierModelRanges = [], prompt } = parsed;
  const chains = prompt.kind === "bytes" ? prompt.chains.flat() : [];
  return [modelRange, nvextRange, ...earlierModelRanges, ...chains].filter((range) => range !== undefined);
}

function expectSound(body: Buffer, outcome: ParsedBody | Rejection): void {
  if (isRejection(outcome)) {
    expect(outcome.code).toBe("BadRequest");
    return;
  }
  for (const { start, end } of rangesOf(outcome)) {
    expect(start >= 0 && start <= end && end <= body.length).toBe(true);
  }
  if (outcome.modelRange !== undefined) {
    const { start, end } = outcome.modelRange;
    expect(JSON.parse(body.toString("utf8", start, end))).toBe(outcome.model);
  }
}

const value = fc.oneof(
  fc.json({ maxDepth: 3 }),
  fc.json({ maxDepth: 1 }).map((json) => `[${json}]`),
  fc.constantFrom('"m"', "[1,2]", "[[1],[2,3]]", '["a","]"]', '{"max_tokens":3,"user_id":"u"}', "[[]]", "[ ]", "true"),
);

describe("every parser", () => {
  it("refuses or describes any object soundly, and never throws", () => {
    const body = fc
      .array(fc.tuple(fc.constantFrom(...members), value), { maxLength: 8 })
      .map((pairs) =>
        Buffer.from(`{"model":"m",${pairs.map(([name, json]) => `"${name}" : ${json},`).join("")}"n":1}`),
      );
    fc.assert(
      fc.property(body, (bytes) => {
        for (const path of paths) expectSound(bytes, parsers.parse("POST", path, new Map(), bytes));
      }),
      { numRuns: 400 },
    );
  });

  it("refuses random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (random) => {
        const bytes = Buffer.from(random);
        for (const path of paths) expect(isRejection(parsers.parse("POST", path, new Map(), bytes))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});
