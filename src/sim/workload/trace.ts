/**
 * Request traces in the Mooncake format: one JSON object a line with `timestamp` (ms), `input_length` and `output_length` (tokens)
 * and `hash_ids`, one id per 512 tokens of prompt. Equal leading ids mean equal leading blocks; an id stands for its block and all before it.
 */

/** Tokens that one hash id stands for. */
export const traceBlockTokens = 512;

export interface TraceRequest {
  readonly timestampMs: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly hashIds: readonly number[];
}

/** Ordered by time. */
export interface Trace {
  readonly requests: readonly TraceRequest[];
}

export interface TraceReading {
  /** Every line that could be read. */
  readonly trace: Trace;
  /** What the other lines lacked, each with its line number. Empty lines are not counted as faults. */
  readonly faults: readonly string[];
}

/** Reads a trace; a bad line costs that line only. Order by time is restored where it is missing; unknown keys are ignored. */
export function parseTrace(bytes: Uint8Array): TraceReading {
  const requests: TraceRequest[] = [];
  const faults: string[] = [];
  const lines = new TextDecoder().decode(bytes).split("\n");
  for (const [index, line] of lines.entries()) {
    const text = line.trim();
    if (text === "") continue;
    const reading = parseLine(text);
    if (typeof reading === "string") faults.push(`line ${index + 1}: ${reading}`);
    else requests.push(reading);
  }
  requests.sort((left, right) => left.timestampMs - right.timestampMs);
  return { trace: { requests }, faults };
}

function parseLine(text: string): TraceRequest | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return `not JSON: ${shortened(text)}`;
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return `not an object: ${shortened(text)}`;
  const fields = value as Readonly<Record<string, unknown>>;
  const timestampMs = fields["timestamp"];
  if (typeof timestampMs !== "number" || timestampMs < 0) return expected("timestamp", "milliseconds", timestampMs);
  const inputTokens = fields["input_length"];
  if (!isCount(inputTokens)) return expected("input_length", "a whole number", inputTokens);
  const outputTokens = fields["output_length"];
  if (!isCount(outputTokens)) return expected("output_length", "a whole number", outputTokens);
  const hashIds = fields["hash_ids"];
  if (!Array.isArray(hashIds) || !hashIds.every(isCount))
    return expected("hash_ids", "a list of whole numbers", hashIds);
  const blocks = Math.ceil(inputTokens / traceBlockTokens);
  if (hashIds.length !== blocks) {
    return `hash_ids: expected ${blocks} for ${inputTokens} tokens in blocks of ${traceBlockTokens}, got ${hashIds.length}`;
  }
  return { timestampMs, inputTokens, outputTokens, hashIds };
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function expected(key: string, what: string, value: unknown): string {
  return value === undefined
    ? `${key} is missing`
    : `${key}: expected ${what}, got ${shortened(JSON.stringify(value))}`;
}

function shortened(text: string): string {
  return text.length <= 60 ? text : `${text.slice(0, 57)}...`;
}

/** The trace as a file's text. */
export function encodeTrace(trace: Trace): string {
  let text = "";
  for (const { timestampMs, inputTokens, outputTokens, hashIds } of trace.requests) {
    const line = { timestamp: timestampMs, input_length: inputTokens, output_length: outputTokens, hash_ids: hashIds };
    text += `${JSON.stringify(line)}\n`;
  }
  return text;
}
