/** Bound of the requests that are planned or being answered at once: each holds a place, which it leaves once, whatever becomes of it. */

export interface InflightPlace {
  /** Idempotent. */
  leave(): void;
}

export class InflightLimit {
  readonly #limit: number;
  #count = 0;

  /** Infinity: no bound. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  get count(): number {
    return this.#count;
  }

  /** Undefined where all places are taken. */
  take(): InflightPlace | undefined {
    if (this.#count >= this.#limit) return undefined;
    this.#count += 1;
    let isHeld = true;
    return {
      leave: () => {
        if (isHeld) this.#count -= 1;
        isHeld = false;
      },
    };
  }
}
