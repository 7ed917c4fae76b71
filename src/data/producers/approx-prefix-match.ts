/** What the approximate prefix cache knows of one request: the prompt's blocks, who holds how many, and where they were learnt. */
import type { PrefixMatch } from "../attributes.ts";
import type { Endpoint } from "../endpoint.ts";
import type { HolderBlocks } from "../prefix-index/holder-blocks.ts";
import type { HashedPrompt } from "./prompt-chains.ts";

/** One endpoint told to hold the request's blocks, revocable by its stamp. */
export interface Learnt {
  readonly endpoint: Endpoint;
  readonly blocks: HolderBlocks;
  readonly stamp: number;
}

export class ApproxPrefixMatch implements PrefixMatch {
  readonly blockSizeTokens: number;
  readonly totalBlocks: number;
  readonly hashes: Uint32Array;
  readonly chainEnds: readonly number[];
  readonly learnt: Learnt[] = [];
  /** The prompt was computed somewhere: from here on only a failure takes the blocks back. */
  isPrefilled = false;
  /** Matched blocks by endpoint slot. */
  readonly #matched: Uint32Array;
  /** Generations rise over the store's life, so a later endpoint in a slot is one that was not matched. */
  readonly #latestGeneration: number;

  constructor(blockSizeTokens: number, prompt: HashedPrompt, matched: Uint32Array, latestGeneration: number) {
    this.blockSizeTokens = blockSizeTokens;
    this.totalBlocks = prompt.hashes.length / 2;
    this.hashes = prompt.hashes;
    this.chainEnds = prompt.chainEnds;
    this.#matched = matched;
    this.#latestGeneration = latestGeneration;
  }

  matchedBlocks(endpoint: Endpoint): number {
    return endpoint.generation > this.#latestGeneration ? 0 : (this.#matched[endpoint.slot] ?? 0);
  }
}
