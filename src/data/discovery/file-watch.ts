/**
 * Watches one path for any way its content can change: written in place, renamed over, deleted and created, a symbolic link swapped
 * anywhere on the way. The truth is a stat of the path every second; events of the folder only make it look sooner, so a file system
 * without events is served too.
 */
import { type FSWatcher, watch } from "node:fs";
import { stat } from "node:fs/promises";
import { dirname } from "node:path";

export interface FileWatchOptions {
  /** How long the file must rest before a change is reported: writers often write in several steps. */
  readonly settleMs: number;
  readonly pollMs: number;
}

export const defaultFileWatchOptions: FileWatchOptions = { settleMs: 100, pollMs: 1000 };

/**
 * Calls `changed` after each change, one call at a time: the next waits until the promise of the last has settled. `changed` answers for
 * its own failures and never rejects.
 */
export class FileWatch {
  readonly #path: string;
  readonly #changed: () => Promise<void>;
  readonly #options: FileWatchOptions;
  #reported: string;
  #events: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #look: Promise<void> | undefined;
  /** The armed timer is one of settleMs. */
  #isSoon = false;
  /** Something happened in the folder during a look. */
  #hasEvent = false;
  #isClosed = false;

  /** `seen` is what the caller's own first read saw: statKey(path) taken before it. */
  constructor(
    path: string,
    seen: string,
    changed: () => Promise<void>,
    options: FileWatchOptions = defaultFileWatchOptions,
  ) {
    this.#path = path;
    this.#reported = seen;
    this.#changed = changed;
    this.#options = options;
    this.#listen();
    this.#arm(options.pollMs);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#events?.close();
    await this.#look;
  }

  #listen(): void {
    try {
      this.#events = watch(dirname(this.#path), { persistent: false }, () => {
        // Only ever sooner: a folder that is never at rest must not put the look off.
        if (this.#look !== undefined) this.#hasEvent = true;
        else if (!this.#isSoon) this.#arm(this.#options.settleMs);
      });
      this.#events.on("error", () => {
        this.#events?.close();
        this.#events = undefined;
      });
    } catch {
      // No folder yet, or no watches left: the poll goes on, and tries again to listen.
      this.#events = undefined;
    }
  }

  #arm(delayMs: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#isSoon = delayMs <= this.#options.settleMs;
    this.#timer = setTimeout(() => {
      this.#hasEvent = false;
      this.#look = this.#lookAgain().finally(() => {
        this.#look = undefined;
      });
    }, delayMs);
  }

  async #lookAgain(): Promise<void> {
    let delayMs = this.#options.pollMs;
    try {
      const before = await statKey(this.#path);
      if (before !== this.#reported) {
        await rest(this.#options.settleMs);
        const after = await statKey(this.#path);
        if (after !== before) delayMs = this.#options.settleMs;
        else if (!this.#isClosed) {
          // Before the read: what is written during it differs from this and is reported again.
          this.#reported = after;
          await this.#changed();
        }
      }
      if (this.#events === undefined && !this.#isClosed) this.#listen();
    } finally {
      this.#arm(this.#hasEvent ? this.#options.settleMs : delayMs);
    }
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
