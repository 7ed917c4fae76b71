/**
 * One routed request until its end: the single owner of what was booked for it. Observers hear of each step at most once and in order,
 * and of the end exactly once, whatever the front door reports late, twice or not at all.
 */
import type { Endpoint } from "../data/endpoint.ts";
import type { Assignment, EndCause } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Usage } from "../request/usage.ts";
import type { RequestRecord } from "../telemetry/request-metrics.ts";
import type { Exchange, Header } from "./contracts.ts";
import type { DecisionRecording } from "./decision-sink.ts";
import { HeaderList } from "./header-list.ts";
import type { MemberList, Place } from "./member-list.ts";
import type { PlanHooks } from "./plan-hooks.ts";

/** What the exchange needs of the pipeline that opened it. */
export interface ExchangeOwner {
  /** In the order they were opened. */
  readonly open: MemberList<RoutedExchange>;
  now(): number;
}

export interface ExchangeInit {
  readonly request: InferenceRequest;
  readonly assignment: Assignment;
  readonly destination: Endpoint;
  readonly hooks: PlanHooks;
  readonly owner: ExchangeOwner;
  /** Undefined for a header-only request: it was not scheduled, so nothing was booked and nothing is measured. */
  readonly record: RequestRecord | undefined;
  readonly recording: DecisionRecording | undefined;
}

/** How far the answer has come: steps are told in this order and none is told again. */
const phases = { assigned: 0, headers: 1, body: 2, ended: 3 } as const;

/** An answer is a success by its status (2xx); 0 is an answer whose status is not known. */
function isFailure(status: number): boolean {
  return status !== 0 && (status < 200 || status > 299);
}

/** The reference's error code an end is counted under; undefined for an end that is nobody's error. */
export function errorCodeOf(cause: EndCause): string | undefined {
  switch (cause.kind) {
    case "failed":
      return "ModelServerError";
    case "timeout":
      return "GatewayTimeout";
    case "evicted":
      return "ResourceExhausted";
    case "error":
      return "Internal";
    case "completed":
    case "client-gone":
    case "shutdown":
      return undefined;
    default:
      return cause satisfies never;
  }
}

const noHeaders: readonly Header[] = Object.freeze([]);

export class RoutedExchange implements Exchange {
  readonly request: InferenceRequest;
  readonly destination: Endpoint;
  readonly openedAtMs: number;
  readonly #assignment: Assignment;
  readonly #hooks: PlanHooks;
  readonly #owner: ExchangeOwner;
  readonly #place: Place<RoutedExchange>;
  readonly #record: RequestRecord | undefined;
  readonly #recording: DecisionRecording | undefined;
  #phase: number = phases.assigned;
  #status = 0;
  #firstByteMs: number | undefined;
  #lastChunkMs: number | undefined;
  #responseBytes = 0;
  #streams: boolean;
  #usage: Usage | undefined;

  constructor(init: ExchangeInit) {
    this.request = init.request;
    this.destination = init.destination;
    this.openedAtMs = init.owner.now();
    this.#assignment = init.assignment;
    this.#hooks = init.hooks;
    this.#owner = init.owner;
    this.#record = init.record;
    this.#recording = init.recording;
    this.#streams = init.request.parsed.stream;
    this.#place = init.owner.open.enter(this);
    this.#hooks.retain();
  }

  /** The decision leaves now. */
  decided(): void {
    this.#record?.decided(this.#owner.now() - this.request.receivedAtMs);
  }

  responseHeaders(status: number, served: string | undefined, isEventStream = false): readonly Header[] {
    if (this.#phase >= phases.headers) return noHeaders;
    this.#phase = phases.headers;
    this.#status = status;
    // An engine may stream what was not asked to be streamed.
    if (isEventStream) this.#streams = true;
    const startMs = this.#owner.now();
    const headers = new HeaderList();
    this.#hooks.responseHeaders(this.request, this.#assignment, { status, served }, headers);
    this.#record?.responseProcessed(this.#owner.now() - startMs);
    return headers.toHeaders();
  }

  firstByte(approximate: boolean): void {
    if (this.#phase >= phases.body) return;
    this.#phase = phases.body;
    if (this.#record === undefined) return;
    const atMs = this.#owner.now();
    this.#firstByteMs = atMs - this.request.receivedAtMs;
    this.#record.firstByte(this.#firstByteMs, this.#streams);
    this.#hooks.firstByte(this.request, this.#assignment, atMs, approximate);
  }

  chunk(sizeBytes: number): void {
    if (this.#phase === phases.ended || this.#record === undefined) return;
    this.#responseBytes += sizeBytes;
    if (!this.#streams) return;
    const atMs = this.#owner.now();
    if (this.#lastChunkMs !== undefined) this.#record.interTokenLatency(atMs - this.#lastChunkMs);
    this.#lastChunkMs = atMs;
  }

  usage(usage: Usage): void {
    if (this.#phase !== phases.ended) this.#usage = usage;
  }

  end(cause: EndCause): void {
    if (this.#phase === phases.ended) return;
    this.#phase = phases.ended;
    const atMs = this.#owner.now();
    const durationMs = atMs - this.request.receivedAtMs;
    const settled = this.#settle(cause);
    try {
      if (this.#record !== undefined) {
        this.#hooks.ended(this.request, this.#assignment, settled, this.#usage, atMs);
        this.#measure(this.#record, settled, durationMs);
      }
      this.#recording?.ended(settled, this.#usage, durationMs);
    } finally {
      this.#hooks.release();
      this.#place.leave();
    }
  }

  /** The status decides success, whatever the front door called the end; an error the client did not wait for is one too. */
  #settle(cause: EndCause): EndCause {
    if (cause.kind === "client-gone" && isFailure(this.#status)) return { kind: "failed", status: this.#status };
    if (cause.kind !== "completed" && cause.kind !== "failed") return cause;
    const status = cause.status === 0 ? this.#status : cause.status;
    if (isFailure(status)) return { kind: "failed", status };
    return status === cause.status ? cause : { kind: cause.kind, status };
  }

  #measure(record: RequestRecord, cause: EndCause, durationMs: number): void {
    const errorCode = errorCodeOf(cause);
    if (errorCode !== undefined) record.failed(errorCode);
    record.ended({
      durationMs,
      responseBytes: this.#responseBytes,
      firstByteMs: this.#firstByteMs,
      promptTokens: this.#usage?.promptTokens,
      completionTokens: this.#usage?.completionTokens,
      cachedTokens: this.#usage?.cachedTokens,
      streaming: this.#streams,
    });
  }
}
