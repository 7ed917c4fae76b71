/** Runs an engine in real time (or a multiple of it) with one timer, armed for the engine's next event and never when it is idle. */
import type { Engine } from "../engine/engine.ts";
import type { EngineRequest, Sequence } from "../engine/sequence.ts";

export class EngineLoop<Owner> {
  readonly #engine: Engine<Owner>;
  readonly #timeScale: number;
  readonly #originMs = performance.now();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(engine: Engine<Owner>, timeScale: number) {
    this.#engine = engine;
    this.#timeScale = timeScale;
  }

  /** Now on the engine's clock. */
  nowMs(): number {
    return (performance.now() - this.#originMs) * this.#timeScale;
  }

  submit(request: EngineRequest<Owner>): Sequence<Owner> | undefined {
    const now = this.nowMs();
    this.#engine.advance(now);
    const sequence = this.#engine.submit(request, now);
    this.#arm();
    return sequence;
  }

  abort(sequence: Sequence<Owner>): boolean {
    return this.#engine.abort(sequence);
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#isClosed) return;
    const next = this.#engine.nextEventMs();
    if (next === Number.POSITIVE_INFINITY) return;
    // A timer waits a millisecond at least; steps shorter than that are caught up with together.
    this.#timer = setTimeout(this.#onTimer, Math.max(1, (next - this.nowMs()) / this.#timeScale));
  }

  readonly #onTimer = (): void => {
    this.#timer = undefined;
    this.#engine.advance(this.nowMs());
    this.#arm();
  };
}
