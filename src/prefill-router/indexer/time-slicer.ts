/**
 * Runs long work in slices on the event loop: each at most `sliceMs`, with whatever else waits in between. The jobs take turns, so that what one
 * worker sends does not hold up what the others do.
 */

export interface SlicedJob {
  /** Works until `deadlineMs` (of the slicer's clock) and says whether it is done. May throw: then the job is over. */
  step(deadlineMs: number): boolean;
}

interface QueuedJob {
  readonly job: SlicedJob;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class TimeSlicer {
  readonly #sliceMs: number;
  readonly #nowMs: () => number;
  readonly #queue: QueuedJob[];
  #immediate: NodeJS.Immediate | undefined;
  #isClosed: boolean;
  /** Longest slice so far. */
  longestMs: number;

  constructor(sliceMs: number, nowMs: () => number) {
    this.#sliceMs = sliceMs;
    this.#nowMs = nowMs;
    this.#queue = [];
    this.#immediate = undefined;
    this.#isClosed = false;
    this.longestMs = 0;
  }

  /** Resolves when the job is done; never, when the slicer is closed before. */
  run(job: SlicedJob): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) return;
      this.#queue.push({ job, resolve, reject });
      this.#schedule();
    });
  }

  close(): void {
    this.#isClosed = true;
    this.#queue.length = 0;
    clearImmediate(this.#immediate);
  }

  #schedule(): void {
    this.#immediate ??= setImmediate(() => this.#slice());
  }

  #slice(): void {
    this.#immediate = undefined;
    const startMs = this.#nowMs();
    const deadlineMs = startMs + this.#sliceMs;
    let nowMs = startMs;
    while (nowMs < deadlineMs && this.#stepFirst(deadlineMs)) nowMs = this.#nowMs();
    this.longestMs = Math.max(this.longestMs, this.#nowMs() - startMs);
    if (this.#queue.length > 0) this.#schedule();
  }

  /** False when there is nothing to do. */
  #stepFirst(deadlineMs: number): boolean {
    const first = this.#queue[0];
    if (first === undefined) return false;
    try {
      const isDone = first.job.step(deadlineMs);
      this.#queue.shift();
      if (isDone) first.resolve();
      else this.#queue.push(first);
    } catch (error) {
      this.#queue.shift();
      first.reject(error);
    }
    return true;
  }
}
