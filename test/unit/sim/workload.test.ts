/** Traces and workloads: reading with line-numbered faults, generation under a seed, and prompts that keep the prefix structure. */
import { describe, expect, it } from "@jest/globals";
import { generateWorkload } from "../../../src/sim/workload/generate.ts";
import { promptOf, promptTextOf } from "../../../src/sim/workload/prompt.ts";
import { quantilesOf, type ReplayResult, summarize } from "../../../src/sim/workload/replay-summary.ts";
import { encodeTrace, parseTrace, type TraceRequest, traceBlockTokens } from "../../../src/sim/workload/trace.ts";
import fc from "../../properties.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const line = (more: object = {}): string =>
  JSON.stringify({ timestamp: 5, input_length: 600, output_length: 7, hash_ids: [0, 1], ...more });

describe("reading a trace", () => {
  it("takes the fields of every line and puts them in order of time", () => {
    const { trace, faults } = parseTrace(bytes(`${line({ timestamp: 9, model: "x" })}\r\n\n${line()}`));
    expect(faults).toEqual([]);
    expect(trace.requests).toEqual([
      { timestampMs: 5, inputTokens: 600, outputTokens: 7, hashIds: [0, 1] },
      { timestampMs: 9, inputTokens: 600, outputTokens: 7, hashIds: [0, 1] },
    ]);
  });

  it.each([
    ["{", "line 2: not JSON: {"],
    ["[1]", "line 2: not an object: [1]"],
    [line({ timestamp: undefined }), "line 2: timestamp is missing"],
    [line({ timestamp: -1 }), "line 2: timestamp: expected milliseconds, got -1"],
    [line({ input_length: "x" }), 'line 2: input_length: expected a whole number, got "x"'],
    [line({ output_length: 1.5 }), "line 2: output_length: expected a whole number, got 1.5"],
    [line({ hash_ids: [-1, 0] }), "line 2: hash_ids: expected a list of whole numbers, got [-1,0]"],
    [line({ hash_ids: [0] }), "line 2: hash_ids: expected 2 for 600 tokens in blocks of 512, got 1"],
  ])("says what is wrong with %s and goes on", (bad, fault) => {
    const { trace, faults } = parseTrace(bytes(`${line()}\n${bad}\n${line()}`));
    expect(faults).toEqual([fault]);
    expect(trace.requests).toHaveLength(2);
  });

  it("never throws, whatever the bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => {
        const { trace, faults } = parseTrace(noise);
        expect(trace.requests.length + faults.length).toBeLessThanOrEqual(noise.length);
      }),
    );
  });
});

describe("a generated workload", () => {
  const trace = generateWorkload({ seed: 4, sessions: 200 });

  it("is the same for the same seed, another for another", () => {
    expect(generateWorkload({ seed: 4, sessions: 200 })).toEqual(trace);
    expect(generateWorkload({ seed: 5, sessions: 200 })).not.toEqual(trace);
  });

  it("is a valid trace that survives its file", () => {
    expect(parseTrace(bytes(encodeTrace(trace)))).toEqual({ trace, faults: [] });
  });

  it("has turns that repeat the turn before, and system prompts that dialogues share", () => {
    const seen = new Set<number>();
    let repeated = 0;
    let blocks = 0;
    for (const { hashIds } of trace.requests) {
      let isPrefix = true;
      for (const id of hashIds) {
        // An id stands for all before it: after the first unknown one nothing is known.
        expect(isPrefix || !seen.has(id)).toBe(true);
        isPrefix &&= seen.has(id);
        if (isPrefix) repeated++;
        blocks++;
      }
      for (const id of hashIds) seen.add(id);
    }
    expect(trace.requests.length).toBeGreaterThan(500);
    expect(repeated / blocks).toBeGreaterThan(0.5);
    expect(repeated / blocks).toBeLessThan(0.95);
  });

  it("holds its dialogues below the limit", () => {
    const short = generateWorkload({ maxInputTokens: 5000, turns: 50 });
    expect(Math.max(...short.requests.map(({ inputTokens }) => inputTokens))).toBeLessThanOrEqual(5000);
  });
});

describe("a trace's prompt", () => {
  const request = (inputTokens: number, hashIds: readonly number[]): TraceRequest => ({
    timestampMs: 0,
    inputTokens,
    outputTokens: 50,
    hashIds,
  });

  it("is about four bytes a token, scaled as told", () => {
    expect(promptTextOf(request(1000, [0, 1]), 1)).toHaveLength(4000);
    expect(promptTextOf(request(1000, [0, 1]), 0.25)).toHaveLength(1000);
  });

  it.each([1, 0.1, 0.001])("shares exactly the leading blocks that the ids share, at scale %d", (scale) => {
    const id = fc.nat(2000);
    fc.assert(
      fc.property(fc.array(id, { minLength: 1, maxLength: 5 }), id, id, (shared, left, right) => {
        fc.pre(left !== right);
        const tokens = (shared.length + 1) * traceBlockTokens;
        const a = promptTextOf(request(tokens, [...shared, left]), scale);
        const b = promptTextOf(request(tokens, [...shared, right]), scale);
        const common = promptTextOf(request(shared.length * traceBlockTokens, shared), scale);
        expect(a.startsWith(common)).toBe(true);
        expect(b.startsWith(common)).toBe(true);
        expect(a).not.toBe(b);
      }),
      { numRuns: 30 },
    );
  });

  it("is a chat body that asks for the trace's answer", () => {
    const options = { model: "m", stream: true, tokenScale: 0.5, outputScale: 0.5 };
    const body: unknown = JSON.parse(promptOf(request(100, [3]), options));
    expect(body).toMatchObject({ model: "m", max_tokens: 25, stream: true, stream_options: { include_usage: true } });
  });
});

describe("a replay's summary", () => {
  const result = (more: Partial<ReplayResult>): ReplayResult => ({
    index: 0,
    status: 200,
    error: undefined,
    ttftMs: 10,
    endToEndMs: 20,
    promptTokens: 100,
    cachedTokens: 50,
    outputTokens: 10,
    worker: "a",
    ...more,
  });

  it("takes quantiles by rank", () => {
    const hundred = Array.from({ length: 100 }, (_, index) => index + 1);
    expect(quantilesOf(hundred)).toEqual({ mean: 50.5, p50: 50, p90: 90, p99: 99 });
    expect(quantilesOf([])).toEqual({ mean: 0, p50: 0, p90: 0, p99: 0 });
  });

  it("counts load as what was computed, idle workers included, and failures apart", () => {
    const results = [
      result({}),
      result({ worker: "b", cachedTokens: 90 }),
      result({ error: "status 503", status: 503, ttftMs: 0 }),
    ];
    const summary = summarize(results, 2000, 1, 4);
    expect(summary).toMatchObject({
      requests: 3,
      errors: 1,
      errorsByKind: { "status 503": 1 },
      perWorkerRequests: { a: 1, b: 1 },
      perWorkerTokens: { a: 60, b: 20 },
      prefixHitRate: 0.7,
      throughputTokensPerSecond: 10,
      delayed: 1,
    });
    expect(summary.loadSpread).toBe(3);
    expect(summary.ttftMs.p50).toBe(10);
  });
});
