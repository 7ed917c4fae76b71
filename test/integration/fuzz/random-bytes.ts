/** Seeded randomness for the fuzz tests: the same seed gives the same attack. */

export interface RandomSource {
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform whole number in [0, below). */
  below(below: number): number;
  bytes(length: number): Buffer;
  pick<Item>(items: readonly Item[]): Item;
}

/** mulberry32. */
export function createRandom(seed: number): RandomSource {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit: number): number => Math.floor(next() * limit);
  return {
    next,
    below,
    bytes: (length) => Buffer.from(Array.from({ length }, () => below(256))),
    pick: (items) => {
      const item = items[below(items.length)];
      if (item === undefined) throw new Error("nothing to pick from");
      return item;
    },
  };
}

/** A copy with a few bytes changed, cut off, doubled or put in. */
export function mutate(random: RandomSource, bytes: Buffer): Buffer {
  let mutated = Buffer.from(bytes);
  for (let edits = 1 + random.below(4); edits > 0; edits--) {
    const at = random.below(mutated.length + 1);
    switch (random.below(4)) {
      case 0:
        if (at < mutated.length) mutated[at] = random.below(256);
        break;
      case 1:
        mutated = mutated.subarray(0, at);
        break;
      case 2:
        mutated = Buffer.concat([mutated.subarray(0, at), random.bytes(random.below(16)), mutated.subarray(at)]);
        break;
      default:
        mutated = Buffer.concat([mutated.subarray(0, at), mutated.subarray(Math.floor(at / 2))]);
        break;
    }
  }
  return mutated;
}
