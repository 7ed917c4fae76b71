/**
 * What running blocks are counted by where a provider keys it (Dynamo's keyed-xxh3-v1): seeds of blocks and chain drawn from a secret, the partition
 * and the request's own scope, so that identities tell nothing to who has not the key. The index goes on with public hashes.
 */
import { readFileSync } from "node:fs";
import { blake3 } from "@noble/hashes/blake3.js";
import { completeBlocks, createTokenHasher, type TokenHasher } from "../../tokens/block-hash.ts";
import type { RouterConfig } from "../config.ts";

export interface TrackingScope {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
}

/** What of a request its blocks are told apart by, besides their tokens. */
export interface TrackedPrompt {
  readonly loraName: string | undefined;
  readonly cacheSalt: string | undefined;
  /** By block, the hashes of the multimodal objects in it. */
  readonly mmHashes: readonly (readonly bigint[] | undefined)[] | undefined;
}

/** One hash a complete block: u64 as u32 pairs, low word first. */
export type TrackPrompt = (tokens: Uint32Array, prompt: TrackedPrompt, isEagle: boolean) => Uint32Array;

export interface TrackingHash {
  of(scope: TrackingScope): TrackPrompt;
}

const keyBytes = 32;
const domain = Buffer.from("dynamo.router.tracking-hash/keyed-xxh3-v1\0");

export type TrackingRead =
  | { readonly kind: "public" }
  | { readonly kind: "keyed"; readonly hash: TrackingHash }
  | { readonly kind: "fault"; readonly message: string };

export function readTrackingHash(config: RouterConfig): TrackingRead {
  const { routerTrackingHash, routerTrackingKeyFile, routerTrackingKeyId } = config;
  if (routerTrackingHash !== "keyed-xxh3-v1") return { kind: "public" };
  if (routerTrackingKeyFile === undefined || routerTrackingKeyId === undefined) {
    return { kind: "fault", message: "keyed-xxh3-v1 requires a key file and a key id" };
  }
  let key: Buffer;
  try {
    key = readFileSync(routerTrackingKeyFile);
  } catch (error) {
    return { kind: "fault", message: `failed to read router tracking key file: ${(error as Error).message}` };
  }
  if (key.length !== keyBytes) {
    const found = `found ${key.length}`;
    return { kind: "fault", message: `router tracking key file must contain exactly ${keyBytes} raw bytes; ${found}` };
  }
  return { kind: "keyed", hash: createKeyedHash(key, routerTrackingKeyId, createTokenHasher()) };
}

export function createKeyedHash(key: Uint8Array, keyId: string, hasher: TokenHasher): TrackingHash {
  return {
    of: (scope) => (tokens, prompt, isEagle) => {
      const { blockSize } = scope;
      const digest = blake3(
        Buffer.concat([
          domain,
          framed(1, Buffer.from(keyId)),
          framed(2, Buffer.from(scope.modelName)),
          framed(3, Buffer.from(scope.routingGroup)),
          framed(4, u32(blockSize)),
          optional(5, prompt.cacheSalt),
          optional(6, prompt.loraName),
          framed(7, Buffer.from([isEagle ? 1 : 0])),
        ]),
        { key, dkLen: 32 },
      );
      const seeds = Buffer.from(digest);
      return chain(
        tokens,
        blockSize,
        isEagle,
        prompt.mmHashes,
        seeds.readBigUInt64LE(0),
        seeds.readBigUInt64LE(8),
        hasher,
      );
    },
  };
}

function chain(
  tokens: Uint32Array,
  blockSize: number,
  isEagle: boolean,
  mmHashes: readonly (readonly bigint[] | undefined)[] | undefined,
  blockSeed: bigint,
  chainSeed: bigint,
  hasher: TokenHasher,
): Uint32Array {
  const count = completeBlocks(tokens.length, blockSize, isEagle);
  const chained = new Uint32Array(2 * count);
  const link = Buffer.alloc(16);
  let last = 0n;
  for (let block = 0; block < count; block++) {
    const from = block * blockSize;
    const objects = [...(mmHashes?.[block] ?? [])].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
    const window = tokens.slice(from, from + blockSize + (isEagle ? 1 : 0));
    const bytes = Buffer.concat([Buffer.from(window.buffer), ...objects.map(u64)]);
    const own = hasher.xxh3(bytes, blockSeed);
    link.writeBigUInt64LE(last, 0);
    link.writeBigUInt64LE(own, 8);
    last = block === 0 ? own : hasher.xxh3(link, chainSeed);
    chained[2 * block] = Number(last & 0xffff_ffffn);
    chained[2 * block + 1] = Number(last >> 32n);
  }
  return chained;
}

function framed(tag: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([tag]), u64(BigInt(bytes.length)), bytes]);
}

function optional(tag: number, text: string | undefined): Buffer {
  if (text === undefined || text === "") return Buffer.from([tag, 0]);
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.from([tag, 1]), u64(BigInt(bytes.length)), bytes]);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}
