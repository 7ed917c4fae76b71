/**
 * Writes records into Dynamo's file backend: complete or not at all (a temporary name, then a rename), touched before they expire, removed on
 * close. A file that somebody deleted as expired is written again.
 */
import { randomBytes } from "node:crypto";
import { mkdir, rename, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Logger } from "../../../telemetry/log.ts";
import type { EncodedRecord } from "../../encode-record.ts";
import { bucketOf, fileNameOf } from "../../record-keys.ts";
import { DiscoveryBackendError } from "../discovery-error.ts";
import type { DynamoRegistration } from "../registration.ts";
import { fileTtlMs } from "./file-discovery.ts";

export interface FileRegistrationOptions {
  readonly root: string;
  readonly log: Logger;
  readonly ttlMs?: number;
}

/** Where Dynamo keeps its files when DYN_FILE_KV does not say. */
export function defaultFileRoot(): string {
  return join(tmpdir(), "dynamo_store_kv");
}

export function createFileRegistration(options: FileRegistrationOptions): DynamoRegistration {
  return new FileRegistration(options);
}

class FileRegistration implements DynamoRegistration {
  readonly instanceId = randomBytes(8).readBigUInt64LE();
  readonly #root: string;
  readonly #log: Logger;
  readonly #texts = new Map<string, string>();
  readonly #timer: NodeJS.Timeout;
  /** Writes, touches and removals, one after the other: a touch never writes again what was just removed. */
  #work: Promise<void> = Promise.resolve();
  #isClosed = false;

  constructor(options: FileRegistrationOptions) {
    this.#root = options.root;
    this.#log = options.log;
    this.#timer = setInterval(() => void this.#queue(() => this.#touchAll()), (options.ttlMs ?? fileTtlMs) / 3);
  }

  async put(record: EncodedRecord): Promise<void> {
    if (this.#isClosed) throw new DiscoveryBackendError("the registration is closed");
    const file = this.#fileOf(record.key);
    this.#texts.set(file, record.text);
    try {
      await this.#queue(() => writeWhole(file, record.text));
    } catch (cause) {
      this.#texts.delete(file);
      throw new DiscoveryBackendError(`cannot write ${file}`, { cause });
    }
  }

  async remove(key: string): Promise<void> {
    const file = this.#fileOf(key);
    this.#texts.delete(file);
    await this.#queue(() => rm(file, { force: true }));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#timer);
    await this.#queue(async () => {
      for (const file of this.#texts.keys()) {
        await rm(file, { force: true }).catch((error: unknown) =>
          this.#log.warn({ file, error }, "discovery file stays"),
        );
      }
      this.#texts.clear();
    });
  }

  #queue(step: () => Promise<void>): Promise<void> {
    const done = this.#work.then(step);
    this.#work = done.catch(() => {});
    return done;
  }

  #fileOf(key: string): string {
    const bucket = bucketOf(key);
    if (bucket === undefined) throw new DiscoveryBackendError(`${key} is in no bucket of records`);
    return join(this.#root, bucket, fileNameOf(key.slice(bucket.length + 1)));
  }

  async #touchAll(): Promise<void> {
    const now = new Date();
    for (const [file, text] of this.#texts) {
      try {
        await utimes(file, now, now);
      } catch {
        await writeWhole(file, text).catch((error: unknown) =>
          this.#log.warn({ file, error }, "discovery file cannot be kept alive"),
        );
      }
    }
  }
}

async function writeWhole(file: string, text: string): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const temporary = join(dirname(file), `.tmp_${randomBytes(8).toString("hex")}`);
  try {
    await writeFile(temporary, text, { flag: "wx" });
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
