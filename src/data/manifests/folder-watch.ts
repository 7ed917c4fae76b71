/** Watches the manifest files of one folder, as a mounted ConfigMap changes them too; see SettledWatch. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { SettledWatch, statKey, type WatchTiming } from "../watch/settled-watch.ts";
import { isManifestName } from "./manifest-file.ts";

/** Identity and state of each manifest file by name, links followed, in the order of the names. */
export type FolderState = ReadonlyMap<string, string>;

/** Rejects when the folder cannot be listed. A file that goes away meanwhile is left out. */
export async function readFolderState(folder: string): Promise<FolderState> {
  const names = (await readdir(folder)).filter(isManifestName).toSorted();
  const keys = await Promise.all(names.map((name) => statKey(join(folder, name))));
  return new Map(names.flatMap((name, index) => (keys[index] === "absent" ? [] : [[name, keys[index] ?? ""]])));
}

function isSame(a: FolderState, b: FolderState): boolean {
  if (a.size !== b.size) return false;
  for (const [name, key] of a) if (b.get(name) !== key) return false;
  return true;
}

/** `seen` is the state that the caller has read already; the listener answers for its own failures. */
export function watchFolder(
  folder: string,
  seen: FolderState,
  listener: { changed(state: FolderState): Promise<void>; unreadable(error: unknown): void },
  timing?: WatchTiming,
): SettledWatch<FolderState> {
  const watched = {
    folder,
    read: () => readFolderState(folder),
    isSame,
    changed: (state: FolderState) => listener.changed(state),
    unreadable: (error: unknown) => listener.unreadable(error),
  };
  return new SettledWatch(watched, seen, timing);
}
