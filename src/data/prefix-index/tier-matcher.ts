/**
 * Matches a prompt against the tables of all tiers: the contiguous blocks each holder has on the device, then how far each lower tier goes on from
 * there. Scratch is kept from one match to the next.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import type { BlockHolders } from "./block-holders.ts";
import type { HolderSeats } from "./holder-seats.ts";
import type { KvMatches } from "./kv-index.ts";

export const tierCount = 4;

export class TierMatcher {
  readonly #seats: HolderSeats;
  readonly #device: BlockHolders;
  /** By tier, the device's first. */
  readonly #tables: readonly (BlockHolders | undefined)[];
  /** By seat. */
  #depths = new Int32Array(64);
  #ends = new Int32Array(64);
  #alive = new Int32Array(2);

  constructor(seats: HolderSeats, device: BlockHolders, tables: readonly (BlockHolders | undefined)[]) {
    this.#seats = seats;
    this.#device = device;
    this.#tables = tables;
  }

  match(sequenceHashes: Uint32Array, matches: KvMatches): void {
    const blocks = sequenceHashes.length >> 1;
    const hashes = new Int32Array(sequenceHashes.buffer, sequenceHashes.byteOffset, sequenceHashes.length);
    const alive = this.#scratch();
    const depths = this.#depths;
    this.#device.match(hashes, 0, blocks, alive, depths);
    this.#give(matches.device, depths, undefined);
    let before = depths;
    for (let tier = 1; tier < tierCount; tier++) {
      const column = tier === 1 ? matches.host : matches.disk;
      if (tier < 3) column.fill(0);
      const table = this.#tables[tier];
      if (table === undefined || table.blocks === 0) continue;
      const ends = before === this.#depths ? this.#ends : this.#depths;
      ends.set(before);
      table.extend(hashes, blocks, this.#seats.alive, ends);
      this.#give(column, ends, before);
      before = ends;
    }
  }

  /** The mask of attached seats, to be used up, and depths of 0. */
  #scratch(): Int32Array {
    const { alive } = this.#seats;
    if (this.#alive.length !== alive.length) {
      this.#alive = new Int32Array(alive.length);
      this.#depths = new Int32Array(32 * alive.length);
      this.#ends = new Int32Array(32 * alive.length);
    } else {
      this.#depths.fill(0);
    }
    this.#alive.set(alive);
    return this.#alive;
  }

  /** Adds to the column what `ends` is beyond `before`, from seats to holders; without `before` overwrites it. */
  #give(column: Int32Array, ends: Int32Array, before: Int32Array | undefined): void {
    const count = Math.min(column.length, this.#seats.holderCount);
    for (let holder = 0; holder < count; holder++) {
      const seat = this.#seats.of(holder);
      if (before === undefined) column[holder] = seat < 0 ? 0 : ends[seat]!;
      else if (seat >= 0) column[holder]! += ends[seat]! - before[seat]!;
    }
    if (before === undefined) column.fill(0, count);
  }
}
