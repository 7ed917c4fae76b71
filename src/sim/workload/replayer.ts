/**
 * Replays a trace against an OpenAI server over HTTP, in its own time or faster, with bounded concurrency, and measures what a client
 * sees. A failed request is a result like any other; only an abort ends a replay early.
 */
import { Agent, type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import { outputTokensOf, promptOf } from "./prompt.ts";
import { type ReplayResult, type ReplaySummary, summarize } from "./replay-summary.ts";
import type { Trace, TraceRequest } from "./trace.ts";

/** End of an answer that is kept to read the usage from. */
const tailBytes = 4096;

export interface ReplayOptions {
  /** http://host:port, with or without a path before /v1. */
  readonly baseUrl: string;
  readonly model: string;
  /** Seconds of the trace a real second. */
  readonly timeScale: number;
  readonly maxConcurrency: number;
  readonly tokenScale: number;
  /** Undefined is tokenScale. */
  readonly outputScale?: number;
  readonly stream: boolean;
  /** A request without an answer for this long has failed, in ms. */
  readonly timeoutMs: number;
  /** How many workers there are behind the URL, for the load spread; 0 counts those seen. */
  readonly workers: number;
  readonly headers?: Readonly<Record<string, string>>;
  onResult?(result: ReplayResult, done: number): void;
}

export const defaultReplayOptions = {
  model: "signalbox-sim",
  timeScale: 1,
  maxConcurrency: 256,
  tokenScale: 1,
  stream: true,
  timeoutMs: 300_000,
  workers: 0,
} as const;

export type ReplayGiven = Partial<ReplayOptions> & Pick<ReplayOptions, "baseUrl">;

/** Resolves when every request has ended; rejects only when aborted. */
export async function replayTrace(trace: Trace, given: ReplayGiven, signal?: AbortSignal): Promise<ReplaySummary> {
  const options: ReplayOptions = { ...defaultReplayOptions, ...given };
  const agent = new Agent({ keepAlive: true, maxSockets: options.maxConcurrency });
  try {
    return await new Replay(trace, options, agent).run(signal);
  } finally {
    agent.destroy();
  }
}

class Replay {
  readonly #trace: Trace;
  readonly #options: ReplayOptions;
  readonly #agent: Agent;
  readonly #url: URL;
  readonly #results: ReplayResult[] = [];
  readonly #open = new Set<ClientRequest>();
  #next = 0;
  #delayed = 0;
  #wasFull = false;
  #timer: NodeJS.Timeout | undefined;
  #startedMs = 0;
  #resolve: () => void = () => {};

  constructor(trace: Trace, options: ReplayOptions, agent: Agent) {
    this.#trace = trace;
    this.#options = options;
    this.#agent = agent;
    this.#url = new URL(`${options.baseUrl.replace(/\/$/, "")}/v1/chat/completions`);
  }

  async run(signal: AbortSignal | undefined): Promise<ReplaySummary> {
    signal?.throwIfAborted();
    const onAbort = (): void => {
      this.#next = this.#trace.requests.length;
      for (const request of this.#open) request.destroy();
      if (this.#open.size === 0) this.#resolve();
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    this.#startedMs = performance.now();
    try {
      await new Promise<void>((resolve) => {
        this.#resolve = resolve;
        this.#sendDue();
      });
    } finally {
      clearTimeout(this.#timer);
      signal?.removeEventListener("abort", onAbort);
    }
    signal?.throwIfAborted();
    const durationMs = performance.now() - this.#startedMs;
    return summarize(this.#results, durationMs, this.#delayed, this.#options.workers);
  }

  /** Sends what is due and arms one timer for what is next. */
  readonly #sendDue = (): void => {
    clearTimeout(this.#timer);
    const { requests } = this.#trace;
    const firstMs = requests[0]?.timestampMs ?? 0;
    for (;;) {
      const request = requests[this.#next];
      if (request === undefined) {
        if (this.#open.size === 0) this.#resolve();
        return;
      }
      const dueMs = this.#startedMs + (request.timestampMs - firstMs) / this.#options.timeScale;
      const leftMs = dueMs - performance.now();
      if (leftMs > 0) {
        this.#wasFull = false;
        this.#timer = setTimeout(this.#sendDue, Math.ceil(leftMs));
        return;
      }
      // The end of a request calls again.
      if (this.#open.size >= this.#options.maxConcurrency) {
        this.#wasFull = true;
        return;
      }
      if (this.#wasFull) this.#delayed++;
      this.#send(request, this.#next++);
    }
  };

  #send(traced: TraceRequest, index: number): void {
    const { model, stream, tokenScale, outputScale = tokenScale } = this.#options;
    const body = Buffer.from(promptOf(traced, { model, stream, tokenScale, outputScale }));
    const expectedTokens = outputTokensOf(traced, outputScale);
    const request = httpRequest(this.#url, {
      method: "POST",
      agent: this.#agent,
      headers: { ...this.#options.headers, "content-type": "application/json", "content-length": String(body.length) },
      timeout: this.#options.timeoutMs,
    });
    this.#open.add(request);
    const sentMs = performance.now();
    let isDone = false;
    const done = (result: Omit<ReplayResult, "index" | "endToEndMs">): void => {
      if (isDone) return;
      isDone = true;
      this.#open.delete(request);
      const whole = { ...result, index, endToEndMs: performance.now() - sentMs };
      this.#results.push(whole);
      this.#options.onResult?.(whole, this.#results.length);
      this.#sendDue();
    };
    request.on("timeout", () => request.destroy(Object.assign(new Error("no answer in time"), { code: "TIMEOUT" })));
    request.on("error", (error: NodeJS.ErrnoException) => done(failure(0, error.code ?? "ERROR", "")));
    let hasAnswer = false;
    // An abort may leave nothing but this; once there is an answer, its own end counts.
    request.on("close", () => {
      if (!hasAnswer) done(failure(0, "closed", ""));
    });
    request.on("response", (response) => {
      hasAnswer = true;
      readAnswer(response, sentMs, expectedTokens, done);
    });
    request.end(body);
  }
}

type Measured = Omit<ReplayResult, "index" | "endToEndMs">;

function failure(status: number, error: string, worker: string): Measured {
  return { status, error, ttftMs: 0, promptTokens: 0, cachedTokens: 0, outputTokens: 0, worker };
}

function readAnswer(
  response: IncomingMessage,
  sentMs: number,
  expectedTokens: number,
  done: (result: Measured) => void,
): void {
  const status = response.statusCode ?? 0;
  const given = response.headers["x-signalbox-worker"];
  const worker = typeof given === "string" ? given : "";
  const isStream = (response.headers["content-type"] ?? "").startsWith("text/event-stream");
  let ttftMs = 0;
  let tail = Buffer.alloc(0);
  response.on("data", (chunk: Buffer) => {
    if (ttftMs === 0) ttftMs = performance.now() - sentMs;
    // Most chunks are one event: only at the end does the tail matter, and it must not grow with the answer.
    tail = tail.length + chunk.length <= tailBytes ? Buffer.concat([tail, chunk]) : lastBytes(tail, chunk);
  });
  response.on("error", (error: NodeJS.ErrnoException) =>
    done(failure(status, `cut: ${error.code ?? "ERROR"}`, worker)),
  );
  response.on("close", () => done(failure(status, "cut: closed", worker)));
  response.on("end", () => {
    const text = tail.toString("latin1");
    if (status !== 200) done(failure(status, `status ${status}`, worker));
    else if (isStream && !text.includes("data: [DONE]")) done(failure(status, "cut: no [DONE]", worker));
    else done({ status, error: undefined, ttftMs, worker, ...usageOf(text, expectedTokens) });
  });
}

function lastBytes(tail: Buffer, chunk: Buffer): Buffer<ArrayBuffer> {
  const kept = Math.max(0, tailBytes - chunk.length);
  return Buffer.concat([tail.subarray(tail.length - kept), chunk.subarray(Math.max(0, chunk.length - tailBytes))]);
}

/** Token counts of the last usage in the text; a server that sends none is taken to have answered what was asked. */
function usageOf(
  text: string,
  expectedTokens: number,
): { readonly promptTokens: number; readonly cachedTokens: number; readonly outputTokens: number } {
  const usage = text.slice(Math.max(0, text.lastIndexOf('"usage"')));
  return {
    promptTokens: numberAfter(usage, '"prompt_tokens":') ?? 0,
    cachedTokens: numberAfter(usage, '"cached_tokens":') ?? 0,
    outputTokens: numberAfter(usage, '"completion_tokens":') ?? expectedTokens,
  };
}

function numberAfter(text: string, key: string): number | undefined {
  const at = text.indexOf(key);
  if (at < 0) return undefined;
  const value = Number.parseInt(text.slice(at + key.length, at + key.length + 20), 10);
  return Number.isNaN(value) ? undefined : value;
}
