/**
 * Watches anything on disk whose state can be read: written in place, renamed over, deleted and created, a symbolic link swapped anywhere on the
 * way. The truth is reading the state at every poll; events of the folder only make it look sooner, so a file system without events is served too.
 */
import { type FSWatcher, watch } from "node:fs";
import { stat } from "node:fs/promises";

export interface WatchTiming {
  /** How long the state must rest before a change is reported: writers often write in several steps. */
  readonly settleMs: number;
  readonly pollMs: number;
}

export const defaultWatchTiming: WatchTiming = { settleMs: 100, pollMs: 1000 };

export interface Watched<State> {
  /** The folder whose events are listened to. */
  readonly folder: string;
  /** Rejects when there is no state to be had, e.g. the folder cannot be listed. */
  read(): Promise<State>;
  isSame(a: State, b: State): boolean;
  /** One call at a time: the next waits for the promise. Answers for its own failures and never rejects. */
  changed(state: State): Promise<void>;
  /** Told whenever `read` rejects; the next state that can be read is reported whatever it is. */
  unreadable(error: unknown): void;
}

export class SettledWatch<State> {
  readonly #watched: Watched<State>;
  readonly #timing: WatchTiming;
  /** Undefined after an unreadable look: the next state differs from it. */
  #reported: State | undefined;
  #events: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #look: Promise<void> | undefined;
  /** The armed timer is one of settleMs. */
  #isSoon = false;
  /** Something happened in the folder during a look. */
  #hasEvent = false;
  #isClosed = false;

  /** `seen` is the state the caller's own first read saw, read before it. */
  constructor(watched: Watched<State>, seen: State, timing: WatchTiming = defaultWatchTiming) {
    this.#watched = watched;
    this.#timing = timing;
    this.#reported = seen;
    this.#listen();
    this.#arm(timing.pollMs);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#events?.close();
    await this.#look;
  }

  #listen(): void {
    try {
      this.#events = watch(this.#watched.folder, { persistent: false }, () => {
        // Only ever sooner: a folder that is never at rest must not put the look off.
        if (this.#look !== undefined) this.#hasEvent = true;
        else if (!this.#isSoon) this.#arm(this.#timing.settleMs);
      });
      this.#events.on("error", () => this.#deafen());
    } catch {
      // No folder now, or no watches left: the poll goes on, and tries again to listen.
      this.#events = undefined;
    }
  }

  #deafen(): void {
    this.#events?.close();
    this.#events = undefined;
  }

  #arm(delayMs: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#isSoon = delayMs <= this.#timing.settleMs;
    this.#timer = setTimeout(() => {
      this.#hasEvent = false;
      this.#look = this.#lookAgain().finally(() => {
        this.#look = undefined;
      });
    }, delayMs);
  }

  async #lookAgain(): Promise<void> {
    const { settleMs, pollMs } = this.#timing;
    let delayMs = pollMs;
    try {
      const before = await this.#watched.read();
      if (this.#differs(before)) {
        await rest(settleMs);
        const after = await this.#watched.read();
        if (!this.#watched.isSame(after, before)) delayMs = settleMs;
        else if (!this.#isClosed) {
          // Before the caller reads: what is written during that differs from this and is reported again.
          this.#reported = after;
          await this.#watched.changed(after);
        }
      }
      if (this.#events === undefined && !this.#isClosed) this.#listen();
    } catch (error) {
      // A folder that comes back may be another one of the same name, which the old watch does not see.
      this.#deafen();
      this.#reported = undefined;
      if (!this.#isClosed) this.#watched.unreadable(error);
    } finally {
      this.#arm(this.#hasEvent ? settleMs : delayMs);
    }
  }

  #differs(state: State): boolean {
    return this.#reported === undefined || !this.#watched.isSame(state, this.#reported);
  }
}

/** Identity and state of what the path leads to, links followed; "absent" when it leads nowhere. */
export async function statKey(path: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    return `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`;
  } catch {
    return "absent";
  }
}

function rest(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
