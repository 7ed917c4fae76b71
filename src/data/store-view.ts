/** What readers may do with the endpoint store. */
import type { Endpoint, EndpointName, Endpoints } from "./endpoint.ts";

export interface EndpointStoreView {
  /** The current endpoints as one immutable array, ordered by name. The same array until something changes. */
  snapshot(): Endpoints;
  get(name: EndpointName): Endpoint | undefined;
  /** Called after an endpoint was added, and before the slot of a removed one is reused. Returns the unsubscribe function. */
  subscribe(listener: EndpointListener): () => void;
  /** True once the discovery has delivered its first complete list. */
  readonly isSynced: boolean;
  /** Counts one request and its prompt tokens on an endpoint at once; visible in `endpoint.load` before the call returns. */
  book(endpoint: Endpoint, tokens: number): LoadBooking;
}

/** One request's share of an endpoint's load. Idempotent; harmless after the endpoint has left. */
export interface LoadBooking {
  /** The prompt is prefilled: its tokens stop counting (estimated output tokens stay until release). */
  releaseTokens(tokens: number): void;
  /** The request is over: everything of it stops counting. */
  release(): void;
}

export interface EndpointListener {
  added?(endpoint: Endpoint): void;
  removed?(endpoint: Endpoint): void;
}
