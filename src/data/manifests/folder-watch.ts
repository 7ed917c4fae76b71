/**
 * Watches the manifest files of one folder for any way they can change: written in place, renamed over, deleted, a symbolic link swapped on
 * the way (as a mounted ConfigMap does). The truth is a stat of each file every poll; events of the folder only make it look sooner.
 */
import { type FSWatcher, watch } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { isManifestName } from "./manifest-file.ts";

/** Identity and state of each manifest file by name, links followed, in the order of the names. */
export type FolderState = ReadonlyMap<string, string>;

export interface FolderWatchOptions {
  /** How long the folder must rest before a change is reported: writers often write in several steps. */
  readonly settleMs: number;
  readonly pollMs: number;
}

export const defaultFolderWatchOptions: FolderWatchOptions = { settleMs: 100, pollMs: 1000 };

/** Rejects when the folder cannot be listed. A file that goes away meanwhile is left out. */
export async function readFolderState(folder: string): Promise<FolderState> {
  const names = (await readdir(folder)).filter(isManifestName).toSorted();
  const state = new Map<string, string>();
  for (const name of names) {
    try {
      const { dev, ino, size, mtimeNs, ctimeNs } = await stat(join(folder, name), { bigint: true });
      state.set(name, `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`);
    } catch {
      // Deleted between the listing and the stat, or a link that leads nowhere.
    }
  }
  return state;
}

function isSame(a: FolderState, b: FolderState | undefined): boolean {
  if (b === undefined || a.size !== b.size) return false;
  for (const [name, key] of a) if (b.get(name) !== key) return false;
  return true;
}

export class FolderWatch {
  readonly #folder: string;
  readonly #changed: (state: FolderState) => Promise<void>;
  readonly #unreadable: (error: unknown) => void;
  readonly #options: FolderWatchOptions;
  /** Undefined while the folder cannot be listed: its next state is reported whatever it is. */
  #reported: FolderState | undefined;
  #events: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #look: Promise<void> | undefined;
  #hasEvent = false;
  #isClosed = false;

  /**
   * `seen` is the state that the caller has read already. `changed` is called for each later one, one call at a time; it and `unreadable`,
   * which is told whenever the folder cannot be listed, answer for their own failures.
   */
  constructor(
    folder: string,
    seen: FolderState,
    listener: { changed(state: FolderState): Promise<void>; unreadable(error: unknown): void },
    options: FolderWatchOptions = defaultFolderWatchOptions,
  ) {
    this.#folder = folder;
    this.#reported = seen;
    this.#changed = (state) => listener.changed(state);
    this.#unreadable = (error) => listener.unreadable(error);
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
      this.#events = watch(this.#folder, { persistent: false }, () => {
        if (!this.#hasEvent && this.#look === undefined) this.#arm(this.#options.settleMs);
        this.#hasEvent = true;
      });
      this.#events.on("error", () => {
        this.#events?.close();
        this.#events = undefined;
      });
    } catch {
      // No folder now, or no watches left: the poll goes on and tries again to listen.
      this.#events = undefined;
    }
  }

  #arm(delayMs: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#hasEvent = false;
      this.#look = this.#lookAgain().finally(() => {
        this.#look = undefined;
        this.#arm(this.#hasEvent ? this.#options.settleMs : this.#options.pollMs);
      });
    }, delayMs);
  }

  async #lookAgain(): Promise<void> {
    try {
      let state = await readFolderState(this.#folder);
      if (this.#events === undefined && !this.#isClosed) this.#listen();
      while (!isSame(state, this.#reported) && !this.#isClosed) {
        await rest(this.#options.settleMs);
        const later = await readFolderState(this.#folder);
        if (isSame(later, state)) {
          // Before the files are read: what is written meanwhile differs from this and is reported again.
          this.#reported = later;
          if (!this.#isClosed) await this.#changed(later);
          return;
        }
        state = later;
      }
    } catch (error) {
      this.#events?.close();
      this.#events = undefined;
      this.#reported = undefined;
      this.#unreadable(error);
    }
  }
}

function rest(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
