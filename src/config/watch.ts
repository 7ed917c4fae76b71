/** Watches a configuration file: a good edit replaces the running configuration as a whole, a bad one changes nothing and says why. */
import { type FSWatcher, watch } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, dirname } from "node:path";

export interface FileWatch {
  close(): Promise<void>;
}

/**
 * Calls `changed` with the new text after the file's content changed and rested for settleMs. The folder is watched too, so a rename over
 * the file and Kubernetes' `..data` symlink swap are seen. A file that vanishes is left alone until it is back.
 */
export function watchFile(
  path: string,
  initialText: string,
  changed: (text: string) => Promise<void>,
  failed: (error: unknown) => void,
  settleMs = 100,
): FileWatch {
  let text = initialText;
  let timer: NodeJS.Timeout | undefined;
  let running: Promise<void> = Promise.resolve();
  let isClosed = false;

  const check = async (): Promise<void> => {
    let next: string;
    try {
      next = await readFile(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") failed(error);
      return;
    }
    // An empty read is a write in progress (truncate, then write); an emptied file is no configuration anyone means.
    if (next === text || next.trim() === "" || isClosed) return;
    text = next;
    await changed(next);
  };
  const schedule = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      running = running.then(check).catch(failed);
    }, settleMs);
  };
  const watcher: FSWatcher = watch(dirname(path), (_event, name) => {
    if (name === null || name === basename(path) || name.startsWith("..")) schedule();
  });
  watcher.on("error", failed);
  // A watch on a folder misses writes through a symlink to a file elsewhere; a slow look covers that.
  const poll = setInterval(schedule, 5_000);
  poll.unref();
  return {
    async close() {
      isClosed = true;
      clearTimeout(timer);
      clearInterval(poll);
      watcher.close();
      await running;
    },
  };
}
