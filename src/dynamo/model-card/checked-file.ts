/**
 * One file with the digest it must have: found on this host, or fetched over HTTP. What a worker's card says of it is believed as far as the
 * digest goes: a file of another content is not used, and nothing of it is told.
 */
import { createReadStream } from "node:fs";
import { stat, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { blake3 } from "@noble/hashes/blake3.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { fetchInto } from "./fetched-file.ts";
import type { CheckedFile } from "./model-card.ts";

export interface FetchOptions {
  readonly cacheDir: string;
  /** Where a file of the same name is looked for when it is not at its path. */
  readonly folders: readonly string[];
  /** Of one file from beginning to end, wherever it comes from. */
  readonly timeoutMs: number;
  readonly maxBytes: number;
  readonly signal: AbortSignal;
  /** Told before a file is asked for from another host. */
  readonly fetching: () => void;
}

export type LocalCopy =
  | { readonly kind: "local"; readonly path: string }
  | { readonly kind: "failed"; readonly reason: string };

/** The hash of a chunk must not hold up the event loop. */
const chunkBytes = 64 * 1024;

export async function localCopyOf(file: CheckedFile, options: FetchOptions): Promise<LocalCopy> {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(file.path)?.[1]?.toLowerCase();
  switch (scheme) {
    case "http":
    case "https":
      return await fetchedCopy(file, options);
    case "hf":
      return await firstMatch(
        file,
        foldersOf(file, options),
        options,
        "files of a model hub are not downloaded; name their folder as model path",
      );
    case "file": {
      let path: string;
      try {
        path = fileURLToPath(file.path);
      } catch {
        return failed("not a path of this host");
      }
      return await firstMatch(file, [path, ...foldersOf(file, options)], options, "no such file on this host");
    }
    case undefined:
      return await firstMatch(file, [file.path, ...foldersOf(file, options)], options, "no such file on this host");
    default:
      return failed(`files are not had by ${scheme}`);
  }
}

/** A URL without what may be secret in it. */
export function shownPath({ path }: CheckedFile): string {
  return path
    .replace(/^(https?:\/\/)[^/?#]*@/i, "$1")
    .replace(/[?#].*$/s, (rest) => (/^https?:/i.test(path) ? "" : rest));
}

function failed(reason: string): LocalCopy {
  return { kind: "failed", reason };
}

function foldersOf(file: CheckedFile, { folders }: FetchOptions): readonly string[] {
  const name = nameOf(file);
  return folders.map((folder) => join(folder, name));
}

/** Its last segment, which is a plain name. */
function nameOf(file: CheckedFile): string {
  const path = file.path.split(/[?#]/, 1)[0] ?? "";
  const name = path.split("/").findLast((segment) => segment !== "") ?? "";
  return name === "" || name === "." || name === ".." || name.length > maxNameLength ? "file" : name;
}

/** What file systems take, less what a temporary name adds. */
const maxNameLength = 200;

function digestOf(file: CheckedFile): string {
  return file.checksum.slice("blake3:".length);
}

async function firstMatch(
  file: CheckedFile,
  paths: readonly string[],
  options: FetchOptions,
  absent: string,
): Promise<LocalCopy> {
  let reason = absent;
  for (const path of paths) {
    const found = await examine(path, file, options);
    if (found === "same") return { kind: "local", path };
    if (found !== undefined) reason = `${path} ${found}`;
  }
  return failed(reason);
}

/** "same" when the file has the digest, else what is wrong with it; undefined when there is none or it cannot be read. */
async function examine(
  path: string,
  file: CheckedFile,
  { maxBytes, timeoutMs, signal }: FetchOptions,
): Promise<string | undefined> {
  try {
    const state = await stat(path);
    // What the kernel makes up as it is read says that it has no bytes, and may never end.
    if (!state.isFile() || state.size === 0) return undefined;
    if (state.size > maxBytes) return `is larger than the ${maxBytes} bytes it may have`;
    const hash = blake3.create();
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
    for await (const chunk of createReadStream(path, { highWaterMark: chunkBytes, end: maxBytes, signal: deadline }))
      hash.update(chunk as Buffer);
    return bytesToHex(hash.digest()) === digestOf(file) ? "same" : "has another content than the card says";
  } catch {
    return undefined;
  }
}

async function fetchedCopy(file: CheckedFile, options: FetchOptions): Promise<LocalCopy> {
  const path = join(options.cacheDir, digestOf(file), nameOf(file));
  if ((await examine(path, file, options)) === "same") {
    const now = new Date();
    await utimes(dirname(path), now, now).catch(() => {});
    return { kind: "local", path };
  }
  options.fetching();
  const { timeoutMs, signal } = options;
  const maxBytes = Math.min(file.sizeBytes ?? options.maxBytes, options.maxBytes);
  const reason = await fetchInto(path, { url: file.path, digest: digestOf(file), maxBytes, timeoutMs, signal });
  return reason === undefined ? { kind: "local", path } : failed(reason);
}
