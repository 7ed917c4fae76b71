/** Volumes of a pod as folders: config maps and secrets written as a kubelet writes them, so that a reader never sees half of a change, and empty ones. */
import { mkdir, readdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { KubernetesApi } from "../../../src/net/kubernetes/api-client.ts";
import type { Pod, VolumeSpec } from "./pod-objects.ts";

/** Files of a folder, all at once: each is a link through `..data`, which is replaced by renaming. */
export async function writeFiles(
  folder: string,
  files: Readonly<Record<string, Buffer>>,
  generation: number,
): Promise<void> {
  const data = `..${generation}`;
  await mkdir(join(folder, data), { recursive: true });
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, data, name), content);
  const scratch = join(folder, "..next");
  await rm(scratch, { force: true });
  await symlink(data, scratch);
  await rename(scratch, join(folder, "..data"));
  const present = await readdir(folder);
  for (const name of Object.keys(files)) {
    if (!present.includes(name)) await symlink(join("..data", name), join(folder, name));
  }
  for (const name of present) {
    if (!name.startsWith("..") && !(name in files)) await rm(join(folder, name));
    if (name.startsWith("..") && name !== "..data" && name !== data) {
      await rm(join(folder, name), { recursive: true, force: true });
    }
  }
}

export interface PodVolumes {
  /** Of the volume. */
  folder(name: string): string;
  /** Reads config maps and secrets again. */
  refresh(): Promise<void>;
}

export async function createPodVolumes(
  api: Pick<KubernetesApi, "request">,
  { metadata: { namespace }, spec: { volumes = [] } }: Pod,
  folder: string,
): Promise<PodVolumes> {
  const folderOf = (name: string): string => join(folder, name);
  const written = new Map<string, string>();
  let generation = 0;
  const fill = async (volume: VolumeSpec): Promise<void> => {
    if (volume.emptyDir !== undefined) return;
    const from = sourceOf(volume);
    const text = await api.request({ path: `/api/v1/namespaces/${namespace}/${from.path}` });
    const object = JSON.parse(text) as Readonly<Record<string, Readonly<Record<string, string>> | undefined>>;
    const plain = Object.entries(object[from.plain] ?? {}).map(([name, value]) => [name, Buffer.from(value)] as const);
    const encoded = Object.entries(object[from.encoded] ?? {}).map(
      ([name, value]) => [name, Buffer.from(value, "base64")] as const,
    );
    const files = Object.fromEntries([...plain, ...encoded]);
    const content = JSON.stringify(files);
    if (written.get(volume.name) === content) return;
    generation++;
    await writeFiles(folderOf(volume.name), files, generation);
    written.set(volume.name, content);
  };
  const refresh = async (): Promise<void> => {
    for (const volume of volumes) await fill(volume);
  };
  for (const { name } of volumes) await mkdir(folderOf(name), { recursive: true });
  await refresh();
  return { folder: folderOf, refresh };
}

function sourceOf({ name, configMap, secret }: VolumeSpec) {
  if (configMap !== undefined) {
    return { path: `configmaps/${configMap.name}`, plain: "data", encoded: "binaryData" };
  }
  if (secret !== undefined) return { path: `secrets/${secret.secretName}`, plain: "stringData", encoded: "data" };
  throw new Error(`the volume ${name} is of a kind that is not known`);
}
