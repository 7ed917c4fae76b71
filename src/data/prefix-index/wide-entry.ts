/**
 * The two words of holders in an entry of a wide shard (block-holders.ts): up to four holders as 1 + id in 16 bits each, 0 for none; or the number of
 * a row (holder-rows.ts) and −1. `at` is the entry's offset in its table.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import type { HolderRows } from "./holder-rows.ts";

/** Second word of holders kept in a row; no packed pair looks like it. */
const inRow = -1;
const packedHolders = 4;
/** A row that shrinks to this many holders is packed again. */
const repackAt = 2;

/** 1 + the holder in one of the four places of a packed entry; 0 for none. */
function packed(table: Int32Array, at: number, slot: number): number {
  return (table[at + 2 + (slot >>> 1)]! >>> ((slot & 1) << 4)) & 0xffff;
}

function setPacked(table: Int32Array, at: number, slot: number, id: number): void {
  const word = at + 2 + (slot >>> 1);
  const shift = (slot & 1) << 4;
  table[word] = (table[word]! & ~(0xffff << shift)) | (id << shift);
}

function packedSlot(table: Int32Array, at: number, id: number): number {
  for (let slot = 0; slot < packedHolders; slot++) if (packed(table, at, slot) === id) return slot;
  return -1;
}

export function hasWide(table: Int32Array, at: number, rows: HolderRows, holder: number): boolean {
  return table[at + 3] === inRow ? rows.has(table[at + 2]!, holder) : packedSlot(table, at, holder + 1) >= 0;
}

/** Overwrites the mask with the entry's holders, as far as it has bits for them. */
export function readWide(table: Int32Array, at: number, rows: HolderRows, mask: Int32Array): void {
  if (table[at + 3] === inRow) {
    rows.read(table[at + 2]!, mask);
    return;
  }
  for (let word = 0; word < mask.length; word++) mask[word] = 0;
  for (let slot = 0; slot < packedHolders; slot++) {
    const id = packed(table, at, slot);
    if (id !== 0 && id <= 32 * mask.length) mask[(id - 1) >>> 5]! |= 1 << ((id - 1) & 31);
  }
}

/** Says whether the holder was not in the entry before. */
export function addWide(table: Int32Array, at: number, rows: HolderRows, holder: number): boolean {
  if (table[at + 3] === inRow) return rows.add(table[at + 2]!, holder);
  if (packedSlot(table, at, holder + 1) >= 0) return false;
  const free = packedSlot(table, at, 0);
  if (free >= 0) {
    setPacked(table, at, free, holder + 1);
    return true;
  }
  const row = rows.allocate();
  for (let slot = 0; slot < packedHolders; slot++) rows.add(row, packed(table, at, slot) - 1);
  rows.add(row, holder);
  table[at + 2] = row;
  table[at + 3] = inRow;
  return true;
}

/** Says whether the holder was in the entry. */
export function removeWide(table: Int32Array, at: number, rows: HolderRows, holder: number): boolean {
  if (table[at + 3] === inRow) {
    if (!rows.remove(table[at + 2]!, holder)) return false;
    repack(table, at, rows);
    return true;
  }
  const slot = packedSlot(table, at, holder + 1);
  if (slot < 0) return false;
  setPacked(table, at, slot, 0);
  return true;
}

/** Takes every holder of the mask out of the entry. */
export function removeAllWide(table: Int32Array, at: number, rows: HolderRows, gone: Int32Array): void {
  if (table[at + 3] === inRow) {
    rows.removeAll(table[at + 2]!, gone);
    repack(table, at, rows);
    return;
  }
  for (let slot = 0; slot < packedHolders; slot++) {
    const id = packed(table, at, slot);
    if (id !== 0 && id <= 32 * gone.length && ((gone[(id - 1) >>> 5]! >>> ((id - 1) & 31)) & 1) !== 0) {
      setPacked(table, at, slot, 0);
    }
  }
}

/** Gives up a row that has become nearly empty. */
function repack(table: Int32Array, at: number, rows: HolderRows): void {
  const row = table[at + 2]!;
  if (rows.count(row) > repackAt) return;
  table[at + 2] = 0;
  table[at + 3] = 0;
  for (let holder = rows.next(row, 0), slot = 0; holder >= 0; holder = rows.next(row, holder + 1), slot++) {
    setPacked(table, at, slot, holder + 1);
  }
  rows.release(row);
}
