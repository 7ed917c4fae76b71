/**
 * The order of one publisher's batches: what came twice is dropped, what is missing is asked for, and a publisher that counts from the start again
 * is a restarted engine, whose blocks are gone. Pure but for the receiver and the replay it is handed.
 *
 * Three numbers decide: `next`, the batch to apply next; `liveNext`, one beyond the last heard live (it falls only when the publisher restarts, for
 * one connection never repeats); and the time stamp of the last batch applied, which a replay must show again, or it is another run's.
 */
import type { EventCounters } from "./event-counters.ts";

export interface BatchReceiver {
  /** Applies a batch and returns its time stamp; undefined for one that cannot be read. */
  batch(payload: Buffer): number | undefined;
  /** Time stamp of a batch that is not applied. */
  timestampOf(payload: Buffer): number | undefined;
  /** Everything known of the engine is gone. */
  restarted(): void;
}

/** Where past batches can be had. */
export interface ReplaySource {
  /** False while a source that failed is left alone. */
  readonly isReady: boolean;
  /**
   * Asks for the batches from a number on: `replayed` for each and `replayEnded` at the end, never within the call and not after `cancel`. The
   * failure of a first one is not held against the source: the engine may not be there yet.
   */
  start(from: number, isFirst?: boolean): { cancel(): void };
}

interface HeldBatch {
  readonly sequence: number;
  readonly payload: Buffer;
}

/** What may wait for the end of a replay. */
const maxHeld = 10_000;
const maxHeldBytes = 64 * 1024 * 1024;
/** Replays in a row that brought nothing. */
const maxFruitless = 3;

export class BatchOrder {
  readonly #receiver: BatchReceiver;
  readonly #source: ReplaySource | undefined;
  readonly #counters: EventCounters;
  #next: number | undefined;
  #liveNext: number | undefined;
  #lastTimestamp: number | undefined;
  #wasDisconnected = false;
  #replay: { cancel(): void } | undefined;
  /** Nothing was heard live since the past was asked for at the start. */
  #hasOnlyCaughtUp = false;
  /** The first batch of the replay must repeat the last applied one. */
  #mustVerify = false;
  #hasBrought = false;
  #fruitless = 0;
  #held: HeldBatch[] = [];
  #heldBytes = 0;

  constructor(receiver: BatchReceiver, source: ReplaySource | undefined, counters: EventCounters) {
    this.#receiver = receiver;
    this.#source = source;
    this.#counters = counters;
  }

  live(sequence: number, payload: Buffer): void {
    const isRestart = this.#liveNext !== undefined && sequence < this.#liveNext;
    this.#liveNext = sequence + 1;
    if (isRestart) {
      this.#cancelReplay();
      this.#drain();
      this.#forget();
    }
    if (this.#hasOnlyCaughtUp) this.#verifyFirst(sequence, payload);
    if (this.#replay === undefined) this.#inOrder(sequence, payload);
    else this.#hold(sequence, payload);
  }

  /** Asks for everything the publisher has, before anything of it was heard. */
  catchUp(): void {
    if (this.#liveNext !== undefined || this.#replay !== undefined || this.#source === undefined) return;
    this.#hasOnlyCaughtUp = true;
    this.#ask(0, true);
  }

  /** The past that was asked for is not in yet. */
  get isReplaying(): boolean {
    return this.#replay !== undefined;
  }

  /** The connection was lost: what follows may be another run of the engine. */
  disconnected(): void {
    this.#wasDisconnected = true;
  }

  replayed(sequence: number, payload: Buffer): void {
    if (this.#replay === undefined) return;
    const next = this.#next;
    if (this.#mustVerify) {
      this.#mustVerify = false;
      if (sequence + 1 === next && this.#receiver.timestampOf(payload) !== this.#lastTimestamp) {
        this.#cancelReplay();
        this.#forget();
        this.#ask(0);
        return;
      }
      // It repeats what was applied last: the same run goes on.
      if (sequence + 1 === next) this.#wasDisconnected = false;
    }
    if (next !== undefined && sequence < next) return;
    if (next !== undefined && sequence > next) this.#counters.gaps += 1;
    this.#hasBrought = true;
    this.#apply(sequence, payload);
  }

  replayEnded(isComplete: boolean): void {
    if (this.#replay === undefined) return;
    this.#replay = undefined;
    if (!isComplete) this.#counters.failedReplays += 1;
    this.#fruitless = this.#hasBrought ? 0 : this.#fruitless + 1;
    const held = this.#drain();
    for (let i = 0; i < held.length; i++) {
      const { sequence, payload } = held[i] as HeldBatch;
      if (this.#replay === undefined) this.#inOrder(sequence, payload);
      else this.#hold(sequence, payload);
    }
    if (this.#replay === undefined) this.#fruitless = 0;
  }

  close(): void {
    this.#cancelReplay();
    this.#drain();
  }

  #inOrder(sequence: number, payload: Buffer): void {
    const next = this.#next;
    if (next !== undefined && sequence < next) return;
    const isMissing = next === undefined ? sequence > 0 : sequence > next;
    // The very next number after a lost connection may be another run's, which has come as far by chance.
    const isUnsure = this.#wasDisconnected && next !== undefined && next > 0;
    if ((isMissing || isUnsure) && this.#source?.isReady === true && this.#fruitless < maxFruitless) {
      this.#hold(sequence, payload);
      this.#mustVerify = next !== undefined && next > 0;
      this.#ask(next === undefined ? 0 : Math.max(0, next - 1));
      return;
    }
    if (isMissing && next !== undefined) {
      this.#counters.gaps += 1;
      // Nothing tells whether this is the same run: a cache that is gone would attract requests for good.
      if (this.#wasDisconnected) this.#forget();
    }
    this.#apply(sequence, payload);
  }

  /**
   * What was caught up with may be another run's: the first batch heard live is its next one, repeats its last, or tells of a restart. While the past
   * still comes in, both are of one run.
   */
  #verifyFirst(sequence: number, payload: Buffer): void {
    this.#hasOnlyCaughtUp = false;
    const next = this.#next;
    if (this.#replay !== undefined || next === undefined || sequence >= next) return;
    if (sequence + 1 < next || this.#receiver.timestampOf(payload) !== this.#lastTimestamp) this.#forget();
  }

  #apply(sequence: number, payload: Buffer): void {
    this.#next = sequence + 1;
    this.#wasDisconnected = false;
    this.#counters.batches += 1;
    this.#lastTimestamp = this.#receiver.batch(payload);
  }

  #ask(from: number, isFirst = false): void {
    this.#hasBrought = false;
    this.#counters.replays += 1;
    this.#replay = this.#source?.start(from, isFirst);
  }

  /** Full: the oldest give way, and are missing again when the replay has ended. */
  #hold(sequence: number, payload: Buffer): void {
    this.#held.push({ sequence, payload });
    this.#heldBytes += payload.length;
    if (this.#held.length <= maxHeld && this.#heldBytes <= maxHeldBytes) return;
    const dropped = this.#held.splice(0, Math.ceil(this.#held.length / 4));
    for (const batch of dropped) this.#heldBytes -= batch.payload.length;
  }

  #drain(): readonly HeldBatch[] {
    const held = this.#held;
    this.#held = [];
    this.#heldBytes = 0;
    return held;
  }

  #cancelReplay(): void {
    this.#replay?.cancel();
    this.#replay = undefined;
    this.#mustVerify = false;
  }

  #forget(): void {
    this.#counters.restarts += 1;
    this.#next = undefined;
    this.#lastTimestamp = undefined;
    this.#fruitless = 0;
    this.#receiver.restarted();
  }
}
