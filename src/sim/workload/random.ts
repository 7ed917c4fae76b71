/** Draws from a seed: the same seed gives the same sequence on every machine. */
import { mix } from "../engine/block-hash.ts";

export class Random {
  readonly #seed: number;
  #drawn = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return mix(this.#seed, this.#drawn++) / 0x1_0000_0000;
  }

  /** Uniform among 0 … count - 1. */
  below(count: number): number {
    return Math.floor(this.uniform() * count);
  }

  /** Exponential of this mean. */
  exponential(mean: number): number {
    return -Math.log(1 - this.uniform()) * mean;
  }

  /** A length in tokens: exponential of this mean, at least 1. */
  tokens(mean: number): number {
    return Math.max(1, Math.round(this.exponential(mean)));
  }
}
