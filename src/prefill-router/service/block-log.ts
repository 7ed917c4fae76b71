/**
 * What one rank's engine said of its blocks on one tier: the engine's hash, the hash of the tokens and the block before. The index keeps none of
 * this, and a peer that starts asks for all of it. 32 bytes an entry at a load of 0.35 to 0.7; sixteen parts grow on their own.
 */
// biome-ignore-all lint/style/noNonNullAssertion: loops over typed arrays, whose bounds the loops keep
import { type AddressSecrets, addressOf } from "../../data/prefix-index/block-address.ts";

const partCount = 16;
const minBits = 3;
const maxLoad = 0.7;
/** Words of an entry: engine, tokens and parent hash, low word first, then flags. */
const stride = 8;
const flags = 6;
const used = 1;
const withParent = 2;

export interface LoggedBlock {
  readonly engineHash: bigint;
  readonly tokensHash: bigint;
  readonly parentHash: bigint | undefined;
}

export class BlockLog {
  readonly #secrets: AddressSecrets;
  readonly #parts: Uint32Array[];
  readonly #bits = new Uint8Array(partCount).fill(minBits);
  readonly #counts = new Uint32Array(partCount);
  #size = 0;

  constructor(secrets: AddressSecrets) {
    this.#secrets = secrets;
    this.#parts = Array.from({ length: partCount }, () => new Uint32Array(stride << minBits));
  }

  get size(): number {
    return this.#size;
  }

  get sizeBytes(): number {
    return this.#parts.reduce((sum, part) => sum + part.byteLength, 0);
  }

  /** A block that is known is told anew. */
  set(low: number, high: number, tokensLow: number, tokensHigh: number, parent: ParentWords): void {
    const address = addressOf(this.#secrets, low, high);
    const index = address & (partCount - 1);
    let at = this.#at(address, low, high);
    if (at < 0) {
      if (this.#counts[index]! + 1 > maxLoad * (1 << this.#bits[index]!)) {
        this.#grow(index);
        at = this.#at(address, low, high);
      }
      at = -1 - at;
      this.#counts[index]!++;
      this.#size++;
    }
    const part = this.#parts[index]!;
    part[at] = low;
    part[at + 1] = high;
    part[at + 2] = tokensLow;
    part[at + 3] = tokensHigh;
    part[at + 4] = parent.low;
    part[at + 5] = parent.high;
    part[at + flags] = parent.isThere ? used | withParent : used;
  }

  delete(low: number, high: number): void {
    const address = addressOf(this.#secrets, low, high);
    const at = this.#at(address, low, high);
    if (at < 0) return;
    const index = address & (partCount - 1);
    this.#close(index, at / stride);
    this.#counts[index]!--;
    this.#size--;
  }

  /** In no order. The log must not change meanwhile: take a part at a time. */
  blocksOfPart(index: number): LoggedBlock[] {
    const part = this.#parts[index];
    const blocks: LoggedBlock[] = [];
    if (part === undefined) return blocks;
    for (let at = 0; at < part.length; at += stride) {
      const flag = part[at + flags]!;
      if (flag === 0) continue;
      blocks.push({
        engineHash: wide(part[at]!, part[at + 1]!),
        tokensHash: wide(part[at + 2]!, part[at + 3]!),
        parentHash: (flag & withParent) === 0 ? undefined : wide(part[at + 4]!, part[at + 5]!),
      });
    }
    return blocks;
  }

  #at(address: number, low: number, high: number): number {
    const index = address & (partCount - 1);
    const part = this.#parts[index]!;
    const bits = this.#bits[index]!;
    const last = (1 << bits) - 1;
    for (let slot = address >>> (32 - bits); ; slot = (slot + 1) & last) {
      const at = slot * stride;
      if (part[at + flags] === 0) return -1 - at;
      if (part[at] === low && part[at + 1] === high) return at;
    }
  }

  /** Frees the slot and moves later entries of its run back. */
  #close(index: number, freed: number): void {
    const part = this.#parts[index]!;
    const bits = this.#bits[index]!;
    const last = (1 << bits) - 1;
    let hole = freed;
    for (let slot = (hole + 1) & last; ; slot = (slot + 1) & last) {
      const from = slot * stride;
      if (part[from + flags] === 0) break;
      const home = addressOf(this.#secrets, part[from]! | 0, part[from + 1]! | 0) >>> (32 - bits);
      if (((slot - home) & last) < ((slot - hole) & last)) continue;
      part.copyWithin(hole * stride, from, from + stride);
      hole = slot;
    }
    part.fill(0, hole * stride, (hole + 1) * stride);
  }

  #grow(index: number): void {
    const old = this.#parts[index]!;
    const bits = this.#bits[index]! + 1;
    const fresh = new Uint32Array(stride << bits);
    const last = (1 << bits) - 1;
    for (let from = 0; from < old.length; from += stride) {
      if (old[from + flags] === 0) continue;
      let slot = addressOf(this.#secrets, old[from]! | 0, old[from + 1]! | 0) >>> (32 - bits);
      while (fresh[slot * stride + flags] !== 0) slot = (slot + 1) & last;
      fresh.set(old.subarray(from, from + stride), slot * stride);
    }
    this.#parts[index] = fresh;
    this.#bits[index] = bits;
  }
}

export const logParts = partCount;

export interface ParentWords {
  readonly low: number;
  readonly high: number;
  readonly isThere: boolean;
}

function wide(low: number, high: number): bigint {
  return (BigInt(high) << 32n) | BigInt(low);
}
