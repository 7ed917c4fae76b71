/**
 * Which bit of the tables stands for which holder. A holder that is cleared or leaves gives up its bit at once and its blocks later: the bit is
 * retired, masked out of every match, and free again only when a whole sweep over the tables has wiped it.
 */
import type { Holder } from "./kv-index.ts";

export class HolderSeats {
  /** By holder; −1 for a number that is free. */
  #seats: number[] = [];
  /** By seat: blocks held. */
  #held: number[] = [];
  readonly #freeSeats: number[] = [];
  readonly #retired: number[] = [];
  #sweeping: readonly number[] = [];
  /** Bits of attached holders. */
  alive: Int32Array = new Int32Array(2);

  get holderCount(): number {
    return this.#seats.length;
  }

  /** Bits in use or once used. */
  get seatCount(): number {
    return this.#held.length;
  }

  attach(): Holder {
    let holder = this.#seats.indexOf(-1);
    if (holder < 0) holder = this.#seats.length;
    this.#seats[holder] = this.#take();
    return holder;
  }

  detach(holder: Holder): void {
    const seat = this.of(holder);
    if (seat < 0) return;
    this.#retire(seat);
    this.#seats[holder] = -1;
    while (this.#seats.at(-1) === -1) this.#seats.pop();
  }

  /** Gives the holder a bit that has nothing; returns what it held. */
  renew(holder: Holder): number {
    const seat = this.of(holder);
    if (seat < 0) return 0;
    const held = this.#held[seat] as number;
    if (held === 0) return 0;
    this.#retire(seat);
    this.#seats[holder] = this.#take();
    return held;
  }

  /** −1 for a holder that is not attached. */
  of(holder: Holder): number {
    return holder < this.#seats.length ? (this.#seats[holder] as number) : -1;
  }

  held(seat: number): number {
    return this.#held[seat] as number;
  }

  count(seat: number, blocks: number): void {
    this.#held[seat] = (this.#held[seat] as number) + blocks;
  }

  get hasRetired(): boolean {
    return this.#retired.length > 0;
  }

  /** The bits that a sweep beginning now has to wipe. */
  beginSweep(): Int32Array {
    this.#sweeping = this.#retired.splice(0);
    const mask = new Int32Array(this.alive.length);
    for (const seat of this.#sweeping) setBit(mask, seat);
    return mask;
  }

  /** Every table has been swept. */
  endSweep(): void {
    this.#freeSeats.push(...this.#sweeping);
    this.#freeSeats.sort((a, b) => b - a);
    this.#sweeping = [];
  }

  #take(): number {
    const seat = this.#freeSeats.pop() ?? this.#held.length;
    this.#held[seat] = 0;
    if (seat >= 32 * this.alive.length) {
      const wider = new Int32Array(this.alive.length + 2);
      wider.set(this.alive);
      this.alive = wider;
    }
    setBit(this.alive, seat);
    return seat;
  }

  #retire(seat: number): void {
    const word = seat >>> 5;
    this.alive[word] = (this.alive[word] as number) & ~(1 << (seat & 31));
    if ((this.#held[seat] as number) > 0) {
      this.#held[seat] = 0;
      this.#retired.push(seat);
    } else {
      this.#freeSeats.push(seat);
      this.#freeSeats.sort((a, b) => b - a);
    }
  }
}

function setBit(mask: Int32Array, seat: number): void {
  mask[seat >>> 5] = (mask[seat >>> 5] as number) | (1 << (seat & 31));
}
