/**
 * What a request would cost on one rank, in blocks. The arithmetic and its order are those of Dynamo 1.6.1's default policy, so that equal
 * states give equal costs to the last bit:
 *
 *     decay   = 1 / (1 + overlapScoreCreditDecay × ((active − least active prefill tokens) / blockSize) / request blocks)
 *     credit  = overlapScoreCredit × decay × device + hostCacheHitWeight × host + diskCacheHitWeight × disk + sharedCacheMultiplier × shared
 *     prefill = max(0, (active prefill tokens + isl) / blockSize − credit)
 *     cost    = (prefillLoadScale × prefill + decode blocks + decodeActiveRequestWeight × active requests) × taint multiplier
 *
 * `decode blocks` are those in use once the request runs there. Where prefill tokens are not tracked, decay is 1 and prefill is 0; a decode stage that
 * then keeps a credit costs max(0, decode blocks − credit) instead. A credit of 0 leaves every cached block out, lower tiers too.
 */
import type { StageSettings } from "../config.ts";

/** One selection's constants and scratch; `prepare` before the first `cost`. */
export class CostFunction {
  #settings: StageSettings | undefined;
  #blockSize = 1;
  #isl = 0;
  #requestBlocks = 1;
  #leastActiveTokens = 0;
  #decays = false;
  #subtractsFromDecode = false;
  #usesCache = false;
  #sharedHits: Uint32Array | undefined;
  #sharedBlocks = 0;

  prefillBlocks = 0;
  decodeBlocks = 0;
  requestBlocks = 0;
  creditBlocks = 0;
  creditDecay = 1;
  taintMultiplier = 1;
  value = 0;

  /** `sharedHits`: ranges [from, to) of the prompt's blocks that a shared cache has, flat; undefined without one. */
  prepare(
    settings: StageSettings,
    isDecode: boolean,
    blockSize: number,
    isl: number,
    sharedHits: Uint32Array | undefined,
  ): void {
    this.#settings = settings;
    this.#blockSize = blockSize;
    this.#isl = isl;
    this.#requestBlocks = Math.max(1, Math.ceil(isl / blockSize));
    this.#leastActiveTokens = 0;
    this.#decays = settings.trackPrefillTokens && settings.overlapScoreCreditDecay > 0;
    this.#usesCache = settings.overlapScoreCredit !== 0;
    this.#subtractsFromDecode = isDecode && !settings.trackPrefillTokens && settings.overlapScoreCredit > 0;
    this.#sharedHits = sharedHits;
  }

  /** Whether `leastActiveTokens` matters. */
  get decays(): boolean {
    return this.#decays;
  }

  set leastActiveTokens(tokens: number) {
    this.#leastActiveTokens = tokens;
  }

  cost(
    activePrefillTokens: number,
    decodeBlocks: number,
    activeRequests: number,
    device: number,
    host: number,
    disk: number,
    cachedTokens: number,
    taintMultiplier: number,
  ): number {
    const settings = this.#settings;
    if (settings === undefined) return Number.NaN;
    let decay = 1;
    let credit = 0;
    let cached = 0;
    this.#sharedBlocks = 0;
    if (this.#usesCache) {
      cached = cachedTokens;
      if (this.#decays) {
        const excess = Math.max(0, activePrefillTokens - this.#leastActiveTokens) / this.#blockSize;
        decay = 1 / (1 + settings.overlapScoreCreditDecay * (excess / this.#requestBlocks));
      }
      if (this.#sharedHits !== undefined) this.#sharedBlocks = blocksBeyond(this.#sharedHits, device);
      credit =
        settings.overlapScoreCredit * decay * device +
        settings.hostCacheHitWeight * host +
        settings.diskCacheHitWeight * disk +
        settings.sharedCacheMultiplier * this.#sharedBlocks;
    }
    const requestCost = settings.decodeActiveRequestWeight * activeRequests;
    let prefill = 0;
    let cost: number;
    if (this.#subtractsFromDecode) {
      cost = Math.max(0, decodeBlocks - credit) + requestCost;
    } else {
      const tokens = settings.trackPrefillTokens ? activePrefillTokens + Math.max(0, this.#isl - cached) + cached : 0;
      prefill = Math.max(0, tokens / this.#blockSize - credit);
      cost = settings.prefillLoadScale * prefill + decodeBlocks + requestCost;
    }
    this.prefillBlocks = prefill;
    this.decodeBlocks = decodeBlocks;
    this.requestBlocks = requestCost;
    this.creditBlocks = credit;
    this.creditDecay = decay;
    this.taintMultiplier = taintMultiplier;
    this.value = cost * taintMultiplier;
    return this.value;
  }

  /** The terms of the last `cost`, by name, for whoever asks why. */
  terms(): Readonly<Record<string, number>> {
    return {
      prefillBlocks: this.prefillBlocks,
      decodeBlocks: this.decodeBlocks,
      requestBlocks: this.requestBlocks,
      creditBlocks: this.creditBlocks,
      creditDecay: this.creditDecay,
      taintMultiplier: this.taintMultiplier,
      ...(this.#sharedHits === undefined ? {} : { sharedBlocks: this.#sharedBlocks }),
    };
  }
}

/** Blocks of the prompt a rank has, lower tiers weighted as the cost weighs them, in tokens; may exceed the prompt. */
export function cachedTokensOf(
  settings: StageSettings,
  blockSize: number,
  device: number,
  host: number,
  disk: number,
): number {
  const blocks = device + host * settings.hostCacheHitWeight + disk * settings.diskCacheHitWeight;
  return Math.max(0, Math.round(blocks * blockSize));
}

/** Blocks of the ranges [from, to), flat, from the one at `device` on. */
export function blocksBeyond(ranges: Uint32Array, device: number): number {
  let blocks = 0;
  for (let at = 0; at + 1 < ranges.length; at += 2) {
    const from = Math.max(ranges[at] ?? 0, device);
    const to = ranges[at + 1] ?? 0;
    if (to > from) blocks += to - from;
  }
  return blocks;
}
