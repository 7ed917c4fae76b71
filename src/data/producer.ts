/**
 * Contracts of plugins that keep state or do I/O for scheduling: they run before scheduling, publish attributes on the request
 * (data/attributes.ts), and learn from what happened to it.
 */
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Usage } from "../request/usage.ts";
import type { Endpoints } from "./endpoint.ts";

export interface DataProducer {
  /** Publishes attributes. A promise is bounded by the caller, to 400 ms: on failure or timeout the request continues without the attribute. */
  produce(request: InferenceRequest, candidates: Endpoints): void | Promise<void>;
  /** A bound of its own in place of the 400 ms, for answers that take longer by their nature. */
  readonly timeoutMs?: number | undefined;
  /** Producer types whose attributes this one reads; decides the order. */
  readonly after?: readonly string[];
}

/** How a request ended, as far as the gateway's mode lets the picker see it. */
export type EndCause =
  | { readonly kind: "completed"; readonly status: number }
  | { readonly kind: "failed"; readonly status: number }
  | { readonly kind: "client-gone" }
  | { readonly kind: "evicted" }
  | { readonly kind: "timeout" }
  | { readonly kind: "shutdown" }
  | { readonly kind: "error" };

/** Which endpoint serves a request, decided once. */
export interface Assignment {
  /** Destination first, then fallbacks in order. Never empty. */
  readonly destinations: Endpoints;
  /** Endpoints picked by every profile that ran, by profile name. */
  readonly byProfile: ReadonlyMap<string, Endpoints>;
}

/** Headers a plugin wants to set; names are lower-case. */
export interface HeaderSink {
  set(name: string, value: string): void;
}

/**
 * What a plugin may learn of a request's life. Every method is optional; each is called at most once a request and in this order,
 * `ended` always once after `assigned`. Exceptions are isolated by the caller.
 */
export interface RequestObserver {
  /** After scheduling, before the reply leaves (the reference's PreRequest): bookings are made here. */
  assigned?(request: InferenceRequest, assignment: Assignment, upstreamHeaders: HeaderSink): void;
  /** Response headers from the endpoint; `served` is what the gateway says served it, where it says so. */
  responseHeaders?(
    request: InferenceRequest,
    assignment: Assignment,
    response: { readonly status: number; readonly served: string | undefined },
    clientHeaders: HeaderSink,
  ): void;
  /** First non-empty response byte, or response headers where the mode hides the body (`approximate`). */
  firstByte?(request: InferenceRequest, assignment: Assignment, atMs: number, approximate: boolean): void;
  /** Release everything. */
  ended?(
    request: InferenceRequest,
    assignment: Assignment,
    cause: EndCause,
    usage: Usage | undefined,
    atMs: number,
  ): void;
}
