/**
 * One file with the digest it must have: found on this host or fetched over HTTP into a cache whose folders are named by digest. What is in the
 * cache is whole and checked: it comes there by a rename.
 */
import { randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { blake3 } from "@noble/hashes/blake3.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { CheckedFile } from "./model-card.ts";

export interface FetchOptions {
  readonly cacheDir: string;
  /** Where a file of the same name is looked for when it is not at its path. */
  readonly folders: readonly string[];
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

export type LocalCopy =
  | { readonly kind: "local"; readonly path: string }
  | { readonly kind: "failed"; readonly reason: string };

/** No file of a model but its weights comes near; also what a card without a size may bring. */
export const maxFileBytes = 1024 * 1024 * 1024;

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
  return name === "" || name === "." || name === ".." ? "file" : name;
}

function digestOf(file: CheckedFile): string {
  return file.checksum.slice("blake3:".length);
}

async function firstMatch(
  file: CheckedFile,
  paths: readonly string[],
  { signal }: FetchOptions,
  absent: string,
): Promise<LocalCopy> {
  let reason = absent;
  for (const path of paths) {
    const found = await digestOfPath(path, signal);
    if (found === digestOf(file)) return { kind: "local", path };
    if (found !== undefined) reason = `${path} has another content than the card says: blake3 ${found.slice(0, 12)}…`;
  }
  return failed(reason);
}

/** Undefined when there is no such file or it cannot be read. */
async function digestOfPath(path: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const state = await stat(path);
    if (!state.isFile() || state.size > maxFileBytes) return undefined;
    const hash = blake3.create();
    for await (const chunk of createReadStream(path, { highWaterMark: chunkBytes, signal }))
      hash.update(chunk as Buffer);
    return bytesToHex(hash.digest());
  } catch {
    return undefined;
  }
}

async function fetchedCopy(file: CheckedFile, options: FetchOptions): Promise<LocalCopy> {
  const folder = join(options.cacheDir, digestOf(file));
  const path = join(folder, nameOf(file));
  if ((await digestOfPath(path, options.signal)) === digestOf(file)) return { kind: "local", path };
  const temporary = `${path}.${randomBytes(6).toString("hex")}.part`;
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const reason = await download(file, temporary, options);
    if (reason !== undefined) return failed(reason);
    await rename(temporary, path);
    return { kind: "local", path };
  } catch (error) {
    return failed(failureText(error, options.timeoutMs));
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Undefined when the whole file is there with its digest, else why not. */
async function download(file: CheckedFile, to: string, options: FetchOptions): Promise<string | undefined> {
  const limit = Math.min(file.sizeBytes ?? maxFileBytes, maxFileBytes);
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(options.timeoutMs)]);
  const answer = await fetch(file.path, { signal });
  try {
    if (!answer.ok || answer.body === null) return `answered with status ${answer.status}`;
    if (Number(answer.headers.get("content-length") ?? 0) > limit) return tooLarge(limit);
    const hash = blake3.create();
    const target = await open(to, "wx");
    try {
      let size = 0;
      for await (const chunk of answer.body as AsyncIterable<Uint8Array>) {
        size += chunk.length;
        if (size > limit) return tooLarge(limit);
        await hashInPieces(hash, chunk);
        await target.write(chunk);
      }
    } finally {
      await target.close();
    }
    const digest = bytesToHex(hash.digest());
    return digest === digestOf(file)
      ? undefined
      : `has another content than the card says: blake3 ${digest.slice(0, 12)}…`;
  } finally {
    // What is left of an answer that was given up would hold its connection.
    if (answer.body !== null && !answer.body.locked) await answer.body.cancel();
  }
}

async function hashInPieces(hash: { update(bytes: Uint8Array): unknown }, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.length; at += chunkBytes) {
    if (at > 0) await new Promise(setImmediate);
    hash.update(chunk.subarray(at, at + chunkBytes));
  }
}

function tooLarge(limit: number): string {
  return `larger than the ${limit} bytes it may have`;
}

function failureText(error: unknown, timeoutMs: number): string {
  if (typeof error !== "object" || error === null) return String(error);
  if ("name" in error && error.name === "TimeoutError") return `not complete after ${timeoutMs} ms`;
  const cause = "cause" in error ? error.cause : undefined;
  if (typeof cause !== "object" || cause === null)
    return "message" in error ? String(error.message) : "cannot be fetched";
  const detail = "code" in cause ? cause.code : "message" in cause ? cause.message : "no answer";
  return `cannot be fetched: ${String(detail)}`;
}
