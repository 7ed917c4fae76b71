/** What a request costs on each rank that may be chosen, from the columns, the running blocks and the index's matches. Scratch is reused. */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import type { Selected, StageRequest } from "../stage.ts";
import type { ActiveBlocks } from "./active-blocks.ts";
import { CostFunction, cachedTokensOf } from "./cost.ts";
import type { Eligibility } from "./eligibility.ts";
import type { RankColumns } from "./rank-columns.ts";
import { taintMultiplier } from "./taints.ts";

export class RankCosts {
  readonly #columns: RankColumns;
  readonly #blocks: ActiveBlocks;
  readonly #eligible: Eligibility;
  readonly #blockSize: number;
  readonly #isDecode: boolean;
  readonly #function = new CostFunction();
  /** By slot: blocks of the prompt that the rank has in use. */
  #depths = new Int32Array(0);
  /** By index of the eligible. */
  costs = new Float64Array(0);
  /** As long as `costs`, for whoever chooses. */
  scratch = new Float64Array(0);

  constructor(columns: RankColumns, blocks: ActiveBlocks, eligible: Eligibility, blockSize: number, isDecode: boolean) {
    this.#columns = columns;
    this.#blocks = blocks;
    this.#eligible = eligible;
    this.#blockSize = blockSize;
    this.#isDecode = isDecode;
  }

  /** Before `costOf`, for the request and those who are eligible now. */
  prepare(request: StageRequest): void {
    const { settings, isl, sharedHits } = request;
    this.#function.prepare(settings, this.#isDecode, this.#blockSize, isl, sharedHits);
    this.prepareDepths(request);
    if (!this.#function.decays) return;
    const { slots, count } = this.#eligible;
    let least = Number.POSITIVE_INFINITY;
    for (let index = 0; index < count; index++) {
      least = Math.min(least, this.#columns.prefillTokens[slots[index]!]!);
    }
    this.#function.leastActiveTokens = least;
  }

  /** Before `potentialBlocks`. */
  prepareDepths(request: StageRequest): void {
    if (this.costs.length < this.#columns.size) {
      this.#depths = new Int32Array(this.#columns.size);
      this.costs = new Float64Array(this.#columns.size);
      this.scratch = new Float64Array(this.#columns.size);
    }
    const { settings, sequenceHashes } = request;
    if (!settings.trackActiveBlocks) return;
    this.#blocks.match(sequenceHashes, settings.assumeKvReuse ? sequenceHashes.length >>> 1 : 0, this.#depths);
  }

  costAll(request: StageRequest): void {
    const count = this.#eligible.count;
    for (let index = 0; index < count; index++) this.costs[index] = this.costOf(index, request);
  }

  costOf(index: number, request: StageRequest): number {
    const { settings, matches, constraints } = request;
    const slot = this.#eligible.slots[index]!;
    const holder = this.#columns.holder[slot]!;
    let device = 0;
    let host = 0;
    let disk = 0;
    let cached = 0;
    if (matches !== undefined && holder >= 0) {
      device = matches.device[holder] ?? 0;
      host = matches.host[holder] ?? 0;
      disk = matches.disk[holder] ?? 0;
      cached = cachedTokensOf(settings, this.#blockSize, device, host, disk);
    }
    const multiplier =
      constraints === undefined || this.#eligible.isPinned
        ? 1
        : taintMultiplier(constraints, this.#eligible.workers[index]!.taints);
    return this.#function.cost(
      this.#columns.prefillTokens[slot]!,
      this.potentialBlocks(slot, request),
      this.#columns.requests[slot]!,
      device,
      host,
      disk,
      cached,
      multiplier,
    );
  }

  /** Of the last `costOf`. */
  terms(): Readonly<Record<string, number>> {
    return this.#function.terms();
  }

  /** Blocks in use on the rank once the request runs there. */
  potentialBlocks(slot: number, request: StageRequest): number {
    const active = this.#columns.activeBlocks(slot);
    if (!request.settings.trackActiveBlocks) return active;
    return active + (request.sequenceHashes.length >>> 1) - this.#depths[slot]!;
  }

  cachedTokens(slot: number, request: StageRequest): number {
    const { matches, settings } = request;
    const holder = this.#columns.holder[slot]!;
    if (matches === undefined || holder < 0) return 0;
    const device = matches.device[holder] ?? 0;
    return cachedTokensOf(settings, this.#blockSize, device, matches.host[holder] ?? 0, matches.disk[holder] ?? 0);
  }

  selected(index: number, request: StageRequest): Selected {
    const { isl, matches, sequenceHashes, settings } = request;
    const slot = this.#eligible.slots[index]!;
    const holder = this.#columns.holder[slot]!;
    // Blocks that are not tracked, the incomplete last one among them, come on top.
    const tracked = settings.trackActiveBlocks ? sequenceHashes.length >>> 1 : 0;
    const untracked = Math.max(0, Math.ceil(isl / this.#blockSize) - tracked);
    return {
      kind: "selected",
      worker: this.#eligible.workers[index]!.worker,
      dpRank: this.#columns.dpRank[slot]!,
      slot,
      cost: this.costs[index]!,
      deviceBlocks: matches?.device[holder] ?? 0,
      hostBlocks: matches?.host[holder] ?? 0,
      diskBlocks: matches?.disk[holder] ?? 0,
      cachedTokens: this.cachedTokens(slot, request),
      potentialDecodeBlocks: this.potentialBlocks(slot, request) + untracked,
      activePrefillTokens: this.#columns.prefillTokens[slot]!,
    };
  }
}
