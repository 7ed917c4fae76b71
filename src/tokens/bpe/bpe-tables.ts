// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
/**
 * The vocabulary and merges of a byte-level BPE as flat tables over shared memory, so that the loop and the tokenizer thread use one copy.
 * The tables are written once, while they are built, and only read afterwards.
 *
 *     pairs, 4 words a slot:  left id │ right id │ rank │ merged id      (open addressing, empty = left −1)
 *     words, 1 word a slot:   token id + 1, keyed by the token's bytes   (only where whole words go before merges)
 */
import { bytesOfToken, characterForByte } from "./byte-alphabet.ts";

export interface BpeTables {
  readonly pairs: Int32Array;
  /** Slots of `pairs` minus one. */
  readonly pairMask: number;
  /** Token id of each single byte. */
  readonly byteIds: Int32Array;
  /** Tokens' bytes end to end; token i is [offsets[i], offsets[i + 1]). */
  readonly tokenBytes: Uint8Array;
  readonly tokenOffsets: Uint32Array;
  /** Empty unless `ignore_merges`: then a word that is a token is that token, whatever merges would make of it. */
  readonly words: Int32Array;
  readonly maxTokenBytes: number;
}

export type TableFailure = { readonly failure: string };

export interface BpeSource {
  readonly vocabulary: ReadonlyMap<string, number>;
  /** In rank order. */
  readonly merges: readonly (readonly [string, string])[];
  readonly ignoresMerges: boolean;
}

const noBytes: Uint8Array = new Uint8Array(0);

/** A failure names what the tables cannot hold: such a model is for the native tokenizer. */
export function buildBpeTables(source: BpeSource): BpeTables | TableFailure {
  const byteIds = sharedInt32(256);
  for (let byte = 0; byte < 256; byte++) {
    const id = source.vocabulary.get(characterForByte(byte));
    if (id === undefined) return { failure: `the vocabulary has no token for byte ${byte}` };
    byteIds[byte] = id;
  }
  const pairMask = powerOfTwoFrom(source.merges.length * 2) - 1;
  const pairs = sharedInt32((pairMask + 1) * 4).fill(-1);
  for (const [rank, [left, right]] of source.merges.entries()) {
    const leftId = source.vocabulary.get(left);
    const rightId = source.vocabulary.get(right);
    const mergedId = source.vocabulary.get(left + right);
    if (leftId === undefined || rightId === undefined || mergedId === undefined) {
      return { failure: `merge ${rank} is of tokens the vocabulary does not have` };
    }
    putPair(pairs, pairMask, leftId, rightId, rank, mergedId);
  }
  return { pairs, pairMask, byteIds, ...tokenTexts(source) };
}

function tokenTexts(source: BpeSource): Pick<BpeTables, "tokenBytes" | "tokenOffsets" | "words" | "maxTokenBytes"> {
  let highest = -1;
  for (const id of source.vocabulary.values()) if (id > highest) highest = id;
  const texts = Array.from({ length: highest + 1 }, () => noBytes);
  let total = 0;
  let longest = 1;
  for (const [token, id] of source.vocabulary) {
    const bytes = bytesOfToken(token);
    texts[id] = bytes;
    total += bytes.length;
    if (bytes.length > longest) longest = bytes.length;
  }
  const tokenBytes = new Uint8Array(new SharedArrayBuffer(total));
  const tokenOffsets = new Uint32Array(new SharedArrayBuffer((texts.length + 1) * 4));
  let at = 0;
  for (const [id, bytes] of texts.entries()) {
    tokenOffsets[id] = at;
    tokenBytes.set(bytes, at);
    at += bytes.length;
  }
  tokenOffsets[texts.length] = at;
  const words = sharedInt32(source.ignoresMerges ? powerOfTwoFrom(texts.length * 2) : 0);
  if (source.ignoresMerges) {
    for (const [token, id] of source.vocabulary) putWord(words, wordBytes(token), id);
  }
  return { tokenBytes, tokenOffsets, words, maxTokenBytes: longest };
}

/** Only a token spelt in the alphabet can be met as a word. */
function wordBytes(token: string): Uint8Array | undefined {
  const bytes = bytesOfToken(token);
  return bytes.length === token.length ? bytes : undefined;
}

function putWord(words: Int32Array, bytes: Uint8Array | undefined, id: number): void {
  if (bytes === undefined || bytes.length === 0) return;
  const mask = words.length - 1;
  let slot = hashOfBytes(bytes, 0, bytes.length) & mask;
  while (words[slot] !== 0) slot = (slot + 1) & mask;
  words[slot] = id + 1;
}

/** The token whose bytes are [0, length) of `bytes`, or −1. */
export function tokenOfWord(tables: BpeTables, bytes: Uint8Array, length: number): number {
  const { words, tokenBytes, tokenOffsets } = tables;
  if (length > tables.maxTokenBytes) return -1;
  const mask = words.length - 1;
  for (let slot = hashOfBytes(bytes, 0, length) & mask; ; slot = (slot + 1) & mask) {
    const id = words[slot]! - 1;
    if (id < 0) return -1;
    const start = tokenOffsets[id]!;
    if (tokenOffsets[id + 1]! - start !== length) continue;
    let at = 0;
    while (at < length && tokenBytes[start + at] === bytes[at]) at++;
    if (at === length) return id;
  }
}

function hashOfBytes(bytes: Uint8Array, start: number, end: number): number {
  let hash = 0x811c9dc5;
  for (let at = start; at < end; at++) hash = Math.imul(hash ^ bytes[at]!, 0x01000193);
  return hash ^ (hash >>> 15);
}

function putPair(pairs: Int32Array, mask: number, left: number, right: number, rank: number, merged: number): void {
  let slot = hashOfPair(left, right) & mask;
  while (pairs[slot * 4]! >= 0 && (pairs[slot * 4] !== left || pairs[slot * 4 + 1] !== right)) slot = (slot + 1) & mask;
  pairs[slot * 4] = left;
  pairs[slot * 4 + 1] = right;
  pairs[slot * 4 + 2] = rank;
  pairs[slot * 4 + 3] = merged;
}

/** Index of the pair's rank in `pairs` (the merged id follows it), or −1. */
export function pairAt(tables: BpeTables, left: number, right: number): number {
  const { pairs, pairMask } = tables;
  for (let slot = hashOfPair(left, right) & pairMask; ; slot = (slot + 1) & pairMask) {
    const found = pairs[slot * 4]!;
    if (found === left && pairs[slot * 4 + 1] === right) return slot * 4 + 2;
    if (found < 0) return -1;
  }
}

function hashOfPair(left: number, right: number): number {
  const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  return mixed ^ (mixed >>> 15);
}

function sharedInt32(length: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer(length * 4));
}

function powerOfTwoFrom(least: number): number {
  let size = 16;
  while (size < least) size *= 2;
  return size;
}
