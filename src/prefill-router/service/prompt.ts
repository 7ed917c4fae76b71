/**
 * The prompt of a request as the routes take it: token ids, or the hashes that somebody else made of them. What running blocks are counted by may
 * differ from the chain that the index is asked with: a caller's own hashes, or keyed ones.
 */
import { completeBlocks, type TokenHasher } from "../../tokens/block-hash.ts";
import type { TrackPrompt } from "../stage/tracking-hash.ts";
import {
  BadRequest,
  type Members,
  membersOf,
  readBoolean,
  readCount,
  readHashList,
  readString,
  readU32List,
  unfit,
} from "./body.ts";

export interface Prompt {
  readonly tokens: Uint32Array | undefined;
  /** By block, the hashes of the multimodal objects in it. */
  readonly mmHashes: readonly (readonly bigint[] | undefined)[] | undefined;
  readonly blockHashes: Uint32Array | undefined;
  readonly sequenceHashes: Uint32Array | undefined;
  readonly isl: number | undefined;
  readonly loraName: string | undefined;
  readonly cacheSalt: string | undefined;
  readonly isEagle: boolean | undefined;
}

export interface HashedPrompt {
  readonly isl: number;
  readonly blockHashes: Uint32Array;
  /** The rolling hashes of the block hashes: what the index knows blocks by. */
  readonly chain: Uint32Array;
  /** What running blocks are counted by. */
  readonly tracking: Uint32Array;
}

export interface PromptScope {
  readonly blockSize: number;
  readonly isEagle: boolean;
  readonly hasher: TokenHasher;
  /** Undefined: the public chain counts running blocks too. */
  readonly track: TrackPrompt | undefined;
}

export function readPrompt(members: Members): Prompt {
  // Members of the prompt are named by what they hold alone: Dynamo reads them last and knows their names no more.
  const routed = readMmRouting(members["mm_routing_info"]);
  const tokens = readU32List(members["token_ids"], "");
  const mmHashes = readMmBlocks(members["block_mm_infos"], "");
  return {
    tokens: routed?.tokens ?? tokens,
    mmHashes: routed === undefined ? mmHashes : routed.mmHashes,
    blockHashes: readHashList(members["block_hashes"], ""),
    sequenceHashes: readHashList(members["sequence_hashes"], ""),
    isl: readCount(members["isl_tokens"], "", "usize"),
    loraName: readString(members["lora_name"], ""),
    cacheSalt: readString(members["cache_salt"], ""),
    isEagle: readBoolean(members["is_eagle"], ""),
  };
}

/** For a selection: both kinds of hashes. */
export function hashPrompt(prompt: Prompt, scope: PromptScope): HashedPrompt {
  if (prompt.tokens !== undefined) return hashTokens(prompt.tokens, prompt, scope);
  const { blockHashes, sequenceHashes, isl } = prompt;
  if (blockHashes === undefined) throw missing("block_hashes");
  if (sequenceHashes === undefined) throw missing("sequence_hashes");
  if (isl === undefined) throw missing("isl_tokens");
  if (isl === 0) throw new BadRequest(400, "isl_tokens must be greater than 0");
  if (blockHashes.length !== sequenceHashes.length) {
    const lengths = `${blockHashes.length / 2} must match sequence_hashes length ${sequenceHashes.length / 2}`;
    throw new BadRequest(400, `block_hashes length ${lengths}`);
  }
  return { isl, blockHashes, chain: chainOf(blockHashes, scope.hasher), tracking: sequenceHashes };
}

/** For a booking on a worker the caller names: without block hashes nothing of it can be noted in an index. */
export function hashBooking(prompt: Prompt, scope: PromptScope): HashedPrompt {
  if (prompt.tokens !== undefined) return hashTokens(prompt.tokens, prompt, scope);
  const { blockHashes = new Uint32Array(0), sequenceHashes, isl } = prompt;
  if (sequenceHashes === undefined) throw missing("sequence_hashes");
  if (isl === undefined) throw missing("isl_tokens");
  return { isl, blockHashes, chain: chainOf(blockHashes, scope.hasher), tracking: sequenceHashes };
}

function hashTokens(tokens: Uint32Array, prompt: Prompt, scope: PromptScope): HashedPrompt {
  const isEagle = prompt.isEagle ?? scope.isEagle;
  const { loraName, cacheSalt, mmHashes } = prompt;
  const { blockSize, hasher, track } = scope;
  const { blockHashes, sequenceHashes } = hasher.hash(tokens, { blockSize, loraName, cacheSalt, isEagle, mmHashes });
  const tracking = track === undefined ? sequenceHashes : track(tokens, prompt, isEagle);
  return { isl: tokens.length, blockHashes, chain: sequenceHashes, tracking };
}

function chainOf(blockHashes: Uint32Array, hasher: TokenHasher): Uint32Array {
  const chain = new Uint32Array(blockHashes.length);
  hasher.chain(0, 0, false, blockHashes, 0, blockHashes.length / 2, chain, 0);
  return chain;
}

export function blocksOf(prompt: Prompt, scope: PromptScope): number {
  if (prompt.tokens === undefined) return (prompt.blockHashes?.length ?? 0) / 2;
  return completeBlocks(prompt.tokens.length, scope.blockSize, prompt.isEagle ?? scope.isEagle);
}

function missing(name: string): BadRequest {
  return new BadRequest(400, `${name} is required without token_ids`);
}

function readMmRouting(value: unknown): (Pick<Prompt, "mmHashes"> & { tokens: Uint32Array }) | undefined {
  if (value === undefined || value === null) return undefined;
  const members = membersOf(value, "", "struct MmRoutingInfoRequest");
  const tokens = readU32List(members["routing_token_ids"], "");
  if (tokens === undefined) throw unfit("", "missing field `routing_token_ids`");
  // Without routing tokens the plain ones count.
  if (tokens.length === 0) return undefined;
  return { tokens, mmHashes: readMmBlocks(members["block_mm_infos"], "") };
}

function readMmBlocks(value: unknown, path: string): Prompt["mmHashes"] {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) throw unfit(path, "invalid type: expected a sequence");
  return value.map((block: unknown) => {
    if (block === null) return undefined;
    const objects = membersOf(block, path, "struct BlockExtraInfo")["mm_objects"];
    if (!Array.isArray(objects)) throw unfit(path, "missing field `mm_objects`");
    return objects.map((object: unknown) => {
      const hash = membersOf(object, path, "struct BlockMmObjectInfo")["mm_hash"];
      if (typeof hash === "number" && Number.isSafeInteger(hash) && hash >= 0) return BigInt(hash);
      if (typeof hash === "bigint" && hash >= 0n && hash <= 0xffff_ffff_ffff_ffffn) return hash;
      throw unfit(path, "invalid mm_hash, expected u64");
    });
  });
}
