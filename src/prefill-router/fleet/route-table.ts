/** What the plugin asks of the fleet: the router of the worker set that is to serve a model, or why there is none. */
import type { MediaSpan, PromptTokens } from "../../data/attributes.ts";
import type { RankOverlap } from "../../dynamo/kv-index/index-answer.ts";
import type { InferenceRequest } from "../../request/inference-request.ts";
import type { TokenHashes } from "../../tokens/block-hash.ts";
import type { NoTokens, TokenizedPrompt, TokenizeFailure } from "../../tokens/prompt-tokenizer.ts";
import type { PrefillRouter, SharedHits } from "../contracts.ts";

/** The prompt's tokens, with the media in them where engines hash those by themselves. */
export type RequestTokens = (TokenizedPrompt & { readonly media?: PromptTokens["media"] }) | NoTokens | TokenizeFailure;

/** Calls done exactly once, before it returns or later, unless cancelled. The body is read during the call only. */
export type TokenizeRequest = (request: InferenceRequest, done: (tokens: RequestTokens) => void) => { cancel(): void };

export interface PromptHashes extends TokenHashes {
  /** What running blocks are counted by, where that is not the chain. */
  readonly trackingHashes?: Uint32Array | undefined;
  /** What a cache that the workers share has of the prompt, where they have one. */
  readonly sharedHits?: SharedHits | undefined;
}

/** Calls done exactly once, before it returns or later, unless cancelled; undefined: nothing could be learnt of the prompt. */
export type AskIndex = (
  blockHashes: Uint32Array,
  done: (overlaps: readonly RankOverlap[] | undefined) => void,
) => { cancel(): void };

/** One ready worker set: prefill and decode of one request are always of the same. */
export interface SetRoute {
  /** Of the worker set. */
  readonly key: string;
  readonly namespace: string;
  readonly model: string;
  /** Undefined for the base model. */
  readonly loraName: string | undefined;
  readonly blockSize: number;
  /** Tokens; 0 = no limit known. */
  readonly contextLength: number;
  readonly tokenize: TokenizeRequest;
  readonly router: PrefillRouter;
  /** Where another process keeps the index: to be asked of a prompt before it is planned. Undefined: the router has its own. */
  readonly askIndex?: AskIndex | undefined;
  readonly isPrefillWorker: (workerId: bigint) => boolean;
  /** "ip:port" of a prefill worker that is a server by itself, for the one that asks it; undefined where a frontend finds it by its id. */
  readonly prefillServerOf?: (workerId: bigint) => string | undefined;
  hash(tokens: Uint32Array, cacheSalt: string | undefined, media: readonly MediaSpan[] | undefined): PromptHashes;
}

export type RouteLookup =
  | { readonly kind: "found"; readonly route: SetRoute }
  | { readonly kind: "unknown-model" }
  | { readonly kind: "not-ready"; readonly reason: string };

export interface RouteTable {
  /** Of several ready sets one at random, weighted by its workers. `random` is uniform in [0, 1). */
  find(model: string, random: () => number): RouteLookup;
  /**
   * An answer of this worker was refused or broke off: looks whether its process still listens, and takes it out of the choice until then
   * (`isCertain`) or once it is seen not to.
   */
  suspect(route: SetRoute, workerId: bigint, isCertain: boolean): void;
}
