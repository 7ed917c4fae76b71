/**
 * Prompt tokens that each rank still has to compute, less what it should have computed by now. Where the expected duration of every prefill of a rank
 * is known, all of its tokens shrink at the speed of its oldest one; where one is not, the oldest alone shrinks. Ranks without expected durations
 * count in full and cost nothing more. The arithmetic is that of dynamo-kv-router 1.6.1, sequences/prefill_tracker.rs.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import type { RankColumns } from "./rank-columns.ts";

/** One request's prefill, linked to those before and after it on its rank. */
export interface ActivePrefill {
  /** Above 0 while it counts. */
  prefillTokens: number;
  /** How long it takes once it runs alone. Undefined: nobody knows. */
  readonly expectedPrefillMs: number | undefined;
  older: ActivePrefill | undefined;
  newer: ActivePrefill | undefined;
}

/** Of an anchor whose duration is not known. */
const unknownMs = -1;

export class ActivePrefills {
  readonly #columns: RankColumns;
  readonly #now: () => number;
  readonly #newest: (ActivePrefill | undefined)[] = [];
  #tokens = new Float64Array(0);
  #count = new Int32Array(0);
  /** Prefills whose duration is known. */
  #modeled = new Int32Array(0);
  /** Since when the oldest is taken to run. Means nothing where no duration of the rank is known. */
  #anchoredAtMs = new Float64Array(0);
  #anchorTokens = new Float64Array(0);
  #anchorMs = new Float64Array(0);
  #allModeled = 0;

  /** Keeps `columns.prefillTokens`. `now` is asked only where time matters. */
  constructor(columns: RankColumns, now: () => number) {
    this.#columns = columns;
    this.#now = now;
  }

  insert(slot: number, prefill: ActivePrefill, nowMs: number): void {
    if (slot >= this.#tokens.length) this.#grow();
    const newest = this.#newest[slot];
    prefill.older = newest;
    if (newest !== undefined) newest.newer = prefill;
    this.#newest[slot] = prefill;
    if (newest === undefined) this.#anchor(slot, prefill, nowMs);
    this.#count[slot]!++;
    this.#tokens[slot]! += prefill.prefillTokens;
    if (prefill.expectedPrefillMs !== undefined) {
      this.#modeled[slot]!++;
      this.#allModeled++;
    }
    this.#columns.prefillTokens[slot] = this.#activeTokens(slot, nowMs);
  }

  remove(slot: number, prefill: ActivePrefill): void {
    const nowMs = this.#modeled[slot]! > 0 ? this.#now() : 0;
    const { older, newer, expectedPrefillMs } = prefill;
    prefill.older = undefined;
    prefill.newer = undefined;
    if (older !== undefined) older.newer = newer;
    if (newer === undefined) this.#newest[slot] = older;
    else newer.older = older;
    this.#count[slot]!--;
    this.#tokens[slot]! -= prefill.prefillTokens;
    if (expectedPrefillMs !== undefined) {
      this.#modeled[slot]!--;
      this.#allModeled--;
    }
    if (older !== undefined) {
      // Its share of the time since the anchor was its own: what is left of the others stays what it was.
      if (expectedPrefillMs !== undefined) {
        this.#anchoredAtMs[slot] = Math.min(nowMs, this.#anchoredAtMs[slot]! + expectedPrefillMs);
      }
    } else if (newer !== undefined) {
      this.#anchor(slot, newer, nowMs);
    }
    this.#columns.prefillTokens[slot] = this.#activeTokens(slot, nowMs);
  }

  /** Brings the columns to a time, or to now; to be called before they are read. */
  refresh(timeMs?: number): void {
    if (this.#allModeled === 0) return;
    const nowMs = timeMs ?? this.#now();
    const { prefillTokens } = this.#columns;
    for (let slot = 0; slot < this.#modeled.length; slot++) {
      if (this.#modeled[slot]! > 0) prefillTokens[slot] = this.#activeTokens(slot, nowMs);
    }
  }

  #anchor(slot: number, { prefillTokens, expectedPrefillMs }: ActivePrefill, nowMs: number): void {
    this.#anchoredAtMs[slot] = nowMs;
    this.#anchorTokens[slot] = prefillTokens;
    this.#anchorMs[slot] = expectedPrefillMs ?? unknownMs;
  }

  #activeTokens(slot: number, nowMs: number): number {
    const tokens = this.#tokens[slot]!;
    const durationMs = this.#anchorMs[slot]!;
    if (this.#modeled[slot] === 0 || durationMs === unknownMs) return tokens;
    const anchorTokens = this.#anchorTokens[slot]!;
    const elapsedMs = Math.max(0, nowMs - this.#anchoredAtMs[slot]!);
    if (this.#modeled[slot] === this.#count[slot]) {
      const computed = durationMs === 0 ? anchorTokens : Math.floor((anchorTokens * elapsedMs) / durationMs);
      return Math.max(0, tokens - computed);
    }
    const remaining = durationMs === 0 ? 0 : Math.max(0, 1 - elapsedMs / durationMs);
    return tokens - anchorTokens + Math.ceil(anchorTokens * remaining);
  }

  #grow(): void {
    const size = this.#columns.size;
    this.#tokens = widened(this.#tokens, size);
    this.#anchoredAtMs = widened(this.#anchoredAtMs, size);
    this.#anchorTokens = widened(this.#anchorTokens, size);
    this.#anchorMs = widened(this.#anchorMs, size);
    const count = new Int32Array(size);
    count.set(this.#count);
    this.#count = count;
    const modeled = new Int32Array(size);
    modeled.set(this.#modeled);
    this.#modeled = modeled;
  }
}

function widened(column: Float64Array, size: number): Float64Array<ArrayBuffer> {
  const wider = new Float64Array(size);
  wider.set(column);
  return wider;
}
