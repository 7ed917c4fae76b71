/**
 * Keeps the cache of fetched model files within a size: the folders used longest ago go first, and what a process that ended half-way left
 * behind. Folders of the last hour stay, whatever their size: another process may be reading them.
 */
import { readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";

const maxBytes = 8 * 1024 * 1024 * 1024;
const restMs = 60 * 60 * 1000;

interface Folder {
  readonly path: string;
  readonly usedAtMs: number;
  readonly sizeBytes: number;
}

/** Folders in `inUse` stay. Never rejects: what cannot be removed is found again. */
export async function limitCache(
  cacheDir: string,
  inUse: ReadonlySet<string>,
  nowMs: number = Date.now(),
  limitBytes: number = maxBytes,
): Promise<void> {
  const names = await readdir(cacheDir).catch(() => []);
  const folders: Folder[] = [];
  for (const name of names) {
    const folder = /^[0-9a-f]{64}$/.test(name) ? await folderAt(join(cacheDir, name), nowMs) : undefined;
    if (folder !== undefined) folders.push(folder);
  }
  let total = folders.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  for (const { path, usedAtMs, sizeBytes } of folders.toSorted((a, b) => a.usedAtMs - b.usedAtMs)) {
    if (total <= limitBytes || nowMs - usedAtMs < restMs) return;
    if (inUse.has(path)) continue;
    await rm(path, { recursive: true, force: true }).catch(() => {});
    total -= sizeBytes;
  }
}

async function folderAt(path: string, nowMs: number): Promise<Folder | undefined> {
  try {
    const { mtimeMs } = await stat(path);
    let sizeBytes = 0;
    for (const name of await readdir(path)) {
      const file = join(path, name);
      const state = await stat(file);
      if (name.endsWith(".part") && nowMs - state.mtimeMs > restMs) await rm(file, { force: true });
      else sizeBytes += state.size;
    }
    return { path, usedAtMs: mtimeMs, sizeBytes };
  } catch {
    return undefined;
  }
}
