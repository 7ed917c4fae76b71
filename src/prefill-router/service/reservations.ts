/**
 * Bookings by selection id, across partitions. An id is claimed before its booking is made, so that two requests of one id cannot both book; what
 * only claims it is invisible to the routes that end or advance a reservation.
 */
import type { Booking } from "../contracts.ts";

/** What the routes do to a reservation, here or one of another replica. */
export type Reserved = Pick<Booking, "prefillCompleted" | "outputBlock" | "free">;

interface Row {
  readonly partition: string;
  booking: Reserved | undefined;
}

export interface Claim {
  install(booking: Reserved): void;
  /** Gives the id back, unless a booking was installed. */
  release(): void;
}

export class Reservations {
  readonly #rows = new Map<string, Row>();

  get size(): number {
    return this.#rows.size;
  }

  /** Undefined where the id is taken. */
  claim(id: string, partition: string): Claim | undefined {
    if (this.#rows.has(id)) return undefined;
    const row: Row = { partition, booking: undefined };
    this.#rows.set(id, row);
    return {
      install: (booking) => {
        // A peer's booking that came meanwhile has taken the row.
        if (this.#rows.get(id) === row) row.booking = booking;
      },
      release: () => {
        if (row.booking === undefined && this.#rows.get(id) === row) this.#rows.delete(id);
      },
    };
  }

  get(id: string): Reserved | undefined {
    return this.#rows.get(id)?.booking;
  }

  has(id: string): boolean {
    return this.#rows.has(id);
  }

  /** A booking of another replica; one of ours under the id stays. */
  mirror(id: string, partition: string, booking: Reserved): void {
    if (!this.#rows.has(id)) this.#rows.set(id, { partition, booking });
  }

  /** The replica's booking has ended. */
  unmirror(id: string, partition: string): void {
    const row = this.#rows.get(id);
    if (row?.partition === partition && row.booking !== undefined) this.#rows.delete(id);
  }

  /** The booking ended, whoever ended it; what else hangs on it ends with it. */
  ended(id: string, partition: string): void {
    const row = this.#rows.get(id);
    if (row?.partition !== partition || row.booking === undefined) return;
    this.#rows.delete(id);
    row.booking.free();
  }
}
