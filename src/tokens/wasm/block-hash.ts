// XXH3-64 of token blocks and of their chain in AssemblyScript, `--runtime stub`. The tokens pass through a fixed window slice by slice, one
// call hashes every block of a slice, and memory never grows:
//
//   [0, WINDOW) input │ SECRET 192 │ SEEDED 192 │ ACC 64 │ BLOCKS 8 × MAX_HASHES │ SEQUENCES 8 × MAX_HASHES
//
// The algorithm is the specification's (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, XXH3), default secret, any seed.

export const WINDOW: i32 = 65536;
export const MAX_HASHES: i32 = 4096;
export const BLOCKS: i32 = 66560;
export const SEQUENCES: i32 = BLOCKS + 8 * 4096;

const SECRET: i32 = 65536;
const SEEDED: i32 = 65536 + 192;
const ACC: i32 = 65536 + 384;

const P32_1: u64 = 0x9e3779b1;
const P32_2: u64 = 0x85ebca77;
const P32_3: u64 = 0xc2b2ae3d;
const P64_1: u64 = 0x9e3779b185ebca87;
const P64_2: u64 = 0xc2b2ae3d27d4eb4f;
const P64_3: u64 = 0x165667b19e3779f9;
const P64_4: u64 = 0x85ebca77c2b2ae63;
const P64_5: u64 = 0x27d4eb2f165667c5;
const MIX_1: u64 = 0x165667919e3779f9;
const MIX_2: u64 = 0x9fb21c651e98df25;

/** Longest input hashed without the accumulators. */
const SHORT: i32 = 240;
const BLOCK: i32 = 1024;
const STRIPE: i32 = 64;
const STRIPES: i32 = 16;
const SECRET_BYTES: i32 = 192;

// Words 3 to 6 of the secret, which a chain link of 16 bytes uses.
const S3: u64 = 0x1f67b3b7a4a44072;
const S4: u64 = 0x78e5c0cc4ee679cb;
const S5: u64 = 0x2172ffcc7dd05a82;
const S6: u64 = 0x8e2443f7744608b8;

let seed: u64 = 0;
/** Sequence hash of the block before; only read while hasPrevious. */
let previous: u64 = 0;
let hasPrevious: bool = false;

function storeSecret(): void {
  store<u64>(SECRET, 0xbe4ba423396cfeb8);
  store<u64>(SECRET, 0x1cad21f72c81017c, 8);
  store<u64>(SECRET, 0xdb979083e96dd4de, 16);
  store<u64>(SECRET, S3, 24);
  store<u64>(SECRET, S4, 32);
  store<u64>(SECRET, S5, 40);
  store<u64>(SECRET, S6, 48);
  store<u64>(SECRET, 0x4c263a81e69035e0, 56);
  store<u64>(SECRET, 0xcb00c391bb52283c, 64);
  store<u64>(SECRET, 0xa32e531b8b65d088, 72);
  store<u64>(SECRET, 0x4ef90da297486471, 80);
  store<u64>(SECRET, 0xd8acdea946ef1938, 88);
  store<u64>(SECRET, 0x3f349ce33f76faa8, 96);
  store<u64>(SECRET, 0x1d4f0bc7c7bbdcf9, 104);
  store<u64>(SECRET, 0x3159b4cd4be0518a, 112);
  store<u64>(SECRET, 0x647378d9c97e9fc8, 120);
  store<u64>(SECRET, 0xc3ebd33483acc5ea, 128);
  store<u64>(SECRET, 0xeb6313faffa081c5, 136);
  store<u64>(SECRET, 0x49daf0b751dd0d17, 144);
  store<u64>(SECRET, 0x9e68d429265516d3, 152);
  store<u64>(SECRET, 0xfca1477d58be162b, 160);
  store<u64>(SECRET, 0xce31d07ad1b8f88f, 168);
  store<u64>(SECRET, 0x280416958f3acb45, 176);
  store<u64>(SECRET, 0x7e404bbbcafbd7af, 184);
}

// @ts-ignore: decorator
@inline
function mulFold(a: u64, b: u64): u64 {
  const aLow = a & 0xffffffff;
  const aHigh = a >> 32;
  const bLow = b & 0xffffffff;
  const bHigh = b >> 32;
  const low = aLow * bLow;
  const middle1 = aHigh * bLow + (low >> 32);
  const middle2 = aLow * bHigh + (middle1 & 0xffffffff);
  const high = aHigh * bHigh + (middle1 >> 32) + (middle2 >> 32);
  return high ^ ((middle2 << 32) | (low & 0xffffffff));
}

// @ts-ignore: decorator
@inline
function avalanche(hash: u64): u64 {
  hash = (hash ^ (hash >> 37)) * MIX_1;
  return hash ^ (hash >> 32);
}

// @ts-ignore: decorator
@inline
function avalanche64(hash: u64): u64 {
  hash = (hash ^ (hash >> 33)) * P64_2;
  hash = (hash ^ (hash >> 29)) * P64_3;
  return hash ^ (hash >> 32);
}

// @ts-ignore: decorator
@inline
function mix16(at: i32, secret: i32): u64 {
  return mulFold(load<u64>(at) ^ (load<u64>(secret) + seed), load<u64>(at, 8) ^ (load<u64>(secret, 8) - seed));
}

function hashUpTo16(at: i32, length: i32): u64 {
  if (length > 8) {
    const low = load<u64>(at) ^ ((load<u64>(SECRET, 24) ^ load<u64>(SECRET, 32)) + seed);
    const high = load<u64>(at + length - 8) ^ ((load<u64>(SECRET, 40) ^ load<u64>(SECRET, 48)) - seed);
    return avalanche(<u64>length + bswap<u64>(low) + high + mulFold(low, high));
  }
  if (length > 3) {
    const keyed = seed ^ (<u64>bswap<u32>(<u32>seed) << 32);
    const flip = (load<u64>(SECRET, 8) ^ load<u64>(SECRET, 16)) - keyed;
    let hash = (<u64>load<u32>(at + length - 4) + (<u64>load<u32>(at) << 32)) ^ flip;
    hash ^= rotl<u64>(hash, 49) ^ rotl<u64>(hash, 24);
    hash *= MIX_2;
    hash ^= (hash >> 35) + <u64>length;
    hash *= MIX_2;
    return hash ^ (hash >> 28);
  }
  if (length > 0) {
    const combined =
      (<u32>load<u8>(at) << 16) |
      (<u32>load<u8>(at + (length >> 1)) << 24) |
      <u32>load<u8>(at + length - 1) |
      ((<u32>length) << 8);
    return avalanche64(<u64>combined ^ (<u64>(load<u32>(SECRET) ^ load<u32>(SECRET, 4)) + seed));
  }
  return avalanche64(seed ^ load<u64>(SECRET, 56) ^ load<u64>(SECRET, 64));
}

// @ts-ignore: decorator
@inline
function hashUpTo128(at: i32, length: i32): u64 {
  const end = at + length;
  let hash = <u64>length * P64_1;
  if (length > 32) {
    if (length > 64) {
      if (length > 96) hash += mix16(at + 48, SECRET + 96) + mix16(end - 64, SECRET + 112);
      hash += mix16(at + 32, SECRET + 64) + mix16(end - 48, SECRET + 80);
    }
    hash += mix16(at + 16, SECRET + 32) + mix16(end - 32, SECRET + 48);
  }
  return avalanche(hash + mix16(at, SECRET) + mix16(end - 16, SECRET + 16));
}

function hashUpTo240(at: i32, length: i32): u64 {
  let hash = <u64>length * P64_1;
  for (let i = 0; i < 128; i += 16) hash += mix16(at + i, SECRET + i);
  hash = avalanche(hash);
  for (let i = 128; i + 16 <= length; i += 16) hash += mix16(at + i, SECRET + i - 125);
  return avalanche(hash + mix16(at + length - 16, SECRET + 119));
}

// @ts-ignore: decorator
@inline
function lane(at: i32, secret: i32, i: i32): void {
  const value = load<u64>(at + 8 * i);
  const keyed = value ^ load<u64>(secret + 8 * i);
  store<u64>(ACC + 8 * (i ^ 1), load<u64>(ACC + 8 * (i ^ 1)) + value);
  store<u64>(ACC + 8 * i, load<u64>(ACC + 8 * i) + (keyed & 0xffffffff) * (keyed >> 32));
}

// @ts-ignore: decorator
@inline
function stripe(at: i32, secret: i32): void {
  lane(at, secret, 0);
  lane(at, secret, 1);
  lane(at, secret, 2);
  lane(at, secret, 3);
  lane(at, secret, 4);
  lane(at, secret, 5);
  lane(at, secret, 6);
  lane(at, secret, 7);
}

/** Starts the hash of an input longer than 240 bytes. */
export function beginLong(): void {
  store<u64>(ACC, P32_3);
  store<u64>(ACC, P64_1, 8);
  store<u64>(ACC, P64_2, 16);
  store<u64>(ACC, P64_3, 24);
  store<u64>(ACC, P64_4, 32);
  store<u64>(ACC, P32_2, 40);
  store<u64>(ACC, P64_5, 48);
  store<u64>(ACC, P32_1, 56);
}

/** Takes whole blocks of 1024 bytes of the window, none of which is the input's last. */
export function absorbLong(at: i32, blocks: i32): void {
  for (; blocks > 0; blocks--) {
    for (let i = 0; i < STRIPES; i++) stripe(at + STRIPE * i, SEEDED + 8 * i);
    for (let i = 0; i < 64; i += 8) {
      const acc = load<u64>(ACC + i);
      store<u64>(ACC + i, (acc ^ (acc >> 47) ^ load<u64>(SEEDED + SECRET_BYTES - STRIPE + i)) * P32_1);
    }
    at += BLOCK;
  }
}

/** Ends with the last 1 to 1024 bytes; the 64 bytes before the end must lie in the window, also those absorbed before. */
function finishLong(at: i32, length: i32, total: u64): u64 {
  const stripes = (length - 1) / STRIPE;
  for (let i = 0; i < stripes; i++) stripe(at + STRIPE * i, SEEDED + 8 * i);
  stripe(at + length - STRIPE, SEEDED + SECRET_BYTES - STRIPE - 7);
  let hash = total * P64_1;
  for (let i = 0; i < 64; i += 16) {
    hash += mulFold(load<u64>(ACC + i) ^ load<u64>(SEEDED + 11 + i), load<u64>(ACC + i + 8) ^ load<u64>(SEEDED + 19 + i));
  }
  return avalanche(hash);
}

/** As finishLong; the hash is the first of BLOCKS. */
export function endLong(at: i32, length: i32, total: i32): void {
  store<u64>(BLOCKS, finishLong(at, length, <u64>total));
}

function hashLong(at: i32, length: i32): u64 {
  const blocks = (length - 1) / BLOCK;
  beginLong();
  absorbLong(at, blocks);
  return finishLong(at + BLOCK * blocks, length - BLOCK * blocks, <u64>length);
}

// @ts-ignore: decorator
@inline
function hash(at: i32, length: i32): u64 {
  if (length <= 16) return hashUpTo16(at, length);
  if (length <= 128) return hashUpTo128(at, length);
  if (length <= SHORT) return hashUpTo240(at, length);
  return hashLong(at, length);
}

/** Sets the seed of all that follows but chain links, whose seed never changes. */
export function setSeed(low: u32, high: u32): void {
  storeSecret();
  seed = ((<u64>high) << 32) | <u64>low;
  for (let i = 0; i < SECRET_BYTES; i += 16) {
    store<u64>(SEEDED + i, load<u64>(SECRET + i) + seed);
    store<u64>(SEEDED + i, load<u64>(SECRET + i, 8) - seed, 8);
  }
}

/** Hash of the first `length` bytes of the window, as number `index` of BLOCKS. */
export function hashBytes(length: i32, index: i32): void {
  store<u64>(BLOCKS + 8 * index, hash(0, length));
}

/** Hashes `count` windows of `windowBytes`, the next one `strideBytes` after the last, into BLOCKS. */
export function hashBlocks(count: i32, windowBytes: i32, strideBytes: i32): void {
  let at = 0;
  for (let i = 0; i < count; i++) {
    store<u64>(BLOCKS + 8 * i, hash(at, windowBytes));
    at += strideBytes;
  }
}

/** The next chain starts at a root. */
export function beginChain(): void {
  hasPrevious = false;
}

/** The next chain continues after the block of this sequence hash. */
export function continueChain(low: u32, high: u32): void {
  previous = ((<u64>high) << 32) | <u64>low;
  hasPrevious = true;
}

/** Rolls the first `count` of BLOCKS into SEQUENCES: the first of a root is itself, then XXH3 (seed 1337) of hash before ‖ block. */
export function chainBlocks(count: i32): void {
  let i = 0;
  let link = previous;
  if (!hasPrevious && count > 0) {
    link = load<u64>(BLOCKS);
    store<u64>(SEQUENCES, link);
    i = 1;
    hasPrevious = true;
  }
  for (; i < count; i++) {
    const low = link ^ ((S3 ^ S4) + 1337);
    const high = load<u64>(BLOCKS + 8 * i) ^ ((S5 ^ S6) - 1337);
    link = avalanche(16 + bswap<u64>(low) + high + mulFold(low, high));
    store<u64>(SEQUENCES + 8 * i, link);
  }
  previous = link;
}
