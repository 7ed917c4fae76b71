/**
 * How often each block of one rank is held on each tier, and under which cache salt: an engine may store a block twice (two cache groups, a replay)
 * and it is gone only when it was removed as often. Open addressing over typed arrays in segments, so that growing never stops the loop for long:
 *
 *     slot: hash low | hash high | device 16 bit, host 16 bit | disk 16 bit, external 16 bit        empty when both counts are 0
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose indices are masked
import { addressOf, createAddressSecrets } from "../prefix-index/block-address.ts";
import type { StorageTier } from "../prefix-index/kv-index.ts";

/** An engine that chooses its hashes cannot choose which of them collide. */
const secrets = createAddressSecrets(Math.random);

const segmentBits = 4;
const firstSlots = 16;
const slotWords = 4;
const maxCount = 0xffff;

class Segment {
  words = new Uint32Array(firstSlots * slotWords);
  /** By slot; allocated when the first salted block comes. */
  salts: Uint16Array | undefined;
  mask = firstSlots - 1;
  used = 0;
}

export class BlockReferences {
  readonly #segments: Segment[] = Array.from({ length: 1 << segmentBits }, () => new Segment());
  readonly #maxBlocks: number;
  #size = 0;

  /** Beyond `maxBlocks` distinct blocks nothing more is taken. */
  constructor(maxBlocks: number) {
    this.#maxBlocks = maxBlocks;
  }

  /** Distinct blocks held on any tier. */
  get size(): number {
    return this.#size;
  }

  get sizeBytes(): number {
    let sum = 0;
    for (const { words, salts } of this.#segments) sum += words.byteLength + (salts?.byteLength ?? 0);
    return sum;
  }

  /** Room for that many more blocks. */
  hasRoom(blocks: number): boolean {
    return this.#size + blocks <= this.#maxBlocks;
  }

  add(low: number, high: number, tier: StorageTier, salt: number): void {
    const segment = this.#segmentOf(low, high);
    let slot = find(segment, low, high);
    if (slot < 0) {
      if (segment.used * 5 >= (segment.mask + 1) * 3) {
        grow(segment);
        slot = find(segment, low, high);
      }
      slot = -1 - slot;
      segment.words[slot * slotWords] = low;
      segment.words[slot * slotWords + 1] = high;
      segment.used += 1;
      this.#size += 1;
      if (salt !== 0) segment.salts ??= new Uint16Array(segment.mask + 1);
      if (segment.salts !== undefined) segment.salts[slot] = salt;
    } else if (segment.salts !== undefined || salt !== 0) {
      segment.salts ??= new Uint16Array(segment.mask + 1);
      if (segment.salts[slot] !== salt) segment.salts[slot] = ambiguousSalt;
    }
    const at = slot * slotWords + 2 + (tier >>> 1);
    const shift = (tier & 1) << 4;
    const count = (segment.words[at]! >>> shift) & maxCount;
    if (count < maxCount) segment.words[at] = segment.words[at]! + (1 << shift);
  }

  /** How often the tier still holds the block; -1 for a block it does not. */
  remove(low: number, high: number, tier: StorageTier): number {
    const segment = this.#segmentOf(low, high);
    const slot = find(segment, low, high);
    if (slot < 0) return -1;
    const at = slot * slotWords + 2 + (tier >>> 1);
    const shift = (tier & 1) << 4;
    const count = (segment.words[at]! >>> shift) & maxCount;
    if (count === 0) return -1;
    segment.words[at] = segment.words[at]! - (1 << shift);
    if ((segment.words[slot * slotWords + 2]! | segment.words[slot * slotWords + 3]!) === 0) {
      close(segment, slot);
      segment.used -= 1;
      this.#size -= 1;
    }
    return count - 1;
  }

  /** The salt a held block was stored under: 0 for none or an unknown block, ambiguousSalt where it was several. */
  saltOf(low: number, high: number): number {
    const segment = this.#segmentOf(low, high);
    if (segment.salts === undefined) return 0;
    const slot = find(segment, low, high);
    return slot < 0 ? 0 : segment.salts[slot]!;
  }

  clear(): void {
    for (let i = 0; i < this.#segments.length; i++) if (!isFresh(this.#segments[i]!)) this.#segments[i] = new Segment();
    this.#size = 0;
  }

  #segmentOf(low: number, high: number): Segment {
    return this.#segments[addressOf(secrets, low, high) >>> (32 - segmentBits)]!;
  }
}

/** A block that was stored under several salts: what hangs below it cannot be told. */
export const ambiguousSalt = 0xffff;

function isFresh({ used, mask, salts }: Segment): boolean {
  return used === 0 && mask === firstSlots - 1 && salts === undefined;
}

/** The block's slot, or -1 - slot of the place where it belongs. */
function find(segment: Segment, low: number, high: number): number {
  const { words, mask } = segment;
  for (let slot = addressOf(secrets, low, high) & mask; ; slot = (slot + 1) & mask) {
    const at = slot * slotWords;
    if ((words[at + 2]! | words[at + 3]!) === 0) return -1 - slot;
    if (words[at] === low && words[at + 1] === high) return slot;
  }
}

function grow(segment: Segment): void {
  const { words, salts, mask } = segment;
  segment.mask = 2 * mask + 1;
  segment.words = new Uint32Array((segment.mask + 1) * slotWords);
  if (salts !== undefined) segment.salts = new Uint16Array(segment.mask + 1);
  for (let slot = 0; slot <= mask; slot++) {
    const at = slot * slotWords;
    if ((words[at + 2]! | words[at + 3]!) === 0) continue;
    const to = -1 - find(segment, words[at]!, words[at + 1]!);
    segment.words.set(words.subarray(at, at + slotWords), to * slotWords);
    if (salts !== undefined && segment.salts !== undefined) segment.salts[to] = salts[slot]!;
  }
}

/** Empties a slot and moves up whatever stood behind it only because it was taken. */
function close(segment: Segment, hole: number): void {
  const { words, salts, mask } = segment;
  let free = hole;
  for (let slot = (hole + 1) & mask; ; slot = (slot + 1) & mask) {
    const at = slot * slotWords;
    if ((words[at + 2]! | words[at + 3]!) === 0) break;
    const home = addressOf(secrets, words[at]!, words[at + 1]!) & mask;
    if (((slot - home) & mask) < ((slot - free) & mask)) continue;
    words.copyWithin(free * slotWords, at, at + slotWords);
    if (salts !== undefined) salts[free] = salts[slot]!;
    free = slot;
  }
  words.fill(0, free * slotWords, (free + 1) * slotWords);
  if (salts !== undefined) salts[free] = 0;
}
