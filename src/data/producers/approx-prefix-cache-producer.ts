/**
 * The approximate prefix cache: believes that an endpoint holds the prompts it was sent, as many tokens of them as its engine has room for. Learns
 * when a request is assigned, so that the next one with the same prefix is a hit at once, and unlearns when a request fails.
 */
import type { InferenceRequest } from "../../request/inference-request.ts";
import { prefixMatchKey } from "../attributes.ts";
import type { Endpoint, Endpoints } from "../endpoint.ts";
import type { Closable, PluginContext, PluginDefinition } from "../plugin.ts";
import { maxBlockBytes } from "../prefix-index/block-hasher.ts";
import type { Assignment, DataProducer, EndCause, RequestObserver } from "../producer.ts";
import type { Shareable } from "../shared-state.ts";
import { ApproxPrefixMatch } from "./approx-prefix-match.ts";
import { type ApproxPrefixState, acquireApproxPrefixState, releaseApproxPrefixState } from "./approx-prefix-state.ts";
import { bytesPerToken, hashPrompt } from "./prompt-chains.ts";
import { SharedPrefixes } from "./shared-prefixes.ts";
import { tokenProducerType } from "./token-producer.ts";

export const approxPrefixCacheProducerType = "approx-prefix-cache-producer";

/** The hash granularity of the reference: finer blocks cost more than they find. */
const minBlockSizeTokens = 64;
const maxBlockSizeTokens = maxBlockBytes / bytesPerToken;

export interface ApproxPrefixCacheParameters {
  readonly autoTune: boolean;
  readonly blockSizeTokens: number;
  readonly maxPrefixTokensToMatch: number;
  readonly maxPrefixBlocksToMatch: number;
  readonly lruCapacityPerServer: number;
  readonly blockSize?: number;
}

/** Told of each assignment's predicted hit; what prefix_indexer_hit_bytes and _hit_ratio count. */
export interface PrefixHitObserver {
  hit(matchedBytes: number, totalBytes: number): void;
}

export class ApproxPrefixCacheProducer implements DataProducer, RequestObserver, Closable, Shareable {
  readonly after = [tokenProducerType];
  readonly shared: SharedPrefixes;
  /** Set by whoever wants the figures. */
  hitObserver: PrefixHitObserver | undefined;

  readonly #parameters: ApproxPrefixCacheParameters;
  readonly #context: PluginContext;
  readonly #state: ApproxPrefixState;
  readonly #key: ReturnType<typeof prefixMatchKey>;
  #tunedFor: Endpoints | undefined;
  #blockSizeTokens: number;
  #alive = new Int32Array(2);
  #scratch = new Int32Array(2);
  #depths = new Int32Array(64);
  #isClosed = false;

  constructor(parameters: ApproxPrefixCacheParameters, context: PluginContext) {
    this.#parameters = parameters;
    this.#context = context;
    this.#state = acquireApproxPrefixState(context);
    this.#key = prefixMatchKey(context.name);
    this.#blockSizeTokens = hashGranularity(parameters.blockSizeTokens);
    this.shared = new SharedPrefixes({
      name: context.name,
      state: this.#state,
      endpoints: context.endpoints,
      capacityBlocks: (endpoint, blockSizeTokens) => this.#capacityBlocks(endpoint, blockSizeTokens),
      blockSizeTokens: () => this.#tuneBlockSize(),
    });
    if (parameters.blockSize !== undefined) {
      context.log.warn({ plugin: context.name }, "blockSize is deprecated and ignored; blockSizeTokens decides");
    }
  }

  /** Distinct blocks in the index. */
  get indexedBlocks(): number {
    return this.#state.index.blocks;
  }

  /** Memory of the index. */
  get indexSizeBytes(): number {
    return this.#state.index.sizeBytes;
  }

  produce(request: InferenceRequest, candidates: Endpoints): void {
    const blockSizeTokens = this.#tuneBlockSize();
    const prompt = hashPrompt(this.#state.hasher, request, blockSizeTokens, this.#maxBlocks(blockSizeTokens));
    if (prompt === undefined) return;
    const { index, holders } = this.#state;
    this.#fitScratch(index.holderCount);
    let slots = 0;
    let latestGeneration = -1;
    for (let i = 0; i < candidates.length; i++) {
      const endpoint = candidates[i] as Endpoint;
      if (endpoint.slot >= slots) slots = endpoint.slot + 1;
      if (endpoint.generation > latestGeneration) latestGeneration = endpoint.generation;
      const holder = holders.of(endpoint)?.holder;
      if (holder !== undefined) {
        this.#alive[holder >>> 5] = (this.#alive[holder >>> 5] as number) | (1 << (holder & 31));
      }
    }
    index.match(prompt.hashes, prompt.chainEnds, this.#alive, this.#scratch, this.#depths);
    const matched = new Uint32Array(slots);
    for (let i = 0; i < candidates.length; i++) {
      const endpoint = candidates[i] as Endpoint;
      const holder = holders.of(endpoint)?.holder;
      if (holder !== undefined) matched[endpoint.slot] = this.#depths[holder] as number;
    }
    request.setAttribute(this.#key, new ApproxPrefixMatch(blockSizeTokens, prompt, matched, latestGeneration));
  }

  assigned(request: InferenceRequest, assignment: Assignment): void {
    const match = this.#matchOf(request);
    const primary = assignment.destinations[0];
    if (match === undefined || primary === undefined) return;
    if (this.hitObserver !== undefined) {
      const blockBytes = match.blockSizeTokens * bytesPerToken;
      this.hitObserver.hit(match.matchedBlocks(primary) * blockBytes, match.totalBlocks * blockBytes);
    }
    this.#learn(match, primary);
    const prefill = assignment.byProfile.get("prefill")?.[0];
    if (prefill !== undefined && prefill !== primary) this.#learn(match, prefill);
  }

  /** Where a fallback served the request, it holds the blocks and the destination does not. */
  responseHeaders(
    request: InferenceRequest,
    assignment: Assignment,
    response: { readonly status: number; readonly served: string | undefined },
  ): void {
    const { served } = response;
    const primary = assignment.destinations[0];
    if (served === undefined || primary === undefined || served === primary.hostPort) return;
    const match = this.#matchOf(request);
    const fallback = assignment.destinations.find((endpoint) => endpoint.hostPort === served);
    if (match === undefined || fallback === undefined) return;
    this.#unlearn(match, primary);
    this.#learn(match, fallback);
  }

  firstByte(request: InferenceRequest): void {
    const match = this.#matchOf(request);
    if (match !== undefined) match.isPrefilled = true;
  }

  ended(request: InferenceRequest, _assignment: Assignment, cause: EndCause): void {
    const match = this.#matchOf(request);
    if (match === undefined || keepsBlocks(cause, match.isPrefilled)) return;
    for (const { endpoint, blocks, stamp } of match.learnt) {
      this.#state.index.forget(blocks, stamp, match.hashes);
      this.shared.forgot(endpoint, stamp, match.hashes, match.chainEnds);
    }
    match.learnt.length = 0;
  }

  close(): Promise<void> {
    if (!this.#isClosed) {
      this.#isClosed = true;
      releaseApproxPrefixState(this.#context);
    }
    return Promise.resolve();
  }

  #matchOf(request: InferenceRequest): ApproxPrefixMatch | undefined {
    const match = request.attribute(this.#key);
    return match instanceof ApproxPrefixMatch ? match : undefined;
  }

  #learn(match: ApproxPrefixMatch, endpoint: Endpoint): void {
    const blocks = this.#state.holders.claim(endpoint, this.#capacityBlocks(endpoint, match.blockSizeTokens));
    if (blocks === undefined) return;
    const stamp = this.#state.index.insert(blocks, match.hashes, match.chainEnds);
    match.learnt.push({ endpoint, blocks, stamp });
    this.shared.learnt(endpoint, match.blockSizeTokens, stamp, match.hashes, match.chainEnds);
  }

  #unlearn(match: ApproxPrefixMatch, endpoint: Endpoint): void {
    const at = match.learnt.findIndex((learnt) => learnt.endpoint === endpoint);
    const [learnt] = at < 0 ? [] : match.learnt.splice(at, 1);
    if (learnt === undefined) return;
    this.#state.index.forget(learnt.blocks, learnt.stamp, match.hashes);
    this.shared.forgot(endpoint, learnt.stamp, match.hashes, match.chainEnds);
  }

  /** The engine's own room in tokens, counted in blocks of the index. */
  #capacityBlocks(endpoint: Endpoint, blockSizeTokens: number): number {
    const { autoTune, lruCapacityPerServer, blockSizeTokens: assumedBlock } = this.#parameters;
    const { totalBlocks, blockSizeTokens: engineBlock } = endpoint.metrics;
    const isKnown = autoTune && totalBlocks > 0;
    const tokens = isKnown
      ? totalBlocks * (engineBlock > 0 ? engineBlock : assumedBlock)
      : lruCapacityPerServer * assumedBlock;
    return Math.max(1, Math.floor(tokens / blockSizeTokens));
  }

  #maxBlocks(blockSizeTokens: number): number {
    const { maxPrefixTokensToMatch, maxPrefixBlocksToMatch } = this.#parameters;
    if (maxPrefixTokensToMatch > 0) return Math.max(1, Math.floor(maxPrefixTokensToMatch / blockSizeTokens));
    return maxPrefixBlocksToMatch > 0 ? maxPrefixBlocksToMatch : Number.MAX_SAFE_INTEGER;
  }

  /** The block size that most engines of the pool report; a size in use stays while at least half of them report it, for a change forgets all. */
  #tuneBlockSize(): number {
    if (!this.#parameters.autoTune) return this.#blockSizeTokens;
    const endpoints = this.#context.endpoints.snapshot();
    if (endpoints !== this.#tunedFor) {
      this.#tunedFor = endpoints;
      this.#blockSizeTokens = majorityBlockSize(endpoints, this.#blockSizeTokens);
    }
    return this.#blockSizeTokens;
  }

  #fitScratch(holders: number): void {
    if (holders > this.#depths.length) {
      const words = Math.ceil(holders / 32);
      this.#alive = new Int32Array(words);
      this.#scratch = new Int32Array(words);
      this.#depths = new Int32Array(32 * words);
      return;
    }
    this.#alive.fill(0);
    this.#depths.fill(0);
  }
}

/** Boyer–Moore: one pass, nothing allocated. */
function majorityBlockSize(endpoints: Endpoints, current: number): number {
  let candidate = 0;
  let lead = 0;
  let known = 0;
  let ofCurrent = 0;
  for (let i = 0; i < endpoints.length; i++) {
    const reported = (endpoints[i] as Endpoint).metrics.blockSizeTokens;
    if (reported <= 0) continue;
    const size = hashGranularity(reported);
    known++;
    if (size === current) ofCurrent++;
    if (lead === 0) candidate = size;
    lead += size === candidate ? 1 : -1;
  }
  return known === 0 || 2 * ofCurrent >= known ? current : candidate;
}

function hashGranularity(blockSizeTokens: number): number {
  return Math.min(maxBlockSizeTokens, Math.max(minBlockSizeTokens, Math.floor(blockSizeTokens)));
}

function keepsBlocks(cause: EndCause, isPrefilled: boolean): boolean {
  switch (cause.kind) {
    case "completed":
    case "shutdown":
      return true;
    case "failed":
    case "error":
      return false;
    case "client-gone":
    case "evicted":
    case "timeout":
      return isPrefilled;
    default:
      return cause satisfies never;
  }
}

export const approxPrefixCacheProducerDefinition: PluginDefinition<
  ApproxPrefixCacheParameters,
  ApproxPrefixCacheProducer
> = {
  type: approxPrefixCacheProducerType,
  kinds: ["data-producer", "pre-request", "response"],
  summary: "Predicts how much of a prompt each endpoint has cached from what it was sent before.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      autoTune: {
        type: "boolean",
        default: true,
        description: "Take block size and cache capacity from the engines' own metrics where they report them.",
      },
      blockSizeTokens: {
        type: "integer",
        minimum: 1,
        maximum: maxBlockSizeTokens,
        default: 16,
        description: "Tokens per block while the engines' is unknown; hashed at no less than 64.",
      },
      maxPrefixTokensToMatch: {
        type: "integer",
        minimum: 0,
        default: 131_072,
        description: "Leading prompt tokens of a request that are matched; 0 leaves it to maxPrefixBlocksToMatch.",
      },
      maxPrefixBlocksToMatch: {
        type: "integer",
        minimum: 0,
        default: 2_048,
        description: "Leading blocks that are matched when maxPrefixTokensToMatch is 0; 0 is unlimited.",
      },
      lruCapacityPerServer: {
        type: "integer",
        minimum: 1,
        default: 31_250,
        description:
          "Engine blocks of blockSizeTokens tokens that an endpoint is believed to hold while its own capacity is unknown.",
      },
      blockSize: { type: "integer", deprecated: true, description: "Deprecated and ignored: use blockSizeTokens." },
    },
  },
  create: (parameters, context) => new ApproxPrefixCacheProducer(parameters, context),
};
