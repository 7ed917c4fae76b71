// XXH64 block-chain hashing in AssemblyScript, `--runtime stub`: the prompt passes through a fixed window, slice by slice, and one call hashes
// every block of a slice. Memory never grows: [0, WINDOW) the slice, [WINDOW, WINDOW + 8 * MAX_HASHES) the hashes of that slice.
// The algorithm is the XXH64 specification's, seed 0 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).

export const WINDOW: i32 = 131072;
export const MAX_HASHES: i32 = 4096;

const P1: u64 = 0x9e3779b185ebca87;
const P2: u64 = 0xc2b2ae3d27d4eb4f;
const P3: u64 = 0x165667b19e3779f9;
const P4: u64 = 0x85ebca77c2b2ae63;
const P5: u64 = 0x27d4eb2f165667c5;

/** Hash of the root, kept so that several chains under one root cost it once. */
let root: u64 = 0;
/** Hash of the block before. */
let previous: u64 = 0;

let lane1: u64 = 0;
let lane2: u64 = 0;
let lane3: u64 = 0;
let lane4: u64 = 0;
/** Bytes the root's lanes have taken, a multiple of 32. */
let absorbed: u64 = 0;

// @ts-ignore: decorator
@inline
function round(lane: u64, input: u64): u64 {
  return rotl<u64>(lane + input * P2, 31) * P1;
}

// @ts-ignore: decorator
@inline
function merge(hash: u64, lane: u64): u64 {
  return (hash ^ round(0, lane)) * P1 + P4;
}

// @ts-ignore: decorator
@inline
function converge(v1: u64, v2: u64, v3: u64, v4: u64): u64 {
  let hash = rotl<u64>(v1, 1) + rotl<u64>(v2, 7) + rotl<u64>(v3, 12) + rotl<u64>(v4, 18);
  hash = merge(hash, v1);
  hash = merge(hash, v2);
  hash = merge(hash, v3);
  return merge(hash, v4);
}

// @ts-ignore: decorator
@inline
function avalanche(hash: u64): u64 {
  hash = (hash ^ (hash >> 33)) * P2;
  hash = (hash ^ (hash >> 29)) * P3;
  return hash ^ (hash >> 32);
}

/** Takes in the fewer than 32 bytes at [at, end) and mixes. */
// @ts-ignore: decorator
@inline
function finish(hash: u64, at: i32, end: i32): u64 {
  for (; at + 8 <= end; at += 8) hash = rotl<u64>(hash ^ round(0, load<u64>(at)), 27) * P1 + P4;
  if (at + 4 <= end) {
    hash = rotl<u64>(hash ^ (<u64>load<u32>(at) * P1), 23) * P2 + P3;
    at += 4;
  }
  for (; at < end; at++) hash = rotl<u64>(hash ^ (<u64>load<u8>(at) * P5), 11) * P1;
  return avalanche(hash);
}

function hashBlock(at: i32, length: i32): u64 {
  const end = at + length;
  let hash: u64;
  if (length >= 32) {
    let v1: u64 = P1 + P2;
    let v2: u64 = P2;
    let v3: u64 = 0;
    let v4: u64 = 0 - P1;
    do {
      v1 = round(v1, load<u64>(at));
      v2 = round(v2, load<u64>(at, 8));
      v3 = round(v3, load<u64>(at, 16));
      v4 = round(v4, load<u64>(at, 24));
      at += 32;
    } while (at + 32 <= end);
    hash = converge(v1, v2, v3, v4);
  } else {
    hash = P5;
  }
  return finish(hash + <u64>length, at, end);
}

/** Starts the hash of a new root. */
export function beginRoot(): void {
  lane1 = P1 + P2;
  lane2 = P2;
  lane3 = 0;
  lane4 = 0 - P1;
  absorbed = 0;
}

/** Takes the first `length` bytes of the window, a multiple of 32, into the root. */
export function absorbRoot(length: i32): void {
  for (let at = 0; at < length; at += 32) {
    lane1 = round(lane1, load<u64>(at));
    lane2 = round(lane2, load<u64>(at, 8));
    lane3 = round(lane3, load<u64>(at, 16));
    lane4 = round(lane4, load<u64>(at, 24));
  }
  absorbed += <u64>length;
}

/** Ends the root with the fewer than 32 bytes at the start of the window. */
export function endRoot(length: i32): void {
  const hash = absorbed > 0 ? converge(lane1, lane2, lane3, lane4) : P5;
  root = finish(hash + absorbed + <u64>length, 0, length);
}

/** Starts a chain under the root. */
export function beginChain(): void {
  previous = root;
}

/** Hashes the first `length` bytes of the window in blocks, the last of which may be shorter; returns how many hashes were written. */
export function hashBlocks(length: i32, blockBytes: i32): i32 {
  let out = WINDOW;
  let hash = previous;
  for (let at = 0; at < length; at += blockBytes) {
    const content = hashBlock(at, min(blockBytes, length - at));
    // XXH64 of the 16 bytes content ‖ hash, unrolled.
    let next = P5 + 16;
    next = rotl<u64>(next ^ round(0, content), 27) * P1 + P4;
    next = rotl<u64>(next ^ round(0, hash), 27) * P1 + P4;
    hash = avalanche(next);
    store<u64>(out, hash);
    out += 8;
  }
  previous = hash;
  return (out - WINDOW) >> 3;
}
