/**
 * The objects that one page of KV cache is stored as: `[prefix_]<page hash in hex><suffix>`, one suffix for each part that a rank of the engine writes.
 * A page can be read where all of its parts are there. (SGLang: mem_cache/storage/mooncake_store; Dynamo 1.6.1: dynamo-llm, src/kv_router/shared_cache.rs.)
 */
import type { HicacheLayout } from "../../dynamo/model-card/model-card.ts";

/** More than any engine has ranks; a layout of more cannot be true. */
export const maxPartsPerPage = 1024;

/** Bytes of a page's hash, and its hex digits in a key. */
const hashBytes = 32;
const hexDigits = 2 * hashBytes;

/** What stands before the hash, the underscore included. An empty prefix leaves its underscore, none leaves nothing. */
export function keyPrefixOf({ keyPrefix, extraBackendTag }: HicacheLayout): string {
  const prefix = keyPrefix ?? (extraBackendTag === "" ? undefined : extraBackendTag);
  return prefix === undefined ? "" : `${prefix}_`;
}

/** Parts of a page, before they are spelt out. */
export function partsPerPage(layout: HicacheLayout): number {
  const pipeline = Math.max(1, layout.ppSize);
  return layout.isMla ? pipeline : 2 * pipeline * headRanks(layout);
}

/** What stands after the hash in the key of each part. */
export function keySuffixesOf(layout: HicacheLayout): readonly string[] {
  const { isMla } = layout;
  const pipeline = Math.max(1, layout.ppSize);
  const isPipelined = pipeline > 1;
  // MLA keeps one latent for all heads: ranks of tensor parallelism write the same.
  if (isMla && !isPipelined) return ["__k"];
  const suffixes: string[] = [];
  for (let stage = 0; stage < pipeline; stage++) {
    if (isMla) {
      suffixes.push(`_${stage}_k`);
      continue;
    }
    for (let rank = 0; rank < headRanks(layout); rank++) {
      const place = isPipelined ? `_${rank}_${stage}` : `_${rank}`;
      suffixes.push(`${place}_k`, `${place}_v`);
    }
  }
  return suffixes;
}

/** Heads that are split finer than an engine's own ranks can be read by engines of other sizes. */
function headRanks({ tpSize, tpLcmSize, splitsHeads }: HicacheLayout): number {
  return Math.max(1, tpSize, splitsHeads ? (tpLcmSize ?? 0) : 0);
}

/** Reads keys of one layout: which page and which part of it an object is. */
export class ObjectKeyReader {
  readonly #prefix: Buffer;
  readonly #parts: ReadonlyMap<string, number>;
  readonly #hash = Buffer.alloc(hashBytes);
  /** Of the key read last: the page's hash as a latin-1 string of 32 characters, and the number of the part. */
  page = "";
  part = 0;

  constructor(layout: HicacheLayout) {
    this.#prefix = Buffer.from(keyPrefixOf(layout));
    this.#parts = new Map(keySuffixesOf(layout).map((suffix, part) => [suffix, part]));
  }

  /** False where the key is no part of a page of this layout: another model's, say. */
  read(bytes: Buffer, start: number, length: number): boolean {
    const prefix = this.#prefix;
    const hexAt = start + prefix.length;
    const suffixAt = hexAt + hexDigits;
    const end = start + length;
    if (suffixAt >= end || bytes.compare(prefix, 0, prefix.length, start, hexAt) !== 0) return false;
    const part = this.#parts.get(bytes.toString("latin1", suffixAt, end));
    if (part === undefined) return false;
    const hash = this.#hash;
    for (let index = 0; index < hashBytes; index++) {
      const high = digitOf(bytes[hexAt + 2 * index]);
      const low = digitOf(bytes[hexAt + 2 * index + 1]);
      if (high < 0 || low < 0) return false;
      hash[index] = (high << 4) | low;
    }
    this.page = hash.toString("latin1");
    this.part = part;
    return true;
  }
}

/** Of a lower-case hex digit; −1 for anything else. */
function digitOf(code: number | undefined): number {
  if (code === undefined) return -1;
  if (code >= 0x30 && code <= 0x39) return code - 0x30;
  return code >= 0x61 && code <= 0x66 ? code - 0x57 : -1;
}
