/**
 * Requests and tokens in flight, shared: each replica says what it has on each endpoint now, and an endpoint's load is the sum of what its own
 * replica booked and what the others last said. A peer may know an endpoint before this replica does, so values are kept by name.
 */
import type { Endpoint } from "../endpoint.ts";
import { LoadCounter } from "../endpoint-load.ts";
import {
  type ChangeSink,
  endpointByKey,
  endpointKeyOf,
  type PeerId,
  type SharedContribution,
} from "../shared-state.ts";
import type { EndpointStoreView } from "../store-view.ts";

interface PeerLoad {
  readonly requests: number;
  readonly tokens: number;
}

interface PeerLoads {
  /** By endpoint key; what is not there is 0. */
  values: Map<string, PeerLoad>;
  /** Values that will take their place. */
  next: Map<string, PeerLoad> | undefined;
}

/** Endpoints of one peer; beyond it they are not counted. */
const mostEndpoints = 65_536;
/** Above it a number is no count of anything. */
const mostTokens = 2 ** 50;
const fixedBytes = 12;

/** One endpoint of this replica's own, and what peers were told of it. */
class OwnLoad {
  readonly payload: Buffer;
  readonly counter: LoadCounter;
  readonly #list: OwnLoad[];
  readonly #told: () => void;
  isListed = false;
  /** The endpoint has left: nothing is on it. */
  hasLeft = false;
  #requests = 0;
  #tokens = 0;

  constructor(endpoint: Endpoint, counter: LoadCounter, list: OwnLoad[], told: () => void) {
    const key = Buffer.from(endpointKeyOf(endpoint));
    this.payload = Buffer.concat([Buffer.alloc(fixedBytes), key]);
    this.counter = counter;
    this.#list = list;
    this.#told = told;
  }

  changed(): void {
    if (this.isListed) return;
    this.isListed = true;
    this.#list.push(this);
    this.#told();
  }

  /** True where the payload says something else than before. */
  write(): boolean {
    const requests = this.hasLeft ? 0 : this.counter.ownRequests;
    const tokens = this.hasLeft ? 0 : this.counter.ownTokens;
    if (requests === this.#requests && tokens === this.#tokens) return false;
    this.#requests = requests;
    this.#tokens = tokens;
    this.payload.writeUInt32LE(requests, 0);
    this.payload.writeDoubleLE(tokens, 4);
    return true;
  }

  get isIdle(): boolean {
    return this.#requests === 0 && this.#tokens === 0;
  }
}

export class SharedLoad implements SharedContribution {
  readonly kind = "contribution";
  readonly topic = "load";
  readonly #store: EndpointStoreView;
  readonly #own = new Map<Endpoint["load"], OwnLoad>();
  readonly #peers = new Map<PeerId, PeerLoads>();
  /** Since the last collection. */
  #changed: OwnLoad[] = [];
  #changes: ChangeSink | undefined;
  #unsubscribe: (() => void) | undefined;

  constructor(store: EndpointStoreView) {
    this.#store = store;
  }

  shareWith(changes: ChangeSink | undefined): void {
    this.#stop();
    this.#changes = changes;
    if (changes === undefined) return;
    this.#unsubscribe = this.#store.subscribe({
      added: (endpoint) => this.#added(endpoint),
      removed: (endpoint) => this.#removed(endpoint),
    });
    for (const endpoint of this.#store.snapshot()) this.#added(endpoint);
  }

  collect(): void {
    for (const own of this.#changed) {
      own.isListed = false;
      if (own.write()) this.#changes?.append(own.payload, own.payload.length);
    }
    this.#changed.length = 0;
  }

  *own(): Iterable<Uint8Array> {
    for (const own of this.#own.values()) if (!own.isIdle) yield own.payload;
  }

  apply(peer: PeerId, payload: Buffer): boolean {
    if (payload.length <= fixedBytes) return false;
    const requests = payload.readUInt32LE(0);
    const tokens = payload.readDoubleLE(4);
    if (!(tokens >= 0 && tokens <= mostTokens)) return false;
    const key = payload.toString("utf8", fixedBytes);
    const loads = this.#loadsOf(peer);
    const values = loads.next ?? loads.values;
    if (requests === 0 && tokens === 0) values.delete(key);
    else if (values.size < mostEndpoints || values.has(key)) values.set(key, { requests, tokens });
    else return false;
    if (loads.next === undefined) this.#sum(key);
    return true;
  }

  replacing(peer: PeerId): void {
    this.#loadsOf(peer).next = new Map();
  }

  replaced(peer: PeerId): void {
    const loads = this.#peers.get(peer);
    if (loads?.next === undefined) return;
    const before = loads.values;
    loads.values = loads.next;
    loads.next = undefined;
    for (const key of before.keys()) this.#sum(key);
    for (const key of loads.values.keys()) if (!before.has(key)) this.#sum(key);
  }

  gone(peer: PeerId): void {
    const loads = this.#peers.get(peer);
    if (loads === undefined) return;
    this.#peers.delete(peer);
    for (const key of loads.values.keys()) this.#sum(key);
  }

  /** Requests and tokens of a peer on all endpoints. */
  describe(peer: PeerId): PeerLoad {
    let requests = 0;
    let tokens = 0;
    for (const load of this.#peers.get(peer)?.values.values() ?? []) {
      requests += load.requests;
      tokens += load.tokens;
    }
    return { requests, tokens };
  }

  #stop(): void {
    this.#unsubscribe?.();
    for (const { counter } of this.#own.values()) {
      counter.watchOwn(undefined);
      counter.setPeers(0, 0);
    }
    this.#own.clear();
    this.#peers.clear();
    this.#changed = [];
  }

  #added(endpoint: Endpoint): void {
    const counter = endpoint.load;
    if (!(counter instanceof LoadCounter)) return;
    const own = new OwnLoad(endpoint, counter, this.#changed, () => this.#changes?.changed());
    this.#own.set(counter, own);
    counter.watchOwn(own);
    own.changed();
    this.#sum(endpointKeyOf(endpoint));
  }

  /** Bookings that outlive their endpoint count nowhere. */
  #removed({ load }: Endpoint): void {
    const own = this.#own.get(load);
    if (own === undefined) return;
    this.#own.delete(load);
    own.counter.watchOwn(undefined);
    own.hasLeft = true;
    own.changed();
  }

  #loadsOf(peer: PeerId): PeerLoads {
    let loads = this.#peers.get(peer);
    if (loads === undefined) {
      loads = { values: new Map(), next: undefined };
      this.#peers.set(peer, loads);
    }
    return loads;
  }

  /** Made anew from every peer's last word, so that no rounding errors add up. */
  #sum(key: string): void {
    const counter = endpointByKey(this.#store, key)?.load;
    if (!(counter instanceof LoadCounter)) return;
    let requests = 0;
    let tokens = 0;
    for (const { values } of this.#peers.values()) {
      const load = values.get(key);
      if (load === undefined) continue;
      requests += load.requests;
      tokens += load.tokens;
    }
    counter.setPeers(requests, tokens);
  }
}
