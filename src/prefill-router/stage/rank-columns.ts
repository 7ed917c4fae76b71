/** What runs on each rank, one column a figure, indexed by the rank's slot. A freed slot is taken again; its columns are then zero. */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep

const initialSlots = 32;

/** About what a worker's cache holds: whoever has computed that much anew has forgotten the rest. */
const forgottenAtTokens = 1_000_000;

/** The slot's rank has no blocks in the index. */
export const noHolder = -1;

export class RankColumns {
  readonly #free: number[] = [];
  #count = 0;
  dpRank = new Int32Array(initialSlots);
  /** The index's number for the rank. */
  holder = new Int32Array(initialSlots).fill(noHolder);
  /** Prompt tokens, net of cached ones, that are still to be computed. */
  prefillTokens = new Float64Array(initialSlots);
  /** Weight of the distinct prompt blocks; fractional while output decays. */
  promptBlocks = new Float64Array(initialSlots);
  /** Blocks that belong to one booking: output, and prompts that are not to be shared. */
  privateBlocks = new Float64Array(initialSlots);
  requests = new Int32Array(initialSlots);
  /** Tokens the rank was given to compute, of late: what its cache had to take in, and to forget for it. */
  computed = new Float64Array(initialSlots);

  /** Length of the columns: a multiple of 32, whole words of a mask by slot. */
  get size(): number {
    return this.dpRank.length;
  }

  /** Slots ever used. */
  get count(): number {
    return this.#count;
  }

  get inUse(): number {
    return this.#count - this.#free.length;
  }

  take(dpRank: number): number {
    let slot = this.#free.pop();
    if (slot === undefined) {
      if (this.#count === this.dpRank.length) this.#grow();
      slot = this.#count++;
    }
    this.dpRank[slot] = dpRank;
    this.holder[slot] = noHolder;
    this.prefillTokens[slot] = 0;
    this.promptBlocks[slot] = 0;
    this.privateBlocks[slot] = 0;
    this.requests[slot] = 0;
    this.computed[slot] = 0;
    return slot;
  }

  give(slot: number): void {
    this.#free.push(slot);
  }

  activeBlocks(slot: number): number {
    return Math.round(this.promptBlocks[slot]! + this.privateBlocks[slot]!);
  }

  /** A rank is to compute so many tokens. Those of long ago count ever less, so that one that joins is not given every tie for good. */
  addComputed(slot: number, tokens: number): void {
    const sum = this.computed[slot]! + tokens;
    this.computed[slot] = sum;
    if (sum <= forgottenAtTokens) return;
    for (let other = 0; other < this.#count; other++) this.computed[other] = this.computed[other]! / 2;
  }

  #grow(): void {
    const size = this.dpRank.length * 2;
    this.dpRank = integers(this.dpRank, size);
    this.holder = integers(this.holder, size);
    this.requests = integers(this.requests, size);
    this.prefillTokens = floats(this.prefillTokens, size);
    this.promptBlocks = floats(this.promptBlocks, size);
    this.privateBlocks = floats(this.privateBlocks, size);
    this.computed = floats(this.computed, size);
  }
}

function integers(column: Int32Array, size: number): Int32Array<ArrayBuffer> {
  const wider = new Int32Array(size);
  wider.set(column);
  return wider;
}

function floats(column: Float64Array, size: number): Float64Array<ArrayBuffer> {
  const wider = new Float64Array(size);
  wider.set(column);
  return wider;
}
