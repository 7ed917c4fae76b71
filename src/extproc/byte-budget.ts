/** One allowance of bytes shared by all sessions. What is taken is given back by the session that took it, once. */
export class ByteBudget {
  readonly #limit: number;
  #held: number;

  constructor(limit: number) {
    this.#limit = limit;
    this.#held = 0;
  }

  get held(): number {
    return this.#held;
  }

  /** False, and nothing taken, when the limit would be exceeded. */
  take(bytes: number): boolean {
    if (this.#held + bytes > this.#limit) return false;
    this.#held += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#held -= bytes;
  }
}
