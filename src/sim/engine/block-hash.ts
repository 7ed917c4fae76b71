/**
 * Chained hashes of token blocks, 64 bits as two 32-bit lanes (never a Number). A block's hash covers every token before it
 * and the root (model, adapter, cache salt), so equal hashes mean equal prefixes.
 */

const loMultiplier = 0x9e3779b1;
const hiMultiplier = 0x85ebca6b;

function finalize(value: number): number {
  let mixed = value ^ (value >>> 16);
  mixed = Math.imul(mixed, 0x7feb352d);
  mixed ^= mixed >>> 15;
  mixed = Math.imul(mixed, 0x846ca68b);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** A well-mixed 32-bit value of two; the one source of pseudo-randomness in the simulated engine. */
export function mix(a: number, b: number): number {
  return finalize(Math.imul(a ^ 0x5bd1e995, loMultiplier) ^ finalize(b + 0x6d2b79f5));
}

/** Hash of a text, for seeds and roots: not for blocks. */
export function seedOfText(text: string, seed = 0): number {
  let hash = seed ^ 0x811c9dc5;
  for (let at = 0; at < text.length; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return finalize(hash ^ text.length);
}

/**
 * Writes the hash of the block `tokens[from, to)` that follows the block hashed (parentLo, parentHi) to
 * `out[at]` (low lane) and `out[at + 1]` (high lane). The first block's parent is the root, twice.
 */
export function hashBlock(
  out: Uint32Array,
  at: number,
  parentLo: number,
  parentHi: number,
  tokens: Uint32Array,
  from: number,
  to: number,
): void {
  let lo = parentLo ^ 0x2545f491;
  let hi = parentHi ^ 0x4f6cdd1d;
  for (let index = from; index < to; index++) {
    const token = tokens[index] ?? 0;
    lo = Math.imul((lo << 13) | (lo >>> 19), 5) + Math.imul(token, loMultiplier);
    lo ^= lo >>> 15;
    hi = Math.imul(((hi << 17) | (hi >>> 15)) ^ token, hiMultiplier);
    hi ^= hi >>> 13;
  }
  out[at] = finalize(lo ^ hi);
  out[at + 1] = finalize(Math.imul(hi, loMultiplier) + lo);
}

/** Hashes of the full blocks of a prompt, as (low, high) pairs; a trailing partial block has none. */
export function hashesOfTokens(tokens: Uint32Array, blockSize: number, root: number): Uint32Array {
  const count = Math.floor(tokens.length / blockSize);
  const hashes = new Uint32Array(count * 2);
  let lo = root;
  let hi = root;
  for (let block = 0; block < count; block++) {
    hashBlock(hashes, block * 2, lo, hi, tokens, block * blockSize, (block + 1) * blockSize);
    lo = hashes[block * 2] ?? 0;
    hi = hashes[block * 2 + 1] ?? 0;
  }
  return hashes;
}
