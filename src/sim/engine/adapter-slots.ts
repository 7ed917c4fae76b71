/**
 * The LoRA slots of an engine: at most `slots` adapters run at once. An adapter stays in its slot after its last request and is
 * replaced least recently used first; one with running requests is never replaced.
 */

export class AdapterSlots {
  readonly #resident: Int32Array;
  readonly #running: Int32Array;
  readonly #usedAt: Float64Array;
  #clock = 0;

  constructor(slots: number) {
    this.#resident = new Int32Array(slots).fill(-1);
    this.#running = new Int32Array(slots);
    this.#usedAt = new Float64Array(slots);
  }

  /** True when a request of this adapter may start now. */
  canRun(adapter: number): boolean {
    return adapter < 0 || this.#resident.includes(adapter) || this.#idleSlot() >= 0;
  }

  /** Counts a request as running; true when the adapter had to be loaded for it. The caller has asked `canRun`. */
  acquire(adapter: number): boolean {
    if (adapter < 0) return false;
    let slot = this.#resident.indexOf(adapter);
    const isLoad = slot < 0;
    if (isLoad) {
      slot = this.#idleSlot();
      this.#resident[slot] = adapter;
    }
    this.#running[slot] = (this.#running[slot] ?? 0) + 1;
    this.#usedAt[slot] = ++this.#clock;
    return isLoad;
  }

  release(adapter: number): void {
    if (adapter < 0) return;
    const slot = this.#resident.indexOf(adapter);
    const running = (this.#running[slot] ?? 0) - 1;
    if (slot < 0 || running < 0) throw new Error(`adapter slots: adapter ${adapter} released twice`);
    this.#running[slot] = running;
  }

  #idleSlot(): number {
    let best = -1;
    for (let slot = 0; slot < this.#resident.length; slot++) {
      if ((this.#running[slot] ?? 0) > 0) continue;
      if (best < 0 || (this.#usedAt[slot] ?? 0) < (this.#usedAt[best] ?? 0)) best = slot;
    }
    return best;
  }
}
