/**
 * The endpoint store: the one place where endpoints are added, changed and removed, and from which everybody reads immutable snapshots. An
 * endpoint object is replaced as a whole; the snapshot array is rebuilt on the first read after a change.
 */

import { type Logger, silentLogger } from "../telemetry/log.ts";
import {
  type Endpoint,
  type EndpointName,
  type Endpoints,
  type EngineMetrics,
  endpointName,
  hostPortOf,
  noMetrics,
} from "./endpoint.ts";
import { bookLoad, LoadCounter } from "./endpoint-load.ts";
import type { EndpointListener, EndpointStoreView, LoadBooking } from "./store-view.ts";

/** What a discovery knows of an endpoint. */
export interface EndpointSpec {
  readonly namespace: string;
  readonly name: string;
  /** IP literal without brackets. */
  readonly address: string;
  readonly port: number;
  readonly labels: ReadonlyMap<string, string>;
}

/** What a discovery may do with the store. `source` names the discovery; it changes and removes only what is its own. */
export interface EndpointWriter {
  /** Makes the endpoints of this source exactly these. */
  replaceAll(source: string, specs: readonly EndpointSpec[]): void;
  /**
   * Adds an endpoint or changes its labels. Another address or port under the same name is another server: the old one is removed first.
   * A name that another source holds passes to this source.
   */
  upsert(source: string, spec: EndpointSpec): void;
  remove(source: string, name: EndpointName): void;
  /** The first complete list is in. */
  markSynced(): void;
}

/** What the scraper may do with the store. Both are no-ops for an endpoint that has left. */
export interface ScrapeSink {
  setMetrics(name: EndpointName, metrics: EngineMetrics): void;
  /** Attribute of an endpoint, e.g. its served models; undefined removes it. */
  setAttribute(name: EndpointName, attribute: string, value: unknown): void;
}

export interface EndpointStore extends EndpointStoreView, EndpointWriter, ScrapeSink {}

interface Entry {
  source: string;
  endpoint: Endpoint;
}

/** So many are put in order once for all of them; fewer, each where it belongs. */
const manyNew = 64;

const noAttributes: ReadonlyMap<string, unknown> = new Map();

/** A listener that throws is logged and the others are told all the same. */
export function createEndpointStore(log: Logger = silentLogger): EndpointStore {
  return new Store(log);
}

class Store implements EndpointStore {
  readonly #log: Logger;
  readonly #entries = new Map<EndpointName, Entry>();
  /** Entries by name, read for every snapshot; undefined: to be put in order, after many have changed at once. */
  #ordered: Entry[] | undefined = [];
  #snapshot: Endpoints | undefined = Object.freeze([]);
  readonly #freeSlots: number[] = [];
  #nextSlot = 0;
  #nextGeneration = 1;
  #isSynced = false;
  /** Replaced on change, so that a listener may come or go while a round is under way. */
  #listeners: readonly EndpointListener[] = [];

  constructor(log: Logger) {
    this.#log = log;
  }

  get isSynced(): boolean {
    return this.#isSynced;
  }

  markSynced(): void {
    this.#isSynced = true;
  }

  snapshot(): Endpoints {
    if (this.#snapshot !== undefined) return this.#snapshot;
    this.#ordered ??= [...this.#entries.values()].sort(byName);
    this.#snapshot = Object.freeze(this.#ordered.map((entry) => entry.endpoint));
    return this.#snapshot;
  }

  get(name: EndpointName): Endpoint | undefined {
    return this.#entries.get(name)?.endpoint;
  }

  subscribe(listener: EndpointListener): () => void {
    this.#listeners = [...this.#listeners, listener];
    return () => {
      this.#listeners = this.#listeners.filter((other) => other !== listener);
    };
  }

  book(endpoint: Endpoint, tokens: number): LoadBooking {
    const counter = endpoint.load;
    if (!(counter instanceof LoadCounter)) throw new TypeError("the endpoint is not of this store");
    return bookLoad(counter, tokens);
  }

  replaceAll(source: string, specs: readonly EndpointSpec[]): void {
    const names = new Set(specs.map((spec) => endpointName(spec.namespace, spec.name)));
    if (specs.length > this.#entries.size + manyNew) this.#ordered = undefined;
    for (const [name, entry] of this.#entries) {
      if (entry.source === source && !names.has(name)) this.#remove(name, entry);
    }
    for (const spec of specs) this.upsert(source, spec);
  }

  upsert(source: string, spec: EndpointSpec): void {
    const name = endpointName(spec.namespace, spec.name);
    const entry = this.#entries.get(name);
    if (entry === undefined) {
      this.#add(source, name, spec);
      return;
    }
    const { address, port, labels } = entry.endpoint;
    if (address !== spec.address || port !== spec.port) {
      this.#remove(name, entry);
      this.#add(source, name, spec);
      return;
    }
    entry.source = source;
    if (!hasSameEntries(labels, spec.labels)) this.#replace(entry, { ...entry.endpoint, labels: new Map(spec.labels) });
  }

  remove(source: string, name: EndpointName): void {
    const entry = this.#entries.get(name);
    if (entry?.source === source) this.#remove(name, entry);
  }

  setMetrics(name: EndpointName, metrics: EngineMetrics): void {
    const entry = this.#entries.get(name);
    if (entry !== undefined) this.#replace(entry, { ...entry.endpoint, metrics });
  }

  setAttribute(name: EndpointName, attribute: string, value: unknown): void {
    const entry = this.#entries.get(name);
    if (entry === undefined || entry.endpoint.attributes.get(attribute) === value) return;
    const attributes = new Map(entry.endpoint.attributes);
    if (value === undefined) attributes.delete(attribute);
    else attributes.set(attribute, value);
    this.#replace(entry, { ...entry.endpoint, attributes });
  }

  #replace(entry: Entry, endpoint: Endpoint): void {
    entry.endpoint = endpoint;
    this.#snapshot = undefined;
  }

  #add(source: string, name: EndpointName, spec: EndpointSpec): void {
    const endpoint: Endpoint = {
      name,
      namespace: spec.namespace,
      slot: this.#freeSlots.pop() ?? this.#nextSlot++,
      generation: this.#nextGeneration++,
      address: spec.address,
      port: spec.port,
      hostPort: hostPortOf(spec.address, spec.port),
      labels: new Map(spec.labels),
      metrics: noMetrics,
      load: new LoadCounter(),
      attributes: noAttributes,
    };
    const entry = { source, endpoint };
    this.#entries.set(name, entry);
    this.#ordered?.splice(placeOf(this.#ordered, name), 0, entry);
    this.#snapshot = undefined;
    for (const listener of this.#listeners) this.#tell(() => listener.added?.(endpoint));
  }

  #remove(name: EndpointName, entry: Entry): void {
    this.#entries.delete(name);
    this.#ordered?.splice(placeOf(this.#ordered, name), 1);
    this.#snapshot = undefined;
    for (const listener of this.#listeners) this.#tell(() => listener.removed?.(entry.endpoint));
    // Only now: listeners clear their columns before another endpoint can get the slot.
    this.#freeSlots.push(entry.endpoint.slot);
  }

  #tell(call: () => void): void {
    try {
      call();
    } catch (error) {
      this.#log.error({ err: error }, "an endpoint listener failed");
    }
  }
}

/** By code unit, not by locale: the order is the same on every machine. */
function byName(a: Entry, b: Entry): number {
  if (a.endpoint.name === b.endpoint.name) return 0;
  return a.endpoint.name < b.endpoint.name ? -1 : 1;
}

/** Where the entry of that name is, or would be. */
function placeOf(ordered: readonly Entry[], name: EndpointName): number {
  let low = 0;
  let high = ordered.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ordered[middle]?.endpoint.name ?? name) < name) low = middle + 1;
    else high = middle;
  }
  return low;
}

function hasSameEntries(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  if (a.size !== b.size) return false;
  for (const [key, value] of a) if (b.get(key) !== value) return false;
  return true;
}
