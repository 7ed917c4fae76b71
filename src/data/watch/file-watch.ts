/** Watches one path for any way its content can change; see SettledWatch. */
import { dirname } from "node:path";
import { SettledWatch, statKey, type WatchTiming } from "./settled-watch.ts";

/** Calls `changed` after each change of any of the paths, which lie in one folder. `seen` is statKeys(paths) taken before the caller's own first read. */
export function watchFiles(
  paths: readonly [string, ...string[]],
  seen: string,
  changed: () => Promise<void>,
  timing?: WatchTiming,
): SettledWatch<string> {
  return new SettledWatch(
    {
      folder: dirname(paths[0]),
      read: () => statKeys(paths),
      isSame: (a, b) => a === b,
      changed,
      unreadable: () => {},
    },
    seen,
    timing,
  );
}

/** States of the paths together, links followed. */
export async function statKeys(paths: readonly string[]): Promise<string> {
  return (await Promise.all(paths.map(statKey))).join(" ");
}
