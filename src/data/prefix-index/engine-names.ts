/**
 * What one holder's engine calls its blocks, where that is not their sequence hash: engine hash → sequence hash, 16 bytes an entry at a load of 0.35
 * to 0.7. Sixteen parts grow on their own, so that no call rehashes more than a sixteenth.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { type AddressSecrets, addressOf } from "./block-address.ts";

const partCount = 16;
const minBits = 3;
const stride = 4;
const maxLoad = 0.7;
const minLoad = 0.15;

export class EngineNames {
  readonly #secrets: AddressSecrets;
  /** Entries: engine low, high, sequence low, high; both sequence words 0: free. */
  readonly #parts: Int32Array[];
  readonly #bits = new Uint8Array(partCount).fill(minBits);
  readonly #counts = new Uint32Array(partCount);
  #size = 0;
  /** The sequence hash that `find` found. */
  low = 0;
  high = 0;

  constructor(secrets: AddressSecrets) {
    this.#secrets = secrets;
    this.#parts = Array.from({ length: partCount }, () => new Int32Array(stride << minBits));
  }

  get size(): number {
    return this.#size;
  }

  get sizeBytes(): number {
    let sum = 0;
    for (const part of this.#parts) sum += part.byteLength;
    return sum;
  }

  /** Leaves the sequence hash of a known name in `low` and `high`. */
  find(engineLow: number, engineHigh: number): boolean {
    const address = addressOf(this.#secrets, engineLow, engineHigh);
    const at = this.#at(address, engineLow, engineHigh);
    if (at < 0) return false;
    const part = this.#parts[address & (partCount - 1)]!;
    this.low = part[at + 2]!;
    this.high = part[at + 3]!;
    return true;
  }

  /** Says whether the name meant another block before, which is then in `low` and `high`. The sequence hash is not all zero. */
  set(engineLow: number, engineHigh: number, low: number, high: number): boolean {
    const address = addressOf(this.#secrets, engineLow, engineHigh);
    const index = address & (partCount - 1);
    let at = this.#at(address, engineLow, engineHigh);
    if (at >= 0) {
      const part = this.#parts[index]!;
      this.low = part[at + 2]!;
      this.high = part[at + 3]!;
      part[at + 2] = low;
      part[at + 3] = high;
      return this.low !== low || this.high !== high;
    }
    if (this.#counts[index]! + 1 > maxLoad * (1 << this.#bits[index]!)) {
      this.#resize(index, this.#bits[index]! + 1);
      at = this.#at(address, engineLow, engineHigh);
    }
    at = -1 - at;
    const part = this.#parts[index]!;
    part[at] = engineLow;
    part[at + 1] = engineHigh;
    part[at + 2] = low;
    part[at + 3] = high;
    this.#counts[index]!++;
    this.#size++;
    return false;
  }

  delete(engineLow: number, engineHigh: number): void {
    const address = addressOf(this.#secrets, engineLow, engineHigh);
    const index = address & (partCount - 1);
    const at = this.#at(address, engineLow, engineHigh);
    if (at < 0) return;
    this.#close(index, at / stride);
    this.#counts[index]!--;
    this.#size--;
    const bits = this.#bits[index]!;
    if (bits > minBits && this.#counts[index]! < minLoad * (1 << bits)) this.#resize(index, bits - 1);
  }

  #at(address: number, engineLow: number, engineHigh: number): number {
    const index = address & (partCount - 1);
    const part = this.#parts[index]!;
    const bits = this.#bits[index]!;
    const last = (1 << bits) - 1;
    for (let slot = address >>> (32 - bits); ; slot = (slot + 1) & last) {
      const at = slot * stride;
      if ((part[at + 2]! | part[at + 3]!) === 0) return -1 - at;
      if (part[at] === engineLow && part[at + 1] === engineHigh) return at;
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
      if ((part[from + 2]! | part[from + 3]!) === 0) break;
      const home = addressOf(this.#secrets, part[from]!, part[from + 1]!) >>> (32 - bits);
      if (((slot - home) & last) < ((slot - hole) & last)) continue;
      part.copyWithin(hole * stride, from, from + stride);
      hole = slot;
    }
    part.fill(0, hole * stride, (hole + 1) * stride);
  }

  #resize(index: number, bits: number): void {
    const old = this.#parts[index]!;
    const fresh = new Int32Array(stride << bits);
    const last = (1 << bits) - 1;
    for (let from = 0; from < old.length; from += stride) {
      if ((old[from + 2]! | old[from + 3]!) === 0) continue;
      let slot = addressOf(this.#secrets, old[from]!, old[from + 1]!) >>> (32 - bits);
      while ((fresh[slot * stride + 2]! | fresh[slot * stride + 3]!) !== 0) slot = (slot + 1) & last;
      for (let word = 0; word < stride; word++) fresh[slot * stride + word] = old[from + word]!;
    }
    this.#parts[index] = fresh;
    this.#bits[index] = bits;
  }
}
