/**
 * The way of one request as its front doors (extproc, later router and frontend) see it: decide once, then report what happened.
 * Callbacks, not promises: most requests are decided synchronously within `decide`.
 */
import type { Endpoint, Endpoints } from "../data/endpoint.ts";
import type { EndCause } from "../data/producer.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import type { Usage } from "../request/usage.ts";

/** Which endpoints the gateway allows: "ip:port" or bare "ip" entries. Undefined = the whole pool; empty = none. */
export type Subset = readonly string[] | undefined;

export type Header = readonly [name: string, value: string];

export type Decision =
  | {
      readonly kind: "routed";
      /** Destination first, then fallbacks in order. */
      readonly destinations: Endpoints;
      /** Headers that plugins set for the endpoint, besides the destination. */
      readonly setHeaders: readonly Header[];
      /** Scores of the candidates that survived the filters, by hostPort; only with --emit-endpoint-scores. */
      readonly scores: ReadonlyMap<string, number> | undefined;
      readonly exchange: Exchange;
    }
  | { readonly kind: "rejected"; readonly rejection: Rejection };

/** A decision under way. */
export interface PendingDecision {
  /** The client is gone, the deadline passed or the process stops: leaves queues and releases what was booked. `done` is not called after it. Idempotent; a no-op once decided. */
  cancel(cause: EndCause): void;
}

/**
 * One routed request until its end: the single owner of every reservation made for it. Every method tolerates being called late, twice or
 * not at all; only `end` must be called, and `end` is idempotent.
 */
export interface Exchange {
  readonly request: InferenceRequest;
  readonly destination: Endpoint;
  /** Returns headers that plugins add to the client's answer. */
  responseHeaders(status: number, served: string | undefined, isEventStream?: boolean): readonly Header[];
  /** First non-empty byte of the answer, or its headers where the mode hides the body. */
  firstByte(approximate: boolean): void;
  /** One message of a streaming answer with content, for inter-token latency. Cheap: called per chunk. */
  chunk(sizeBytes: number): void;
  usage(usage: Usage): void;
  end(cause: EndCause): void;
}

export interface Pipeline {
  /** Calls done exactly once, possibly before it returns, unless cancelled first. */
  decide(request: InferenceRequest, subset: Subset, done: (decision: Decision) => void): PendingDecision;
  /**
   * A header-only request: any endpoint of the subset at random, no scheduling. Nothing is booked or measured; of the observers only
   * `responseHeaders` hears of it.
   */
  decideBodyless(request: InferenceRequest, subset: Subset): Decision;
  /** Counts a request that was refused before a pipeline could see it (413, bad JSON): metrics only. */
  refused(rejection: Rejection, model: string): void;
}
