/** Files as a kubelet mounts those of a Secret or of an account: links into a folder that is exchanged as a whole, so that no reader sees half of a change. */
import { mkdir, readlink, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

export interface MountedFolder {
  readonly path: string;
  /** Makes the files exactly these, at once. */
  publish(files: Readonly<Record<string, string>>): Promise<void>;
}

/** The folder is made; its parent goes with the test. */
export async function mountFolder(path: string): Promise<MountedFolder> {
  await mkdir(path, { recursive: true });
  let version = 0;
  const linked = new Set<string>();
  return {
    path,
    async publish(files) {
      const next = `..version-${++version}`;
      await mkdir(join(path, next));
      for (const [name, text] of Object.entries(files)) await writeFile(join(path, next, name), text, { mode: 0o600 });
      const before = await readlink(join(path, "..data")).catch(() => undefined);
      await symlink(next, join(path, "..data-next"));
      await rename(join(path, "..data-next"), join(path, "..data"));
      for (const name of Object.keys(files)) {
        if (linked.has(name)) continue;
        linked.add(name);
        await symlink(join("..data", name), join(path, name));
      }
      if (before !== undefined) await rm(join(path, before), { recursive: true });
    },
  };
}
