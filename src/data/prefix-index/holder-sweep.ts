/**
 * Wipes the bits that holders gave up from the tables, one shard of one table at a time. One sweep wipes all bits retired before it began, so a fleet
 * that clears at once costs no more than one rank.
 */
import { type BlockHolders, shardCount } from "./block-holders.ts";
import type { HolderSeats } from "./holder-seats.ts";

/** Entries that one event pays for. A sweep goes by whole shards, so events save up until they can afford one. */
const sweptPerEvent = 2048;
/** Entries that a slice of upkeep looks at before it returns. */
const sweptPerSlice = 16_384;

export class HolderSweep {
  readonly #seats: HolderSeats;
  /** By tier. */
  readonly #tables: readonly (BlockHolders | undefined)[];
  #gone: Int32Array | undefined;
  /** Shards swept, over all tables. */
  #at = 0;
  #credit = 0;

  constructor(seats: HolderSeats, tables: readonly (BlockHolders | undefined)[]) {
    this.#seats = seats;
    this.#tables = tables;
  }

  get isPending(): boolean {
    return this.#gone !== undefined || this.#seats.hasRetired;
  }

  /** An event's share. */
  some(): void {
    if (!this.isPending) return;
    this.#credit += sweptPerEvent;
    if (this.#credit > 0) this.#credit -= this.#shard();
  }

  slice(): void {
    for (let swept = 0; swept < sweptPerSlice && this.isPending; ) swept += this.#shard();
  }

  /** Returns the entries looked at. */
  #shard(): number {
    if (this.#gone === undefined) {
      this.#gone = this.#seats.beginSweep();
      this.#at = 0;
    }
    const swept = this.#tables[Math.floor(this.#at / shardCount)]?.sweep(this.#at % shardCount, this.#gone) ?? 0;
    this.#at++;
    if (this.#at === this.#tables.length * shardCount) {
      this.#gone = undefined;
      this.#credit = 0;
      this.#seats.endSweep();
    }
    return swept;
  }
}
