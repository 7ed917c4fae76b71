/**
 * A file fetched over HTTP into a cache whose folders are named by digest. What is in the cache is whole and checked: it comes there by a rename.
 * The URL is whatever a worker wrote into its card: see `forbidden-hosts.ts` for where it may not lead.
 */
import { randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm, utimes } from "node:fs/promises";
import { dirname } from "node:path";
import { blake3 } from "@noble/hashes/blake3.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { isForbiddenHost } from "./forbidden-hosts.ts";

export interface Download {
  readonly url: string;
  /** Hex. */
  readonly digest: string;
  readonly maxBytes: number;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** The hash of a chunk must not hold up the event loop. */
const pieceBytes = 64 * 1024;
const maxRedirects = 5;

/** Undefined when the file is at `path` now, whole and with its digest; else why not. Never rejects. */
export async function fetchInto(path: string, download: Download): Promise<string | undefined> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.part`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const reason = await fetchTo(temporary, download);
    if (reason !== undefined) return reason;
    await rename(temporary, path);
    const now = new Date();
    await utimes(dirname(path), now, now);
    return undefined;
  } catch (error) {
    return failureText(error, download.timeoutMs);
  } finally {
    await rm(temporary, { force: true }).catch(() => {});
  }
}

async function fetchTo(
  to: string,
  { url, digest, maxBytes, timeoutMs, signal }: Download,
): Promise<string | undefined> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  const answer = await follow(url, deadline);
  if (typeof answer === "string") return answer;
  try {
    if (!answer.ok || answer.body === null) return `answered with status ${answer.status}`;
    if (Number(answer.headers.get("content-length") ?? 0) > maxBytes) return tooLarge(maxBytes);
    const target = await open(to, "wx", 0o600);
    try {
      const found = await write(answer.body, target, maxBytes);
      if (found === undefined) return tooLarge(maxBytes);
      return found === digest ? undefined : "has another content than the card says";
    } finally {
      await target.close();
    }
  } finally {
    await dropBody(answer);
  }
}

/** The answer behind all redirects, or why none was asked for. */
async function follow(url: string, signal: AbortSignal): Promise<Response | string> {
  let target = new URL(url);
  for (let hops = 0; ; hops++) {
    if (target.protocol !== "http:" && target.protocol !== "https:") return `leads to ${target.protocol}`;
    if (await isForbiddenHost(target.hostname)) return "leads to an address that models are not fetched from";
    const answer = await fetch(...withCredentials(target, { signal, redirect: "manual" }));
    const location = answer.status >= 300 && answer.status < 400 ? answer.headers.get("location") : null;
    if (location === null) return answer;
    await dropBody(answer);
    if (hops === maxRedirects) return `leads on more than ${maxRedirects} times`;
    target = new URL(location, target);
  }
}

/** `fetch` takes none in its URL. */
function withCredentials(target: URL, options: RequestInit): [URL, RequestInit] {
  const { username, password } = target;
  if (username === "" && password === "") return [target, options];
  const bare = new URL(target);
  bare.username = "";
  bare.password = "";
  const secret = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return [bare, { ...options, headers: { authorization: `Basic ${Buffer.from(secret).toString("base64")}` } }];
}

/** What is left of an answer that is given up would hold its connection. */
async function dropBody(answer: Response): Promise<void> {
  if (answer.body !== null && !answer.body.locked) await answer.body.cancel();
}

/** The digest of what was written; undefined when it is more than it may be. */
async function write(
  body: AsyncIterable<Uint8Array>,
  target: FileHandle,
  maxBytes: number,
): Promise<string | undefined> {
  const hash = blake3.create();
  let sizeBytes = 0;
  for await (const chunk of body) {
    sizeBytes += chunk.length;
    if (sizeBytes > maxBytes) return undefined;
    for (let at = 0; at < chunk.length; at += pieceBytes) {
      if (at > 0) await new Promise(setImmediate);
      hash.update(chunk.subarray(at, at + pieceBytes));
    }
    await target.write(chunk);
  }
  return bytesToHex(hash.digest());
}

function tooLarge(maxBytes: number): string {
  return `larger than the ${maxBytes} bytes it may have`;
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
