/**
 * Live load of one endpoint and the bookings made on it. A counter belongs to one life of one endpoint: a slot that is used again gets a
 * new counter, so a booking that outlives its endpoint releases into a counter that nobody reads. Counters are never negative.
 */
import type { EndpointLoad } from "./endpoint.ts";
import type { LoadBooking } from "./store-view.ts";

/** Told of every change of this replica's own part, at once. */
export interface LoadWatch {
  changed(): void;
}

/** Requests and tokens booked on one endpoint and not yet released: what this replica booked and what its peers say of theirs, as one number. */
export class LoadCounter implements EndpointLoad {
  requests = 0;
  tokens = 0;
  #ownRequests = 0;
  #ownTokens = 0;
  #peerRequests = 0;
  #peerTokens = 0;
  #watch: LoadWatch | undefined;

  get ownRequests(): number {
    return this.#ownRequests;
  }

  get ownTokens(): number {
    return this.#ownTokens;
  }

  /** One watch at a time; undefined: nobody is told. */
  watchOwn(watch: LoadWatch | undefined): void {
    this.#watch = watch;
  }

  /** Replaces what the peers have there, all of them together. */
  setPeers(requests: number, tokens: number): void {
    this.#peerRequests = requests;
    this.#peerTokens = tokens;
    this.#total();
  }

  /** Changes this replica's own part. */
  change(requests: number, tokens: number): void {
    this.#ownRequests += requests;
    // Token counts may be fractions: without a request nothing of their rounding errors stays.
    this.#ownTokens = this.#ownRequests === 0 ? 0 : Math.max(this.#ownTokens + tokens, 0);
    this.#total();
    if (this.#watch !== undefined) this.#watch.changed();
  }

  #total(): void {
    this.requests = this.#ownRequests + this.#peerRequests;
    this.tokens = this.#ownTokens + this.#peerTokens;
  }
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
    counter.change(1, tokens);
  }

  releaseTokens(tokens: number): void {
    if (!this.#isOpen || !(tokens > 0)) return;
    const released = Math.min(tokens, this.#tokens);
    this.#tokens -= released;
    this.#counter.change(0, -released);
  }

  release(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#counter.change(-1, -this.#tokens);
    this.#tokens = 0;
  }
}
