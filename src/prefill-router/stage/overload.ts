/**
 * Busy thresholds: a rank is busy when its KV blocks or its prefill tokens exceed a threshold that is set; a worker when all its ranks are. What is
 * compared is the latest word of either side: the router's own books after each booking, or what the worker reports. A rank busy by blocks stays so
 * until neither side says it is, since the two learn at different times.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep

/** Undefined: not compared. All comparisons are strict. */
export interface BusyThresholds {
  /** Of totalKvBlocks, 0 to 1. */
  readonly activeDecodeBlocks: number | undefined;
  readonly activePrefillTokens: number | undefined;
  /** Of maxNumBatchedTokens. */
  readonly activePrefillTokensFraction: number | undefined;
}

/** What a worker reports of one rank (Dynamo's ActiveLoad); what is undefined stays as it was. */
export interface ReportedLoad {
  readonly activeDecodeBlocks?: number | undefined;
  readonly activePrefillTokens?: number | undefined;
  readonly kvUsedBlocks?: number | undefined;
}

/** Dynamo takes this for the token capacity of a worker that does not tell its own. */
export const assumedMaxBatchedTokens = 10_000_000;

const byActive = 1;
const byUsed = 2;
const latched = 4;

export class OverloadWatch {
  #thresholds: BusyThresholds;
  // Not-a-number where nothing has been said yet.
  #decodeBlocks = new Float64Array(0);
  #prefillTokens = new Float64Array(0);
  #usedBlocks = new Float64Array(0);
  #totalBlocks = new Float64Array(0);
  #maxBatchedTokens = new Float64Array(0);
  /** Which signals last said busy, and whether the rank is held busy. */
  #blocksBusy = new Uint8Array(0);

  constructor(thresholds: BusyThresholds) {
    this.#thresholds = thresholds;
  }

  get thresholds(): BusyThresholds {
    return this.#thresholds;
  }

  get isConfigured(): boolean {
    const { activeDecodeBlocks, activePrefillTokens, activePrefillTokensFraction } = this.#thresholds;
    return (activeDecodeBlocks ?? activePrefillTokens ?? activePrefillTokensFraction) !== undefined;
  }

  /** Takes effect at once; ranks held busy under the old threshold are judged anew. */
  setThresholds(thresholds: BusyThresholds): void {
    this.#thresholds = thresholds;
    for (let slot = 0; slot < this.#blocksBusy.length; slot++) this.#judgeAnew(slot);
  }

  reserveSlots(count: number): void {
    const old = this.#decodeBlocks.length;
    if (count <= old) return;
    this.#decodeBlocks = widened(this.#decodeBlocks, count);
    this.#prefillTokens = widened(this.#prefillTokens, count);
    this.#usedBlocks = widened(this.#usedBlocks, count);
    this.#totalBlocks = widened(this.#totalBlocks, count);
    this.#maxBatchedTokens = widened(this.#maxBatchedTokens, count);
    const busy = new Uint8Array(count);
    busy.set(this.#blocksBusy);
    this.#blocksBusy = busy;
  }

  /** A new rank took the slot: nothing is known of its load. */
  clear(slot: number): void {
    this.#decodeBlocks[slot] = Number.NaN;
    this.#prefillTokens[slot] = Number.NaN;
    this.#usedBlocks[slot] = Number.NaN;
    this.#blocksBusy[slot] = 0;
  }

  setCapacity(slot: number, totalKvBlocks: number | undefined, maxNumBatchedTokens: number | undefined): void {
    this.#totalBlocks[slot] = totalKvBlocks ?? Number.NaN;
    this.#maxBatchedTokens[slot] = maxNumBatchedTokens ?? assumedMaxBatchedTokens;
    this.#judgeAnew(slot);
  }

  /** The router's own books after a change. */
  booked(slot: number, decodeBlocks: number, prefillTokens: number): void {
    this.#decodeBlocks[slot] = decodeBlocks;
    this.#prefillTokens[slot] = prefillTokens;
    if (this.#thresholds.activeDecodeBlocks !== undefined) this.#signal(slot, byActive, decodeBlocks);
  }

  reported(slot: number, load: ReportedLoad): void {
    if (load.activePrefillTokens !== undefined) this.#prefillTokens[slot] = load.activePrefillTokens;
    if (load.activeDecodeBlocks !== undefined) this.#decodeBlocks[slot] = load.activeDecodeBlocks;
    if (load.kvUsedBlocks !== undefined) this.#usedBlocks[slot] = load.kvUsedBlocks;
    if (this.#thresholds.activeDecodeBlocks === undefined) return;
    // Both are taken in before the hold is lifted or set: one message is one observation.
    if (load.activeDecodeBlocks !== undefined) this.#note(slot, byActive, load.activeDecodeBlocks);
    if (load.kvUsedBlocks !== undefined) this.#note(slot, byUsed, load.kvUsedBlocks);
    this.#latch(slot);
  }

  isBusy(slot: number): boolean {
    const { activePrefillTokens, activePrefillTokensFraction } = this.#thresholds;
    const tokens = this.#prefillTokens[slot]!;
    if (activePrefillTokens !== undefined && tokens > activePrefillTokens) return true;
    // Dynamo compares with the whole number below the fraction.
    if (
      activePrefillTokensFraction !== undefined &&
      tokens > Math.trunc(activePrefillTokensFraction * this.#maxBatchedTokens[slot]!)
    ) {
      return true;
    }
    return (this.#blocksBusy[slot]! & latched) !== 0;
  }

  #judgeAnew(slot: number): void {
    this.#blocksBusy[slot] = 0;
    if (this.#thresholds.activeDecodeBlocks === undefined) return;
    this.#note(slot, byActive, this.#decodeBlocks[slot]!);
    this.#note(slot, byUsed, this.#usedBlocks[slot]!);
    this.#latch(slot);
  }

  #signal(slot: number, signal: number, blocks: number): void {
    this.#note(slot, signal, blocks);
    this.#latch(slot);
  }

  #note(slot: number, signal: number, blocks: number): void {
    const limit = (this.#thresholds.activeDecodeBlocks ?? Number.NaN) * this.#totalBlocks[slot]!;
    // Not-a-number compares false; a capacity of 0 is none.
    if (this.#totalBlocks[slot]! > 0 && blocks > limit) this.#blocksBusy[slot]! |= signal;
    else this.#blocksBusy[slot]! &= ~signal;
  }

  #latch(slot: number): void {
    if ((this.#blocksBusy[slot]! & (byActive | byUsed)) !== 0) this.#blocksBusy[slot]! |= latched;
    else this.#blocksBusy[slot] = 0;
  }
}

function widened(column: Float64Array, count: number): Float64Array<ArrayBuffer> {
  const wider = new Float64Array(count).fill(Number.NaN);
  wider.set(column);
  return wider;
}
