/** Request attributes that data producers publish and scheduling plugins read. */
import { AttributeKey } from "../request/inference-request.ts";
import type { Endpoint } from "./endpoint.ts";

/** Exact prompt tokens, one array a prompt. */
export interface PromptTokens {
  readonly ids: readonly Uint32Array[];
  /** False for the estimate (about 4 bytes a token). */
  readonly exact: boolean;
  /** By prompt, the media whose place in it tokens hold; absent where there is none. */
  readonly media?: readonly (readonly MediaSpan[])[];
}

/** An image or the like in a prompt: engines hash its content into the blocks that its tokens touch. */
export interface MediaSpan {
  readonly hash: bigint;
  readonly firstToken: number;
  readonly tokens: number;
}
export const promptTokensKey = new AttributeKey<PromptTokens>("prompt-tokens");

/** How much of the prompt's prefix each endpoint is believed to hold, by longest contiguous match. */
export interface PrefixMatch {
  readonly blockSizeTokens: number;
  /** Blocks of the prompt, the trailing partial one included. */
  readonly totalBlocks: number;
  /** Block hashes of the prompt, low and high u32 interleaved: 2 × totalBlocks. Valid for the life of the request. */
  readonly hashes: Uint32Array;
  matchedBlocks(endpoint: Endpoint): number;
}

/** Under the name of the producer that made it: prefixMatchKey("approx-prefix-cache-producer"). */
const prefixKeys = new Map<string, AttributeKey<PrefixMatch>>();
export function prefixMatchKey(producerName: string): AttributeKey<PrefixMatch> {
  let key = prefixKeys.get(producerName);
  if (key === undefined) {
    key = new AttributeKey<PrefixMatch>(`prefix-match/${producerName}`);
    prefixKeys.set(producerName, key);
  }
  return key;
}

/** Prompt tokens of the request that an endpoint would have to compute. */
export interface UncachedTokens {
  uncachedTokens(endpoint: Endpoint): number;
}
export const uncachedTokensKey = new AttributeKey<UncachedTokens>("uncached-tokens");

/** The client's session, where one is known. */
export const sessionIdKey = new AttributeKey<string>("session-id");
