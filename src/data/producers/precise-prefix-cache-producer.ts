/**
 * The precise prefix cache: what each endpoint's engine says it holds, matched with the exact tokens of the prompt. A request whose exact tokens are
 * not known goes on without a match.
 */
import type { InferenceRequest } from "../../request/inference-request.ts";
import { hashTokens } from "../../tokens/block-hash.ts";
import { type PrefixMatch, type PromptTokens, prefixMatchKey, promptTokensKey } from "../attributes.ts";
import type { Endpoint, Endpoints } from "../endpoint.ts";
import type { EventCounters } from "../kv-events/event-counters.ts";
import type { Closable, PluginContext, PluginDefinition } from "../plugin.ts";
import type { KvMatches } from "../prefix-index/kv-index.ts";
import type { Assignment, DataProducer, EndCause, RequestObserver } from "../producer.ts";
import { mediaByBlock } from "./precise-prefix-cache-media.ts";
import {
  type PrecisePrefixCacheParameters,
  type PreciseSettings,
  preciseFaults,
  precisePrefixCacheSchema,
  preciseSettings,
} from "./precise-prefix-cache-parameters.ts";
import { type Speculation, Speculations } from "./precise-prefix-cache-speculation.ts";
import { acquirePreciseState, type PreciseStateLease } from "./precise-prefix-cache-state.ts";
import { tokenProducerType } from "./token-producer.ts";

export const precisePrefixCacheProducerType = "precise-prefix-cache-producer";

/** Told of each request that was matched: what the precise_prefix_indexer metrics count. */
export interface PreciseMatchObserver {
  /** Shares of the prompt's blocks over the candidates: the best, the mean, the standard deviation. */
  matched(best: number, mean: number, deviation: number): void;
}

export class PrecisePrefixMatch implements PrefixMatch {
  readonly blockSizeTokens: number;
  readonly totalBlocks: number;
  readonly hashes: Uint32Array;
  readonly chainEnds: readonly number[];
  speculations: Speculation[] | undefined;
  isPrefilled = false;
  /** By endpoint slot: weighted by tier, and counted. */
  readonly #matched: Float64Array;
  readonly #cached: Uint32Array;
  /** Generations rise over the store's life, so a later endpoint in a slot is one that was not matched. */
  readonly #latestGeneration: number;

  constructor(
    blockSizeTokens: number,
    hashes: Uint32Array,
    chainEnds: readonly number[],
    matched: Float64Array,
    cached: Uint32Array,
    latestGeneration: number,
  ) {
    this.blockSizeTokens = blockSizeTokens;
    this.totalBlocks = hashes.length / 2;
    this.hashes = hashes;
    this.chainEnds = chainEnds;
    this.#matched = matched;
    this.#cached = cached;
    this.#latestGeneration = latestGeneration;
  }

  matchedBlocks(endpoint: Endpoint): number {
    return endpoint.generation > this.#latestGeneration ? 0 : (this.#matched[endpoint.slot] ?? 0);
  }

  /** Blocks the engine said it holds, each counted once wherever it lies. */
  cachedBlocks(endpoint: Endpoint): number {
    return endpoint.generation > this.#latestGeneration ? 0 : (this.#cached[endpoint.slot] ?? 0);
  }
}

export class PrecisePrefixCacheProducer implements DataProducer, RequestObserver, Closable {
  readonly after = [tokenProducerType];
  /** Set by whoever wants the figures. */
  matchObserver: PreciseMatchObserver | undefined;
  /** Requests that were matched, and those that came without exact tokens. */
  lookups = 0;
  requestsWithoutTokens = 0;

  readonly #context: PluginContext;
  readonly #settings: PreciseSettings;
  readonly #lease: PreciseStateLease;
  readonly #speculations: Speculations | undefined;
  readonly #key: ReturnType<typeof prefixMatchKey>;
  #matches: KvMatches;
  #closing: Promise<void> | undefined;

  constructor(parameters: PrecisePrefixCacheParameters, context: PluginContext) {
    this.#context = context;
    this.#settings = preciseSettings(parameters);
    this.#lease = acquirePreciseState(context, this.#settings);
    const { speculativeTtlMs } = this.#settings;
    if (speculativeTtlMs !== undefined) {
      this.#speculations = new Speculations(context.endpoints, speculativeTtlMs, () => context.random());
    }
    this.#key = prefixMatchKey(context.name);
    this.#matches = this.#lease.state.index.createMatches();
  }

  /** Distinct blocks in the index. */
  get indexedBlocks(): number {
    return this.#lease.state.index.blocks;
  }

  /** Memory of the index and of what is kept beside it. */
  get indexSizeBytes(): number {
    return this.#lease.state.index.sizeBytes + this.#lease.state.feeds.sizeBytes;
  }

  /** What became of the engines' events, over the life of the index. */
  get eventCounters(): Readonly<EventCounters> {
    return this.#lease.state.feeds.counters;
  }

  /** Where engines may publish to, as bound; undefined where nothing is bound (yet). */
  get boundEndpoint(): string | undefined {
    return this.#lease.state.feeds.boundEndpoint;
  }

  /** Resolves when every socket wanted now is open. */
  opened(): Promise<void> {
    return this.#lease.state.feeds.opened();
  }

  /** For /debug. */
  dumpState(): unknown {
    const { index, feeds } = this.#lease.state;
    const engines = this.#context.endpoints
      .snapshot()
      .map((endpoint) => [
        endpoint.name,
        { blocks: feeds.blocksOf(endpoint), ranks: feeds.holdersOf(endpoint).length },
      ]);
    return {
      indexedBlocks: index.blocks,
      heldBlocks: index.heldBlocks,
      indexSizeBytes: this.indexSizeBytes,
      lookups: this.lookups,
      requestsWithoutTokens: this.requestsWithoutTokens,
      speculativeBlocks: this.#speculations?.blocks ?? 0,
      events: { ...feeds.counters },
      boundEndpoint: feeds.boundEndpoint,
      engines: Object.fromEntries(engines) as unknown,
    };
  }

  produce(request: InferenceRequest, candidates: Endpoints): void {
    const tokens = request.attribute(promptTokensKey);
    if (tokens?.exact !== true) {
      this.#withoutTokens();
      return;
    }
    const { hashes, chainEnds } = this.#hash(request, tokens);
    if (hashes.length === 0) return;
    this.lookups += 1;
    let slots = 0;
    let latestGeneration = -1;
    for (let i = 0; i < candidates.length; i++) {
      const endpoint = candidates[i] as Endpoint;
      if (endpoint.slot >= slots) slots = endpoint.slot + 1;
      if (endpoint.generation > latestGeneration) latestGeneration = endpoint.generation;
    }
    const matched = new Float64Array(slots);
    const cached = new Uint32Array(slots);
    this.#match(hashes, chainEnds, candidates, matched, cached);
    this.#speculations?.match(hashes, chainEnds, candidates, matched, this.#context.now());
    const { blockSizeTokens } = this.#settings;
    const match = new PrecisePrefixMatch(blockSizeTokens, hashes, chainEnds, matched, cached, latestGeneration);
    request.setAttribute(this.#key, match);
    if (this.matchObserver !== undefined) observe(this.matchObserver, match, candidates);
  }

  assigned(request: InferenceRequest, assignment: Assignment): void {
    const speculations = this.#speculations;
    const match = request.attribute(this.#key);
    const primary = assignment.destinations[0];
    if (speculations === undefined || primary === undefined || !(match instanceof PrecisePrefixMatch)) return;
    const nowMs = this.#context.now();
    const prefill = assignment.byProfile.get("prefill")?.[0];
    match.speculations = [];
    for (const endpoint of prefill === undefined || prefill === primary ? [primary] : [primary, prefill]) {
      const speculation = speculations.add(endpoint, match.hashes, match.chainEnds, nowMs);
      if (speculation !== undefined) match.speculations.push(speculation);
    }
  }

  firstByte(request: InferenceRequest): void {
    const match = request.attribute(this.#key);
    if (match instanceof PrecisePrefixMatch) match.isPrefilled = true;
  }

  /** What failed before its prompt was computed is on no endpoint. */
  ended(request: InferenceRequest, _assignment: Assignment, cause: EndCause): void {
    const match = request.attribute(this.#key);
    if (!(match instanceof PrecisePrefixMatch) || match.speculations === undefined) return;
    const { speculations } = match;
    match.speculations = undefined;
    if (match.isPrefilled || cause.kind === "completed" || cause.kind === "shutdown") return;
    for (const speculation of speculations) this.#speculations?.forget(speculation);
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#speculations?.close();
      await this.#lease.release();
    })();
    return this.#closing;
  }

  /** An adapter's name is hashed into its blocks; which models are adapters is known from what engines store. */
  #hash(request: InferenceRequest, tokens: PromptTokens): { hashes: Uint32Array; chainEnds: readonly number[] } {
    const blockSize = this.#settings.blockSizeTokens;
    const { targetModel } = request;
    const loraName = this.#lease.state.feeds.adapters.has(targetModel) ? targetModel : undefined;
    const { cacheSalt } = request.parsed;
    const chains = tokens.ids.map((ids, prompt) => {
      const mmHashes = mediaByBlock(tokens.media?.[prompt], ids.length, blockSize);
      return hashTokens(ids, { blockSize, loraName, cacheSalt, mmHashes }).sequenceHashes;
    });
    const [only, ...others] = chains;
    if (only !== undefined && others.length === 0) return { hashes: only, chainEnds: [only.length / 2] };
    const chainEnds: number[] = [];
    let end = 0;
    for (const chain of chains) {
      end += chain.length / 2;
      chainEnds.push(end);
    }
    const hashes = new Uint32Array(2 * end);
    for (const [i, chain] of chains.entries()) hashes.set(chain, 2 * ((chainEnds[i] as number) - chain.length / 2));
    return { hashes, chainEnds };
  }

  /** An endpoint with several ranks counts by its best one. */
  #match(
    hashes: Uint32Array,
    chainEnds: readonly number[],
    candidates: Endpoints,
    matched: Float64Array,
    cached: Uint32Array,
  ): void {
    const { index, feeds } = this.#lease.state;
    const { hostWeight, diskWeight } = this.#settings;
    if (this.#matches.device.length < index.holderCount) this.#matches = index.createMatches();
    const { device, host, disk } = this.#matches;
    let start = 0;
    for (let chain = 0; chain < chainEnds.length; chain++) {
      const end = chainEnds[chain] as number;
      if (end === start) continue;
      index.match(hashes.subarray(2 * start, 2 * end), this.#matches);
      for (let i = 0; i < candidates.length; i++) {
        const endpoint = candidates[i] as Endpoint;
        const holders = feeds.holdersOf(endpoint);
        let best = 0;
        let bestBlocks = 0;
        for (let h = 0; h < holders.length; h++) {
          const holder = holders[h] as number;
          const onDevice = device[holder] as number;
          const onHost = host[holder] as number;
          const onDisk = disk[holder] as number;
          const weight = onDevice + hostWeight * onHost + diskWeight * onDisk;
          if (weight <= best) continue;
          best = weight;
          bestBlocks = onDevice + onHost + onDisk;
        }
        matched[endpoint.slot] = (matched[endpoint.slot] as number) + best;
        cached[endpoint.slot] = (cached[endpoint.slot] as number) + bestBlocks;
      }
      start = end;
    }
  }

  #withoutTokens(): void {
    if (this.requestsWithoutTokens === 0) {
      this.#context.log.warn(
        { plugin: this.#context.name },
        "a request without exact tokens cannot be matched: give the token-producer a tokenizer",
      );
    }
    this.requestsWithoutTokens += 1;
  }
}

function observe(observer: PreciseMatchObserver, match: PrecisePrefixMatch, candidates: Endpoints): void {
  let best = 0;
  let sum = 0;
  let squares = 0;
  for (let i = 0; i < candidates.length; i++) {
    const share = match.matchedBlocks(candidates[i] as Endpoint) / match.totalBlocks;
    if (share > best) best = share;
    sum += share;
    squares += share * share;
  }
  const mean = candidates.length === 0 ? 0 : sum / candidates.length;
  const variance = candidates.length === 0 ? 0 : squares / candidates.length - mean * mean;
  observer.matched(best, mean, Math.sqrt(Math.max(0, variance)));
}

export const precisePrefixCacheProducerDefinition: PluginDefinition<
  PrecisePrefixCacheParameters,
  PrecisePrefixCacheProducer
> = {
  type: precisePrefixCacheProducerType,
  kinds: ["data-producer", "pre-request", "response"],
  summary: "Knows how much of a prompt each endpoint has cached from the engines' own KV events.",
  parameters: precisePrefixCacheSchema,
  needs: [tokenProducerType],
  validate: preciseFaults,
  create: (parameters, context) => new PrecisePrefixCacheProducer(parameters, context),
};
