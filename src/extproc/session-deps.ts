/** What a session needs from the rest of the process: narrow collaborators, limits and modes. Everything is handed in by the composition root. */
import type { Exchange, Pipeline } from "../pipeline/contracts.ts";
import type { AnswerReader, AnswerReaderOptions } from "../request/answer-reader.ts";
import type { HeaderLookup, InferenceRequest } from "../request/inference-request.ts";
import type { ParsedBody } from "../request/parsed-body.ts";
import type { Rejection } from "../request/rejection.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Codec, HeaderPair } from "./messages.ts";

/** How a routed request ended, in the pipeline's words. */
export type EndCause = Parameters<Exchange["end"]>[0];

export interface SessionLimits {
  /** A larger body is refused with 413. */
  readonly maxRequestBodyBytes: number;
  /** Request bodies held by all sessions together; what exceeds it is refused with 503. */
  readonly maxBufferedBytes: number;
  /** Names and values of the request's headers; more is refused with 431. */
  readonly maxHeaderBytes: number;
  /** Replies of one stream that the gateway has not taken; a stream that exceeds it in its response phase is reset. */
  readonly maxPendingReplyBytes: number;
  /** From the opening of the stream to the last reply of the request phase; what exceeds it is refused with 504. */
  readonly requestTimeoutMs: number;
}

/** Reasons of each default: the limits; pending replies hold about a hundred of the largest response chunks a gateway sends. */
export const defaultSessionLimits: SessionLimits = {
  maxRequestBodyBytes: 64 * 1024 * 1024,
  maxBufferedBytes: 1024 * 1024 * 1024,
  maxHeaderBytes: 64 * 1024,
  maxPendingReplyBytes: 16 * 1024 * 1024,
  requestTimeoutMs: 90_000,
};

/** What a gateway's body mode keeps from the picker although the configuration or the request needs it. */
export type ModeLack =
  /** The model was rewritten, but the answer's body is hidden (response body mode NONE): the client sees the target model's name. */
  | "model-restore"
  /** The request has a body that the mode hides or shows too late (NONE, STREAMED): routed on its headers alone. */
  | "request-body";

/** Monotonic milliseconds, and the one timer that all sessions share. */
export interface SessionClock {
  now(): number;
  /** Calls run about every intervalMs until the returned function is called. Does not keep the process alive. */
  every(intervalMs: number, run: () => void): () => void;
}

export const systemClock: SessionClock = {
  now: () => performance.now(),
  every: (intervalMs, run) => {
    const timer = setInterval(run, intervalMs);
    timer.unref();
    return () => clearInterval(timer);
  },
};

/** The span of one request. `headers` carry its context to the engine (traceparent, tracestate, baggage). */
export interface RequestTrace {
  readonly headers: readonly HeaderPair[];
  /** Called once the request is known, before it is decided. */
  begin?(request: InferenceRequest): void;
  /** At most once, when the stream is gone. Error codes are a rejection's code, or the kind of an end that is not "completed". */
  end(error: string | undefined): void;
}

export interface SessionDeps {
  readonly codec: Codec;
  readonly pipeline: Pipeline;
  /** Path without the query; headers by lower-case name; the whole body. */
  readonly parse: (method: string, path: string, headers: HeaderLookup, body: Buffer) => ParsedBody | Rejection;
  /** The body as it leaves: the same single view when nothing changes, else its pieces in order. */
  readonly outgoingBody: (request: InferenceRequest) => readonly Buffer[];
  readonly createAnswerReader: (options: AnswerReaderOptions) => AnswerReader;
  readonly logger: Logger;
  /** Called for every request that lacks something; the sessions warn once themselves. */
  readonly onModeLacks: (what: ModeLack) => void;
  /** Undefined where tracing is off; may return undefined where a request is not sampled and has no context to pass on. */
  readonly startTrace: ((headers: HeaderLookup, receivedAtMs: number) => RequestTrace | undefined) | undefined;
  readonly limits: SessionLimits;
  readonly errorFormat: "openai" | "text";
  /** The reference's behaviour: every incoming header is sent back as a change. */
  readonly echoRequestHeaders: boolean;
  /** False ignores the gateway's subset metadata (--disable-endpoint-subset-filter). */
  readonly readSubset: boolean;
  readonly clock: SessionClock;
}
