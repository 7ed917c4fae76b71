/**
 * The weighted totals of one profile as a read-only map by endpoint. Most decisions never read them, so the map behind it is built on the
 * first look; the values are copied at once, because the scheduler's scratch is reused by the next decision.
 */
import type { Endpoint, Endpoints } from "../data/endpoint.ts";

export class EndpointTotals implements ReadonlyMap<Endpoint, number> {
  readonly #endpoints: Endpoints;
  readonly #totals: number[];
  #map: Map<Endpoint, number> | undefined = undefined;

  /** Copies totals[0 .. endpoints.length). */
  constructor(endpoints: Endpoints, totals: Float64Array) {
    const copy: number[] = [];
    for (let i = 0; i < endpoints.length; i++) copy.push(totals[i] ?? 0);
    this.#endpoints = endpoints;
    this.#totals = copy;
  }

  get size(): number {
    return this.#endpoints.length;
  }

  get(endpoint: Endpoint): number | undefined {
    return this.#built().get(endpoint);
  }

  has(endpoint: Endpoint): boolean {
    return this.#built().has(endpoint);
  }

  forEach(visit: (total: number, endpoint: Endpoint, map: ReadonlyMap<Endpoint, number>) => void): void {
    for (const [endpoint, total] of this.#built()) visit(total, endpoint, this);
  }

  entries(): MapIterator<[Endpoint, number]> {
    return this.#built().entries();
  }

  keys(): MapIterator<Endpoint> {
    return this.#built().keys();
  }

  values(): MapIterator<number> {
    return this.#built().values();
  }

  [Symbol.iterator](): MapIterator<[Endpoint, number]> {
    return this.entries();
  }

  #built(): Map<Endpoint, number> {
    if (this.#map === undefined) {
      const map = new Map<Endpoint, number>();
      let i = 0;
      for (const endpoint of this.#endpoints) map.set(endpoint, this.#totals[i++] ?? 0);
      this.#map = map;
    }
    return this.#map;
  }
}
