/**
 * Recognises messages that came by two brokers: for each publisher the last 4,096 sequences as a ring of bits, for the publishers heard of
 * most recently. What is older than the ring counts as seen, so nothing is ever told twice.
 */

const windowBits = 4096;
const maxPublishers = 4096;

interface Window {
  highest: bigint;
  readonly bits: Uint32Array;
}

export class DuplicateFilter {
  readonly #windows: Map<bigint, Window>;

  constructor() {
    this.#windows = new Map();
  }

  /** True when this message is new; from then on it is not. */
  admit(publisherId: bigint, sequence: bigint): boolean {
    const window = this.#windowOf(publisherId, sequence);
    if (sequence > window.highest) advance(window, sequence);
    else if (window.highest - sequence >= BigInt(windowBits)) return false;
    const bit = Number(sequence % BigInt(windowBits));
    const word = window.bits[bit >> 5] ?? 0;
    const mask = 1 << (bit & 31);
    if ((word & mask) !== 0) return false;
    window.bits[bit >> 5] = word | mask;
    return true;
  }

  #windowOf(publisherId: bigint, sequence: bigint): Window {
    const known = this.#windows.get(publisherId);
    if (known !== undefined) return known;
    if (this.#windows.size === maxPublishers) {
      const [oldest] = this.#windows.keys();
      if (oldest !== undefined) this.#windows.delete(oldest);
    }
    const window = { highest: sequence, bits: new Uint32Array(windowBits / 32) };
    this.#windows.set(publisherId, window);
    return window;
  }
}

/** Clears the bits of the sequences that are skipped over; they may still come. */
function advance(window: Window, sequence: bigint): void {
  const { highest, bits } = window;
  window.highest = sequence;
  if (sequence - highest >= BigInt(windowBits)) {
    bits.fill(0);
    return;
  }
  for (let next = highest + 1n; next <= sequence; next++) {
    const bit = Number(next % BigInt(windowBits));
    bits[bit >> 5] = (bits[bit >> 5] ?? 0) & ~(1 << (bit & 31));
  }
}
