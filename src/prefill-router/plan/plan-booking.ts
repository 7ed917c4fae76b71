/**
 * The books of planned requests: both legs and the session uses of a request end together, once. A booking nobody ends is ended by age, and
 * counted.
 */
import type { SessionUse } from "../affinity/session-table.ts";
import type { Booking } from "../contracts.ts";
import type { StageBooking } from "../stage.ts";

export interface BookedLegs {
  readonly prefill: StageBooking | undefined;
  readonly decode: StageBooking;
  readonly prefillSession: SessionUse | undefined;
  readonly decodeSession: SessionUse | undefined;
  readonly isSessionFinal: boolean;
}

class PlanBooking implements Booking {
  readonly id: string;
  readonly bookedAtMs: number;
  readonly #ledger: BookingLedger;
  readonly #legs: BookedLegs;
  #isPrefilled = false;
  #isFreed = false;

  constructor(id: string, legs: BookedLegs, ledger: BookingLedger, nowMs: number) {
    this.id = id;
    this.#legs = legs;
    this.#ledger = ledger;
    this.bookedAtMs = nowMs;
  }

  prefillCompleted(): void {
    if (this.#isPrefilled || this.#isFreed) return;
    this.#isPrefilled = true;
    const { prefill, decode, prefillSession, decodeSession } = this.#legs;
    // The prefill worker has handed its blocks over and has no more part in the request.
    prefill?.free();
    decode.prefillCompleted();
    prefillSession?.prove();
    decodeSession?.prove();
    this.#ledger.capacityFreed();
  }

  outputBlock(decay?: number): void {
    if (!this.#isFreed) this.#legs.decode.outputBlock(decay);
  }

  free(): void {
    if (this.#isFreed) return;
    this.#isFreed = true;
    const { prefill, decode, prefillSession, decodeSession, isSessionFinal } = this.#legs;
    prefill?.free();
    decode.free();
    const nowMs = this.#ledger.now();
    prefillSession?.release(isSessionFinal, nowMs);
    decodeSession?.release(isSessionFinal, nowMs);
    this.#ledger.ended(this);
    this.#ledger.capacityFreed();
  }
}

export class BookingLedger {
  /** In the order of booking: the oldest first. */
  readonly #open = new Map<string, PlanBooking>();
  readonly now: () => number;
  /** A rank has room that it had not before. */
  readonly capacityFreed: () => void;

  constructor(now: () => number, capacityFreed: () => void) {
    this.now = now;
    this.capacityFreed = capacityFreed;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Age of the oldest open booking; 0 when there is none. */
  oldestMs(nowMs: number): number {
    for (const booking of this.#open.values()) return nowMs - booking.bookedAtMs;
    return 0;
  }

  open(id: string, legs: BookedLegs, nowMs: number): Booking {
    const booking = new PlanBooking(id, legs, this, nowMs);
    this.#open.set(id, booking);
    return booking;
  }

  ended(booking: PlanBooking): void {
    this.#open.delete(booking.id);
  }

  /** Ends bookings of at least this age; returns how many. */
  reap(nowMs: number, maxAgeMs: number): number {
    let count = 0;
    for (const booking of this.#open.values()) {
      if (nowMs - booking.bookedAtMs < maxAgeMs) break;
      booking.free();
      count += 1;
    }
    return count;
  }

  freeAll(): void {
    for (const booking of this.#open.values()) booking.free();
  }
}
