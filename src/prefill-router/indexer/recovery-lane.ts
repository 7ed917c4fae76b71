/** At most so many questions to workers at a time; the others wait in order. A permit is given back when the answer is in the index, and before a retry waits. */
export class RecoveryLane {
  readonly #waiting: (() => void)[];
  #free: number;

  constructor(permits: number) {
    this.#waiting = [];
    this.#free = permits;
  }

  /** Resolves with what gives the permit back, idempotent. */
  async acquire(): Promise<() => void> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    };
  }
}
