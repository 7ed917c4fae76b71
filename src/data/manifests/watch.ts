/**
 * `--manifests DIR`: objectives and model rewrites out of a folder of manifests, kept current. A file with any fault keeps what it last held
 * while it was good, and so does the whole when the folder cannot be read; a deleted file takes its objects with it.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "../../telemetry/log.ts";
import type { SettledWatch, WatchTiming } from "../watch/settled-watch.ts";
import { type FolderState, readFolderState, watchFolder } from "./folder-watch.ts";
import type { ManifestObject } from "./manifest.ts";
import { parseManifestFile } from "./manifest-file.ts";
import { mergeManifests, type PoolIdentity } from "./merge.ts";
import { noPoolObjects, type PoolObjects } from "./pool-objects.ts";

/** Far more than objects of these kinds need, and little enough that parsing it holds nobody up. */
export const maxManifestFileBytes = 1024 * 1024;
export const maxManifestFiles = 1000;

export interface ManifestOptions {
  readonly pool: PoolIdentity;
  readonly log: Logger;
  readonly watch?: WatchTiming;
  /** Called after the objects were replaced. */
  readonly changed?: (objects: PoolObjects) => void;
}

export interface ManifestWatch {
  /** The current objects: one value until a file changes what they are. */
  objects(): PoolObjects;
  /** What is wrong with the files as they are now, each with file, document and path; [] when all are good. */
  faults(): readonly string[];
  close(): Promise<void>;
}

/** What is known of one file. */
interface KnownFile {
  /** State of the file when it was read. */
  readonly key: string;
  /** As of the last good reading. */
  readonly objects: readonly ManifestObject[];
  readonly faults: readonly string[];
}

function messageOf(error: unknown): string {
  return typeof error === "object" && error !== null && "message" in error ? String(error.message) : String(error);
}

class Manifests implements ManifestWatch {
  readonly #folder: string;
  readonly #options: ManifestOptions;
  #files: ReadonlyMap<string, KnownFile> = new Map();
  #folderFault: string | undefined;
  #objects: PoolObjects = noPoolObjects;
  #watch: SettledWatch<FolderState> | undefined;

  constructor(folder: string, options: ManifestOptions) {
    this.#folder = folder;
    this.#options = options;
  }

  async start(): Promise<void> {
    const state = await readFolderState(this.#folder);
    await this.#read(state);
    this.#watch = watchFolder(
      this.#folder,
      state,
      { changed: (later) => this.#read(later), unreadable: (error) => this.#cannotRead(error) },
      this.#options.watch,
    );
  }

  objects(): PoolObjects {
    return this.#objects;
  }

  faults(): readonly string[] {
    const faults = this.#folderFault === undefined ? [] : [this.#folderFault];
    for (const [name, file] of this.#files) for (const fault of file.faults) faults.push(`${name}: ${fault}`);
    return faults;
  }

  async close(): Promise<void> {
    await this.#watch?.close();
  }

  async #read(state: FolderState): Promise<void> {
    const { log, pool } = this.#options;
    this.#folderFault = state.size > maxManifestFiles ? `only the first ${maxManifestFiles} files are read` : undefined;
    if (this.#folderFault !== undefined)
      log.error({ folder: this.#folder, files: state.size }, "too many manifest files");
    const files = new Map<string, KnownFile>();
    for (const [name, key] of [...state].slice(0, maxManifestFiles)) {
      const known = this.#files.get(name);
      files.set(name, known?.key === key ? known : await this.#readFile(name, key, known?.objects ?? []));
    }
    this.#files = files;
    const { objects, left } = mergeManifests(
      [...files.values()].map((file) => file.objects),
      pool,
    );
    for (const why of left) log.debug({ folder: this.#folder, object: why }, "an object of a manifest has no effect");
    this.#objects = objects;
    const counts = { objectives: objects.objectives.size, rewrites: objects.rewrites.length };
    log.info(
      { folder: this.#folder, files: files.size, faults: this.faults().length, ...counts },
      "read the manifests",
    );
    this.#options.changed?.(objects);
  }

  async #readFile(name: string, key: string, lastGood: readonly ManifestObject[]): Promise<KnownFile> {
    const { log } = this.#options;
    const faulty = (faults: readonly string[]): KnownFile => {
      log.error({ file: join(this.#folder, name), faults }, "a manifest file is refused; what it last held stays");
      return { key, objects: lastGood, faults };
    };
    try {
      const path = join(this.#folder, name);
      const { size } = await stat(path);
      if (size > maxManifestFileBytes) return faulty([`larger than ${maxManifestFileBytes} bytes`]);
      const { objects, faults, ignored } = parseManifestFile(name, await readFile(path, "utf8"));
      if (faults.length > 0) return faulty(faults);
      for (const object of ignored) log.debug({ file: path, object }, "an object of another kind is ignored");
      return { key, objects, faults };
    } catch (error) {
      return faulty([messageOf(error)]);
    }
  }

  #cannotRead(error: unknown): void {
    const fault = `cannot read the folder: ${messageOf(error)}`;
    if (this.#folderFault === fault) return;
    this.#folderFault = fault;
    this.#options.log.error({ folder: this.#folder, error }, "cannot read the manifests; what they last held stays");
  }
}

/** Reads the folder once before it resolves; rejects when the folder cannot be listed. Faulty files do not reject: see `faults`. */
export async function watchManifests(folder: string, options: ManifestOptions): Promise<ManifestWatch> {
  const manifests = new Manifests(folder, options);
  await manifests.start();
  return manifests;
}
