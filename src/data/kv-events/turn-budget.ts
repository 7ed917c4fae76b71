/** Keeps a loop over messages that are already there from holding the event loop: after two milliseconds it waits for the next turn. */
import { setImmediate } from "node:timers/promises";

const budgetMs = 2;

export class TurnBudget {
  #startMs = performance.now();

  async pause(): Promise<void> {
    if (performance.now() - this.#startMs < budgetMs) return;
    await setImmediate();
    this.#startMs = performance.now();
  }
}
