/**
 * What the request path reports to metrics: narrow calls, one record a request, so that the hot path does no label hashing of its own.
 * The implementation (telemetry/metrics.ts) folds records into every family of both name generations when metrics are collected.
 */

export interface RequestLabels {
  /** Incoming model; "" when unknown. */
  readonly model: string;
  readonly targetModel: string;
  readonly fairnessId: string;
  readonly priority: number;
}

/** The metrics of one request from its start to its end. All durations in milliseconds. */
export interface RequestRecord {
  /** Request received to routing decision sent. */
  decided(durationMs: number): void;
  firstByte(sinceStartMs: number, streaming: boolean): void;
  /** Time since the previous content message of a streaming answer. */
  interTokenLatency(ms: number): void;
  responseProcessed(durationMs: number): void;
  /** At most once: running gauge down, duration, sizes, usage. */
  ended(end: {
    readonly durationMs: number;
    readonly responseBytes: number;
    readonly firstByteMs: number | undefined;
    readonly promptTokens: number | undefined;
    readonly completionTokens: number | undefined;
    readonly cachedTokens: number | undefined;
    readonly streaming: boolean;
  }): void;
  /** Counts an error under the reference's code, e.g. "ServiceUnavailable", "ModelServerError". */
  failed(errorCode: string): void;
}

export type ExtensionPoint =
  | "Screener"
  | "Filter"
  | "Scorer"
  | "Picker"
  | "ProfilePicker"
  | "ProcessProfilesResults"
  | "DataProducer"
  | "Admitter"
  | "PreRequest"
  | "ResponseHeader"
  | "ResponseBody"
  | "RequestHeader";

export interface RequestMetrics {
  /** request_total, request_running, request_size_bytes. */
  started(labels: RequestLabels, sizeBytes: number): RequestRecord;
  /** A request that no endpoint was picked for; without labels when it was refused before routing knew them. */
  refused(errorCode: string, model: string, labels?: RequestLabels): void;
  scheduled(
    durationMs: number,
    status: "success" | "failure",
    targetModel: string,
    endpoint: { readonly name: string; readonly namespace: string; readonly port: number } | undefined,
  ): void;
  plugin(point: ExtensionPoint, type: string, name: string, durationMs: number): void;
  pluginFailed(point: ExtensionPoint, type: string, name: string): void;
  modelRewritten(rewriteName: string, model: string, targetModel: string): void;
}
