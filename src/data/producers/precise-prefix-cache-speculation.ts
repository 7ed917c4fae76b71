/**
 * Prompts on their way: an endpoint that was picked is believed to hold them for a while, so that the next request with the same prefix follows before
 * the engine has said anything. Each belief ends by itself, or with the request's failure.
 */
import type { Endpoint, Endpoints } from "../endpoint.ts";
import { EndpointHolders } from "../prefix-index/endpoint-holders.ts";
import type { HolderBlocks } from "../prefix-index/holder-blocks.ts";
import { PrefixIndex } from "../prefix-index/prefix-index.ts";
import type { EndpointStoreView } from "../store-view.ts";

/** One endpoint's share in one belief. */
export interface Speculation {
  readonly blocks: HolderBlocks;
  readonly stamp: number;
  readonly hashes: Uint32Array;
}

interface Dated {
  readonly speculation: Speculation;
  readonly endsAtMs: number;
}

/** Blocks one endpoint is believed to be given within the time; beyond it the oldest give way. */
const blocksPerEndpoint = 65_536;

export class Speculations {
  readonly #index: PrefixIndex;
  readonly #holders: EndpointHolders;
  readonly #ttlMs: number;
  /** In the order they end: all last equally long. */
  #dated: Dated[] = [];
  #ended = 0;
  #alive = new Int32Array(2);
  #scratch = new Int32Array(2);
  #depths = new Int32Array(64);

  constructor(endpoints: EndpointStoreView, ttlMs: number, random: () => number) {
    this.#index = new PrefixIndex(random);
    this.#holders = new EndpointHolders(this.#index, endpoints);
    this.#ttlMs = ttlMs;
  }

  get blocks(): number {
    return this.#index.blocks;
  }

  /** Raises matched[slot] of each candidate to the blocks it is believed to be given. */
  match(
    hashes: Uint32Array,
    chainEnds: readonly number[],
    candidates: Endpoints,
    matched: Float64Array,
    nowMs: number,
  ): void {
    this.#expire(nowMs);
    if (this.#index.blocks === 0) return;
    this.#fit(this.#index.holderCount);
    for (let i = 0; i < candidates.length; i++) {
      const holder = this.#holders.of(candidates[i] as Endpoint)?.holder;
      if (holder !== undefined) {
        this.#alive[holder >>> 5] = (this.#alive[holder >>> 5] as number) | (1 << (holder & 31));
      }
    }
    this.#index.match(hashes, chainEnds, this.#alive, this.#scratch, this.#depths);
    for (let i = 0; i < candidates.length; i++) {
      const endpoint = candidates[i] as Endpoint;
      const holder = this.#holders.of(endpoint)?.holder;
      if (holder === undefined) continue;
      const depth = this.#depths[holder] as number;
      if (depth > (matched[endpoint.slot] as number)) matched[endpoint.slot] = depth;
    }
  }

  add(endpoint: Endpoint, hashes: Uint32Array, chainEnds: readonly number[], nowMs: number): Speculation | undefined {
    this.#expire(nowMs);
    const blocks = this.#holders.claim(endpoint, blocksPerEndpoint);
    if (blocks === undefined) return undefined;
    const speculation = { blocks, stamp: this.#index.insert(blocks, hashes, chainEnds), hashes };
    this.#dated.push({ speculation, endsAtMs: nowMs + this.#ttlMs });
    return speculation;
  }

  forget({ blocks, stamp, hashes }: Speculation): void {
    if (this.#index.isAttached(blocks)) this.#index.forget(blocks, stamp, hashes);
  }

  close(): void {
    this.#holders.close();
    this.#dated = [];
  }

  #expire(nowMs: number): void {
    let at = this.#ended;
    for (let dated = this.#dated[at]; dated !== undefined && dated.endsAtMs <= nowMs; dated = this.#dated[at]) {
      this.forget(dated.speculation);
      at += 1;
    }
    this.#ended = at;
    if (at < 1024 && at < this.#dated.length) return;
    this.#dated = this.#dated.slice(at);
    this.#ended = 0;
  }

  #fit(holders: number): void {
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
