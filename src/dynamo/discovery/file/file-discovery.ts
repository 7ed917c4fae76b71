/**
 * Dynamo's file backend, read: a folder for each bucket, a file for each key, kept alive by touching it. A file that nobody has touched for the
 * TTL is gone even if it still lies there; time in which nobody looked does not count. Events of the folders only make it look sooner: the
 * truth is a look at every file.
 */
import { type FSWatcher, watch } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "../../../telemetry/log.ts";
import { maxRecordBytes } from "../../parse-record.ts";
import { type Bucket, bucketNames, pathOfFileName } from "../../record-keys.ts";
import type { DynamoDiscovery, RecordListener } from "../../records.ts";
import { DiscoveryBackendError } from "../discovery-error.ts";
import { RecordTable } from "../record-table.ts";

export interface FileDiscoveryOptions {
  /** DYN_FILE_KV, or `defaultFileRoot`. */
  readonly root: string;
  readonly log: Logger;
  /** Default 10 s, as Dynamo's. */
  readonly ttlMs?: number;
  /** Between two looks at every file when they are few; more files are looked at less often. Default 1 s. */
  readonly pollMs?: number;
  /** Wall clock, to be compared with the files' times. */
  readonly now?: () => number;
  /** Clock that neither jumps nor goes back. */
  readonly monotonic?: () => number;
}

export const fileTtlMs = 10_000;

/** What a file looked like when it was read. */
interface SeenFile {
  readonly key: string;
  identity: string;
  mtimeMs: number;
  /** On the monotonic clock. */
  touchedAtMs: number;
  readAtMs: number;
}

/** A file that was only touched is read again this often: it may have been rewritten in place with as many bytes. */
const rereadMs = 30_000;
const settleMs = 5;
/** A look that takes long is followed by a longer rest, but never so long that an expiry is seen late. */
const restPerLook = 4;
const longestRest = 3;
const filesAtOnce = 64;
const maxFilesPerBucket = 100_000;

export function createFileDiscovery(options: FileDiscoveryOptions): DynamoDiscovery {
  return new FileDiscovery(options);
}

class FileDiscovery implements DynamoDiscovery {
  readonly #root: string;
  readonly #log: Logger;
  readonly #ttlMs: number;
  readonly #pollMs: number;
  readonly #now: () => number;
  readonly #monotonic: () => number;
  readonly #files = new Map<string, SeenFile>();
  readonly #watches = new Map<string, FSWatcher>();
  /** Files that events named since the last look. */
  readonly #touched = new Set<string>();
  #table: RecordTable | undefined;
  /** Texts of the first look by key, told as one list: who came first among them is not known. */
  #firstList: Map<string, string> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #look: Promise<void> | undefined;
  #lookedAtMs: number | undefined;
  #nextFullLookMs = 0;
  #isStale = false;
  #isClosed = false;

  constructor(options: FileDiscoveryOptions) {
    this.#root = options.root;
    this.#log = options.log;
    this.#ttlMs = options.ttlMs ?? fileTtlMs;
    this.#pollMs = options.pollMs ?? 1000;
    this.#now = options.now ?? Date.now;
    this.#monotonic = options.monotonic ?? (() => performance.now());
  }

  get isStale(): boolean {
    return this.#isStale;
  }

  get malformedRecords(): number {
    return this.#table?.malformed ?? 0;
  }

  async start(listener: RecordListener): Promise<void> {
    const table = new RecordTable(listener, this.#log);
    const firstList = new Map<string, string>();
    this.#table = table;
    this.#firstList = firstList;
    this.#look = this.#lookAtAll();
    await this.#look;
    this.#firstList = undefined;
    if (!this.#isClosed && !this.#isStale) table.reconcile(firstList);
    this.#look = undefined;
    if (this.#isStale) {
      await this.close();
      throw new DiscoveryBackendError(`the folder of Dynamo's file discovery cannot be listed: ${this.#root}`);
    }
    this.#arm();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    for (const watcher of this.#watches.values()) watcher.close();
    this.#watches.clear();
    await this.#look;
  }

  #arm(): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    const restMs = this.#touched.size > 0 ? settleMs : Math.max(settleMs, this.#nextFullLookMs - this.#monotonic());
    this.#timer = setTimeout(() => {
      const isFull = this.#monotonic() >= this.#nextFullLookMs - 1;
      this.#look = (isFull ? this.#lookAtAll() : this.#lookAtTouched()).finally(() => {
        this.#look = undefined;
        this.#arm();
      });
    }, restMs);
  }

  /** An event that only says "touched" of a file that is known and good waits for the next look at all. */
  #heard(bucket: Bucket | undefined, event: string, name: string | null): void {
    if (this.#isClosed) return;
    if (bucket === undefined || name === null) this.#nextFullLookMs = this.#monotonic();
    else if (isTemporary(name)) return;
    else {
      const seen = this.#files.get(`${bucket}/${name}`);
      if (event === "change" && seen !== undefined && this.#table?.hasRecord(seen.key) === true) return;
      this.#touched.add(`${bucket}/${name}`);
    }
    if (this.#look === undefined) this.#arm();
  }

  async #lookAtTouched(): Promise<void> {
    const names = [...this.#touched];
    this.#touched.clear();
    for (const name of names) {
      const bucket = bucketNames.find((candidate) => name.startsWith(`${candidate}/`));
      if (bucket !== undefined) await this.#lookAt(bucket, name.slice(bucket.length + 1));
    }
  }

  async #lookAtAll(): Promise<void> {
    const began = this.#monotonic();
    this.#forgiveBlindTime(began);
    this.#touched.clear();
    let isStale = false;
    for (const bucket of bucketNames) {
      if (!(await this.#lookAtBucket(bucket))) isStale = true;
    }
    if (isStale !== this.#isStale) {
      this.#isStale = isStale;
      if (isStale) this.#log.warn({ root: this.#root }, "discovery folder cannot be listed; its records are kept");
      else this.#log.info({ root: this.#root }, "discovery folder can be listed again");
    }
    if (!this.#isClosed) this.#listen();
    const ended = this.#monotonic();
    this.#lookedAtMs = ended;
    this.#nextFullLookMs =
      ended + Math.max(this.#pollMs, Math.min((ended - began) * restPerLook, this.#pollMs * longestRest));
  }

  /** A process that slept or hung has not seen its workers' touches: nothing expires before they had their time to show. */
  #forgiveBlindTime(began: number): void {
    if (this.#lookedAtMs === undefined) return;
    const blindMs = began - Math.max(this.#lookedAtMs, this.#nextFullLookMs);
    if (blindMs < this.#pollMs) return;
    for (const file of this.#files.values()) file.touchedAtMs += blindMs;
  }

  /** False when the folder is there and cannot be listed: then its records stay. */
  async #lookAtBucket(bucket: Bucket): Promise<boolean> {
    let names: string[];
    try {
      names = await readdir(join(this.#root, bucket));
    } catch (error) {
      if (codeOf(error) !== "ENOENT" && codeOf(error) !== "ENOTDIR") return false;
      names = [];
    }
    const wanted = names.filter((name) => !isTemporary(name)).slice(0, maxFilesPerBucket);
    const present = new Set(wanted);
    for (const path of this.#files.keys()) {
      if (path.startsWith(`${bucket}/`) && !present.has(path.slice(bucket.length + 1))) this.#forget(path);
    }
    for (let first = 0; first < wanted.length && !this.#isClosed; first += filesAtOnce) {
      await Promise.all(wanted.slice(first, first + filesAtOnce).map((name) => this.#lookAt(bucket, name)));
    }
    return true;
  }

  async #lookAt(bucket: Bucket, name: string): Promise<void> {
    const path = `${bucket}/${name}`;
    const file = join(this.#root, path);
    try {
      const state = await stat(file);
      if (!state.isFile() || this.#isClosed) return;
      const seen = this.#files.get(path) ?? this.#meet(bucket, name, path, state.mtimeMs);
      if (seen === undefined) return;
      const mono = this.#monotonic();
      const isTouched = state.mtimeMs !== seen.mtimeMs;
      if (isTouched) {
        seen.mtimeMs = state.mtimeMs;
        seen.touchedAtMs = mono;
      }
      if (mono - seen.touchedAtMs > this.#ttlMs) {
        // Remembered, so that a touch of it is seen as one.
        seen.identity = "";
        this.#table?.remove(seen.key);
        return;
      }
      const identity = `${state.dev}:${state.ino}:${state.size}`;
      if (
        identity === seen.identity &&
        !(isTouched && mono - seen.readAtMs >= rereadMs) &&
        !this.#isUnread(seen, isTouched)
      ) {
        return;
      }
      await this.#read(file, seen, identity, state.size);
    } catch (error) {
      if (codeOf(error) === "ENOENT") this.#forget(path);
      else this.#log.debug({ file, error }, "discovery file cannot be read now");
    }
  }

  /** A half-written file is finished in place. */
  #isUnread(seen: SeenFile, isTouched: boolean): boolean {
    return isTouched && this.#table?.hasRecord(seen.key) === false;
  }

  #meet(bucket: Bucket, name: string, path: string, mtimeMs: number): SeenFile | undefined {
    const keyPath = pathOfFileName(name);
    if (keyPath === undefined) return undefined;
    const ageMs = Math.max(0, this.#now() - mtimeMs);
    const seen: SeenFile = {
      key: `${bucket}/${keyPath}`,
      identity: "",
      mtimeMs,
      touchedAtMs: this.#monotonic() - ageMs,
      readAtMs: 0,
    };
    this.#files.set(path, seen);
    return seen;
  }

  async #read(file: string, seen: SeenFile, identity: string, sizeBytes: number): Promise<void> {
    const tooLong = sizeBytes > maxRecordBytes;
    // One byte more than is allowed says that it is too much.
    const text = tooLong ? " ".repeat(maxRecordBytes + 1) : await readText(file, sizeBytes);
    if (this.#isClosed) return;
    seen.identity = identity;
    seen.readAtMs = this.#monotonic();
    if (this.#firstList === undefined) this.#table?.put(seen.key, text);
    else this.#firstList.set(seen.key, text);
  }

  #forget(path: string): void {
    const seen = this.#files.get(path);
    if (seen === undefined) return;
    this.#files.delete(path);
    if (!this.#isClosed) this.#table?.remove(seen.key);
  }

  /** Listens to the buckets, and to the folders in which a missing one would appear. */
  #listen(): void {
    this.#watch("", undefined);
    this.#watch("v1", undefined);
    for (const bucket of bucketNames) this.#watch(bucket, bucket);
  }

  #watch(folder: string, bucket: Bucket | undefined): void {
    if (this.#watches.has(folder)) return;
    try {
      const watcher = watch(join(this.#root, folder), { persistent: false }, (event, name) => {
        // A folder of the same name may be another one afterwards, which the old watch does not see.
        if (event === "rename" && bucket === undefined) this.#deafen();
        this.#heard(bucket, event, name);
      });
      watcher.on("error", () => this.#deafen());
      this.#watches.set(folder, watcher);
    } catch {
      // Not there yet, or no watches left: the looks go on and try again.
    }
  }

  #deafen(): void {
    for (const watcher of this.#watches.values()) watcher.close();
    this.#watches.clear();
  }
}

/** A file that grows meanwhile is read to about the size that was seen, and again when its new one is. */
async function readText(file: string, sizeBytes: number): Promise<string> {
  const handle = await open(file);
  try {
    const bytes = Buffer.allocUnsafe(sizeBytes + 1);
    let filled = 0;
    for (let read = -1; read !== 0 && filled < bytes.length; filled += read) {
      read = (await handle.read(bytes, filled, bytes.length - filled, null)).bytesRead;
    }
    return bytes.toString("utf8", 0, filled);
  } finally {
    await handle.close();
  }
}

function isTemporary(name: string): boolean {
  return name.startsWith(".tmp_");
}

function codeOf(error: unknown): unknown {
  return typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
}
