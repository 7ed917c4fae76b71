/**
 * The books of a stage: what each rank has running. A booking counts once however often its methods are called, survives nothing but its rank, and
 * one made by a replica for a rank nobody knows yet waits for it.
 */

import type { AddressSecrets } from "../../data/prefix-index/block-address.ts";
import type { StageBooking } from "../stage.ts";
import { ActiveBlocks } from "./active-blocks.ts";
import { type ActivePrefill, ActivePrefills } from "./active-prefills.ts";
import type { OverloadWatch } from "./overload.ts";
import type { RankColumns } from "./rank-columns.ts";

const noNodes = new Int32Array(0);

/** One request's load, told what to count. */
export interface BookedLoad {
  /** Blocks to share with the rank's other requests: u32 pairs. Empty where they are not tracked or not to be shared. */
  readonly sequenceHashes: Uint32Array;
  /** Prompt blocks that count for this request alone. */
  readonly privateBlocks: number;
  readonly prefillTokens: number;
  /** How long its prefill takes once it runs alone; undefined where nobody knows. */
  readonly expectedPrefillMs: number | undefined;
}

/** Called when a booking that is observed changes. */
export interface BookingEvents {
  prefillCompleted(booking: RankBooking): void;
  freed(booking: RankBooking): void;
}

export class ActiveSequences {
  readonly #columns: RankColumns;
  readonly #overload: OverloadWatch;
  readonly #blocks: ActiveBlocks;
  readonly #prefills: ActivePrefills;
  /** Oldest first. */
  readonly #bookings = new Map<string, RankBooking>();

  /** `now` in monotonic milliseconds. */
  constructor(columns: RankColumns, overload: OverloadWatch, secrets: AddressSecrets, now: () => number) {
    this.#columns = columns;
    this.#overload = overload;
    this.#prefills = new ActivePrefills(columns, now);
    this.#blocks = new ActiveBlocks(secrets);
  }

  get size(): number {
    return this.#bookings.size;
  }

  get blocks(): ActiveBlocks {
    return this.#blocks;
  }

  /** Brings `prefillTokens` of the columns to a time, or to now. */
  refreshPrefills(timeMs?: number): void {
    this.#prefills.refresh(timeMs);
  }

  get(id: string): RankBooking | undefined {
    return this.#bookings.get(id);
  }

  add(booking: RankBooking): void {
    this.#bookings.set(booking.id, booking);
  }

  /** Counts the booking's load on the rank of a slot. */
  place(booking: RankBooking, slot: number): void {
    const { sequenceHashes, privateBlocks, prefillTokens } = booking.load;
    const columns = this.#columns;
    booking.slot = slot;
    if (sequenceHashes.length > 0) {
      booking.nodes = new Int32Array(sequenceHashes.length >>> 1);
      columns.promptBlocks[slot] =
        at(columns.promptBlocks, slot) + this.#blocks.acquire(slot, sequenceHashes, booking.nodes);
    }
    booking.load = nothing;
    booking.privateBlocks = privateBlocks;
    booking.privateWeight = privateBlocks;
    booking.prefillTokens = booking.isPrefilled ? 0 : prefillTokens;
    columns.privateBlocks[slot] = at(columns.privateBlocks, slot) + privateBlocks;
    // From when it was booked, also where its rank was not known then.
    if (booking.prefillTokens > 0) this.#prefills.insert(slot, booking, booking.bookedAtMs);
    columns.requests[slot] = at(columns.requests, slot) + 1;
    columns.addComputed(slot, prefillTokens);
    this.#changed(slot);
  }

  completePrefill(booking: RankBooking): void {
    if (booking.isPrefilled || booking.isOver) return;
    booking.isPrefilled = true;
    const slot = booking.slot;
    if (slot >= 0) {
      this.#endPrefill(booking);
      this.#changed(slot);
    }
    booking.events?.prefillCompleted(booking);
  }

  /** One block of output. `decay` in [0, 1] is what from now on the blocks weigh that only this booking uses. */
  addOutputBlock(booking: RankBooking, decay: number | undefined): void {
    if (booking.isOver || booking.slot < 0) return;
    const slot = booking.slot;
    const columns = this.#columns;
    const before = booking.privateWeight;
    booking.privateBlocks++;
    if (decay === undefined) {
      booking.privateWeight++;
    } else {
      const weight = Math.min(1, Math.max(0, decay));
      booking.privateWeight = booking.privateBlocks * weight;
      const change = this.#blocks.weighExclusiveEnd(slot, booking.nodes, weight);
      columns.promptBlocks[slot] = at(columns.promptBlocks, slot) + change;
    }
    columns.privateBlocks[slot] = at(columns.privateBlocks, slot) + booking.privateWeight - before;
  }

  end(booking: RankBooking): void {
    if (booking.isOver) return;
    booking.isOver = true;
    this.#bookings.delete(booking.id);
    const slot = booking.slot;
    if (slot >= 0) {
      const columns = this.#columns;
      columns.promptBlocks[slot] = at(columns.promptBlocks, slot) - this.#blocks.release(slot, booking.nodes);
      columns.privateBlocks[slot] = at(columns.privateBlocks, slot) - booking.privateWeight;
      this.#endPrefill(booking);
      columns.requests[slot] = at(columns.requests, slot) - 1;
      // Fractions leave rounding behind; an idle rank has exactly nothing.
      if (columns.requests[slot] === 0) {
        columns.promptBlocks[slot] = 0;
        columns.privateBlocks[slot] = 0;
      }
      this.#changed(slot);
    }
    booking.nodes = noNodes;
    booking.load = nothing;
    booking.events?.freed(booking);
  }

  /** Ends every booking of a rank that is going away. */
  endAll(slot: number): void {
    for (const booking of this.#bookings.values()) if (booking.slot === slot) this.end(booking);
  }

  /** Ends bookings made at or before a time; returns how many. */
  endOlder(thanMs: number): number {
    let ended = 0;
    for (const booking of this.#bookings.values()) {
      if (booking.bookedAtMs > thanMs) break;
      this.end(booking);
      ended++;
    }
    return ended;
  }

  #endPrefill(booking: RankBooking): void {
    if (booking.prefillTokens > 0) this.#prefills.remove(booking.slot, booking);
    booking.prefillTokens = 0;
  }

  #changed(slot: number): void {
    this.#overload.booked(slot, this.#columns.activeBlocks(slot), at(this.#columns.prefillTokens, slot));
  }
}

const nothing: BookedLoad = {
  sequenceHashes: new Uint32Array(0),
  privateBlocks: 0,
  prefillTokens: 0,
  expectedPrefillMs: undefined,
};

export class RankBooking implements StageBooking, ActivePrefill {
  readonly id: string;
  readonly bookedAtMs: number;
  readonly workerId: bigint;
  readonly dpRank: number;
  readonly events: BookingEvents | undefined;
  readonly expectedPrefillMs: number | undefined;
  load: BookedLoad;
  /** −1 while the rank is not known. */
  slot = -1;
  nodes: Int32Array = noNodes;
  privateBlocks = 0;
  /** Their weights' sum. */
  privateWeight = 0;
  prefillTokens = 0;
  older: ActivePrefill | undefined = undefined;
  newer: ActivePrefill | undefined = undefined;
  isPrefilled = false;
  isOver = false;
  readonly #sequences: ActiveSequences;

  constructor(
    sequences: ActiveSequences,
    id: string,
    workerId: bigint,
    dpRank: number,
    load: BookedLoad,
    bookedAtMs: number,
    events: BookingEvents | undefined,
  ) {
    this.id = id;
    this.bookedAtMs = bookedAtMs;
    this.workerId = workerId;
    this.dpRank = dpRank;
    this.events = events;
    this.expectedPrefillMs = load.expectedPrefillMs;
    this.load = load;
    this.#sequences = sequences;
  }

  prefillCompleted(): void {
    this.#sequences.completePrefill(this);
  }

  outputBlock(decay: number | undefined): void {
    this.#sequences.addOutputBlock(this, decay);
  }

  free(): void {
    this.#sequences.end(this);
  }
}

function at(column: Float64Array | Int32Array, slot: number): number {
  return column[slot] ?? 0;
}
