/**
 * Live load of one endpoint and the bookings made on it. A counter belongs to one life of one endpoint: a slot that is used again gets a
 * new counter, so a booking that outlives its endpoint releases into a counter that nobody reads. Counters are never negative.
 */
import type { EndpointLoad } from "./endpoint.ts";
import type { LoadBooking } from "./store-view.ts";

/** Requests and tokens booked on one endpoint and not yet released. */
export class LoadCounter implements EndpointLoad {
  requests = 0;
  tokens = 0;
}

/** Books one request at once. Tokens that are negative or no number count as 0. */
export function bookLoad(counter: LoadCounter, tokens: number): LoadBooking {
  return new Booking(counter, tokens > 0 && Number.isFinite(tokens) ? tokens : 0);
}

class Booking implements LoadBooking {
  readonly #counter: LoadCounter;
  #tokens: number;
  #isOpen = true;

  constructor(counter: LoadCounter, tokens: number) {
    this.#counter = counter;
    this.#tokens = tokens;
    counter.requests += 1;
    counter.tokens += tokens;
  }

  releaseTokens(tokens: number): void {
    if (!this.#isOpen || !(tokens > 0)) return;
    this.#subtract(Math.min(tokens, this.#tokens));
  }

  release(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#subtract(this.#tokens);
    this.#counter.requests -= 1;
    // Token counts may be fractions: without a request nothing of their rounding errors stays.
    if (this.#counter.requests === 0) this.#counter.tokens = 0;
  }

  #subtract(tokens: number): void {
    this.#tokens -= tokens;
    this.#counter.tokens = Math.max(this.#counter.tokens - tokens, 0);
  }
}
