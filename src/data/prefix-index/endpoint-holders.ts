/**
 * Which holder of a prefix index stands for which endpoint. A column by endpoint slot; the generation tells a slot's new endpoint from the old,
 * so a reused slot never inherits another server's blocks.
 */
import type { Endpoint } from "../endpoint.ts";
import type { EndpointStoreView } from "../store-view.ts";
import type { HolderBlocks } from "./holder-blocks.ts";
import type { PrefixIndex } from "./prefix-index.ts";

interface Seat {
  readonly generation: number;
  readonly blocks: HolderBlocks;
}

export class EndpointHolders {
  readonly #index: PrefixIndex;
  readonly #endpoints: EndpointStoreView;
  readonly #seats: (Seat | undefined)[] = [];
  readonly #unsubscribe: () => void;

  constructor(index: PrefixIndex, endpoints: EndpointStoreView) {
    this.#index = index;
    this.#endpoints = endpoints;
    this.#unsubscribe = endpoints.subscribe({ removed: (endpoint) => this.#remove(endpoint) });
  }

  /** The endpoint's holder; undefined as long as nothing was learnt of it. */
  of(endpoint: Endpoint): HolderBlocks | undefined {
    const seat = this.#seats[endpoint.slot];
    return seat !== undefined && seat.generation === endpoint.generation ? seat.blocks : undefined;
  }

  /** The endpoint's holder with this capacity, attached now if need be; undefined for an endpoint that has left the store. */
  claim(endpoint: Endpoint, capacityBlocks: number): HolderBlocks | undefined {
    const known = this.of(endpoint);
    if (known !== undefined) {
      known.capacity = capacityBlocks;
      return known;
    }
    if (this.#endpoints.get(endpoint.name)?.generation !== endpoint.generation) return undefined;
    const stale = this.#seats[endpoint.slot];
    if (stale !== undefined) this.#index.detach(stale.blocks);
    const blocks = this.#index.attach(capacityBlocks);
    this.#seats[endpoint.slot] = { generation: endpoint.generation, blocks };
    return blocks;
  }

  close(): void {
    this.#unsubscribe();
  }

  #remove(endpoint: Endpoint): void {
    const blocks = this.of(endpoint);
    if (blocks === undefined) return;
    this.#seats[endpoint.slot] = undefined;
    this.#index.detach(blocks);
  }
}
