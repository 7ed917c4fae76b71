/** What a replay measured, and its summary. */

export interface ReplayResult {
  /** Position in the trace. */
  readonly index: number;
  /** 0 when no answer came. */
  readonly status: number;
  /** Undefined for a whole and successful answer; otherwise what went wrong. */
  readonly error: string | undefined;
  /** First byte of the body and end of it, since the request was sent, in ms. */
  readonly ttftMs: number;
  readonly endToEndMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
  /** Value of x-signalbox-worker; empty when there was none. */
  readonly worker: string;
}

export interface Quantiles {
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
}

export interface ReplaySummary {
  readonly requests: number;
  /** Of successful requests. */
  readonly ttftMs: Quantiles;
  readonly endToEndMs: Quantiles;
  /** Cached prompt tokens a prompt token, 0 to 1. */
  readonly prefixHitRate: number;
  readonly perWorkerRequests: Readonly<Record<string, number>>;
  /** Tokens that each worker had to compute: uncached prompt and answer. */
  readonly perWorkerTokens: Readonly<Record<string, number>>;
  /** Computed tokens of the busiest worker, over the mean: 1 is even. */
  readonly loadSpread: number;
  /** Answer tokens a second of real time. */
  readonly throughputTokensPerSecond: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly durationMs: number;
  readonly errors: number;
  /** Failed requests by what went wrong. */
  readonly errorsByKind: Readonly<Record<string, number>>;
  /** Requests that were sent late because as many as allowed were in flight. */
  readonly delayed: number;
}

/** Nearest-rank quantiles; zeros for no values. */
export function quantilesOf(values: readonly number[]): Quantiles {
  const sorted = Float64Array.from(values).sort();
  const at = (share: number): number => sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0;
  const total = sorted.reduce((sum, value) => sum + value, 0);
  return { mean: sorted.length === 0 ? 0 : total / sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99) };
}

/** `workers`: how many there are, for workers that served nothing leave no trace in the results. */
export function summarize(
  results: readonly ReplayResult[],
  durationMs: number,
  delayed: number,
  workers: number,
): ReplaySummary {
  const served = results.filter(({ error }) => error === undefined);
  const perWorkerRequests: Record<string, number> = {};
  const perWorkerTokens: Record<string, number> = {};
  const errorsByKind: Record<string, number> = {};
  let promptTokens = 0;
  let cachedTokens = 0;
  let outputTokens = 0;
  for (const result of served) {
    const computed = result.promptTokens - result.cachedTokens + result.outputTokens;
    perWorkerRequests[result.worker] = (perWorkerRequests[result.worker] ?? 0) + 1;
    perWorkerTokens[result.worker] = (perWorkerTokens[result.worker] ?? 0) + computed;
    promptTokens += result.promptTokens;
    cachedTokens += result.cachedTokens;
    outputTokens += result.outputTokens;
  }
  for (const { error } of results) if (error !== undefined) errorsByKind[error] = (errorsByKind[error] ?? 0) + 1;
  const loads = Object.values(perWorkerTokens);
  const total = loads.reduce((sum, load) => sum + load, 0);
  const mean = total / Math.max(1, workers, loads.length);
  return {
    requests: results.length,
    ttftMs: quantilesOf(served.map(({ ttftMs }) => ttftMs)),
    endToEndMs: quantilesOf(served.map(({ endToEndMs }) => endToEndMs)),
    prefixHitRate: promptTokens === 0 ? 0 : cachedTokens / promptTokens,
    perWorkerRequests,
    perWorkerTokens,
    loadSpread: mean === 0 ? 0 : Math.max(...loads) / mean,
    throughputTokensPerSecond: durationMs === 0 ? 0 : (outputTokens * 1000) / durationMs,
    promptTokens,
    outputTokens,
    durationMs,
    errors: results.length - served.length,
    errorsByKind,
    delayed,
  };
}
