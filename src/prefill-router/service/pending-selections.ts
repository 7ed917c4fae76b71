/**
 * Selections that were answered and not booked, kept by id so that a booking may follow without the prompt. Each is used once; they are bounded in
 * age, number and bytes, the oldest going first. Time is an argument.
 */
import type { Plan, PlanRequest } from "../contracts.ts";

export interface PendingSelection {
  readonly request: PlanRequest;
  readonly plan: Plan;
}

export interface PendingBounds {
  readonly ttlMs: number;
  readonly maxEntries: number;
  readonly maxBytes: number;
}

/** Dynamo's. */
export const defaultPendingBounds: PendingBounds = { ttlMs: 120_000, maxEntries: 4_096, maxBytes: 268_435_456 };

interface Entry {
  readonly selection: PendingSelection;
  readonly sinceMs: number;
  readonly bytes: number;
}

export class PendingSelections {
  readonly #bounds: PendingBounds;
  /** Oldest first. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(bounds: PendingBounds) {
    this.#bounds = bounds;
  }

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Takes the place of an earlier one of the same key. One too large for the bounds is not kept. */
  set(key: string, selection: PendingSelection, nowMs: number): void {
    this.delete(key);
    const bytes = bytesOf(key, selection.request);
    this.#entries.set(key, { selection, sinceMs: nowMs, bytes });
    this.#bytes += bytes;
    const { ttlMs, maxEntries, maxBytes } = this.#bounds;
    for (const [oldest, entry] of this.#entries) {
      const isOver = this.#entries.size > maxEntries || this.#bytes > maxBytes;
      if (!isOver && nowMs - entry.sinceMs <= ttlMs) break;
      this.delete(oldest);
    }
  }

  get(key: string, nowMs: number): PendingSelection | undefined {
    const entry = this.#entries.get(key);
    return entry !== undefined && nowMs - entry.sinceMs <= this.#bounds.ttlMs ? entry.selection : undefined;
  }

  /** Forgets this very selection: a later one under its key stays. */
  used(key: string, selection: PendingSelection): void {
    if (this.#entries.get(key)?.selection === selection) this.delete(key);
  }

  delete(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#bytes -= entry.bytes;
  }
}

/** About what an entry keeps alive beside its hashes. */
const fixedBytes = 512;

function bytesOf(key: string, { blockHashes, sequenceHashes, trackingHashes }: PlanRequest): number {
  const hashes = blockHashes.byteLength + sequenceHashes.byteLength + (trackingHashes?.byteLength ?? 0);
  return fixedBytes + 2 * key.length + hashes;
}
