/**
 * Spreads requests that hit no cache: the endpoint that took such a request longest ago comes first, one that never did before all. A
 * request with a hit anywhere gets 0.5 everywhere, so that its prefix decides.
 */
import {
  type Assignment,
  AttributeKey,
  type ChangeSink,
  type Cycle,
  type Endpoint,
  type EndpointName,
  type Endpoints,
  type InferenceRequest,
  type PluginDefinition,
  type PrefixMatch,
  prefixMatchKey,
  type RequestObserver,
  type Scorer,
  type Shareable,
  type SharedKnowledge,
} from "../../contracts.ts";

const longestName = 1024;

interface Parameters {
  readonly lruSize: number;
  readonly prefixMatchInfoProducerName?: string;
}

class NoHitLruScorer implements Scorer, Required<Pick<RequestObserver, "assigned">>, Shareable {
  readonly shared: SharedKnowledge;
  readonly #size: number;
  readonly #matchKey: AttributeKey<PrefixMatch>;
  /** Set on a cold request by score for assigned; the key is this instance's own. */
  readonly #coldKey = new AttributeKey<true>("no-hit-lru/cold");
  /** Endpoint → turn of its last cold request, least recent first; at most #size. */
  readonly #turns = new Map<EndpointName, number>();
  #turn = 0;
  /** Below all turns that are known. */
  #before = 0;
  #changes: ChangeSink | undefined;

  /** `name` is the plugin's. */
  constructor(name: string, { lruSize, prefixMatchInfoProducerName }: Parameters) {
    this.#size = lruSize;
    this.#matchKey = prefixMatchKey(prefixMatchInfoProducerName ?? "approx-prefix-cache-producer");
    this.shared = {
      kind: "knowledge",
      topic: `no-hit/${name}`,
      shareWith: (changes) => {
        this.#changes = changes;
      },
      apply: (_peer, payload) => this.#apply(payload),
      known: () => this.#known(),
    };
  }

  score({ request }: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    if (hitsAny(request.attribute(this.#matchKey), endpoints)) {
      scores.fill(0.5);
      return;
    }
    request.setAttribute(this.#coldKey, true);
    if (endpoints.length === 1) {
      scores[0] = 1;
      return;
    }
    this.#rank(endpoints, scores);
  }

  /** score = 1 − rank / (n − 1); never-used endpoints rank first, in the candidates' order, then used ones from the least recent. */
  #rank(endpoints: Endpoints, scores: Float64Array): void {
    const last = endpoints.length - 1;
    const used: { readonly position: number; readonly turn: number }[] = [];
    let rank = 0;
    let position = 0;
    for (const { name } of endpoints) {
      const turn = this.#turns.get(name);
      if (turn === undefined) scores[position] = 1 - rank++ / last;
      else used.push({ position, turn });
      position += 1;
    }
    used.sort((a, b) => a.turn - b.turn);
    for (const endpoint of used) scores[endpoint.position] = 1 - rank++ / last;
  }

  assigned(request: InferenceRequest, { destinations, byProfile }: Assignment): void {
    if (request.attribute(this.#coldKey) === undefined) return;
    this.#took(destinations[0]);
    this.#took(byProfile.get("prefill")?.[0]);
  }

  #took(endpoint: Endpoint | undefined): void {
    if (endpoint === undefined) return;
    this.#touch(endpoint.name);
    if (this.#changes === undefined) return;
    const payload = Buffer.from(`+${endpoint.name}`);
    this.#changes.append(payload, payload.length);
  }

  /** "+": the endpoint takes a turn now; "=": it took one before all that are known here. */
  #apply(payload: Buffer): boolean {
    const name = payload.toString("utf8", 1) as EndpointName;
    if (name === "" || name.length > longestName) return false;
    if (payload[0] === 0x2b) this.#touch(name);
    else if (payload[0] !== 0x3d) return false;
    else if (!this.#turns.has(name) && this.#turns.size < this.#size) this.#turns.set(name, --this.#before);
    return true;
  }

  /** The most recent first. */
  *#known(): Iterable<Uint8Array> {
    const names = Array.from(this.#turns).sort(([, a], [, b]) => b - a);
    for (const [name] of names) yield Buffer.from(`=${name}`);
  }

  #touch(name: EndpointName): void {
    this.#turns.delete(name);
    this.#turns.set(name, ++this.#turn);
    if (this.#turns.size <= this.#size) return;
    for (const oldest of this.#turns.keys()) {
      this.#turns.delete(oldest);
      return;
    }
  }
}

function hitsAny(match: PrefixMatch | undefined, endpoints: Endpoints): boolean {
  if (match === undefined) return false;
  for (const endpoint of endpoints) if (match.matchedBlocks(endpoint) > 0) return true;
  return false;
}

export const noHitLruScorer: PluginDefinition<Parameters, Scorer & RequestObserver & Shareable> = {
  type: "no-hit-lru-scorer",
  kinds: ["scorer", "pre-request"],
  summary:
    "Spreads requests without a cache hit: the endpoint that took one longest ago scores highest; a request with a hit scores 0.5 everywhere.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      lruSize: {
        type: "integer",
        exclusiveMinimum: 0,
        default: 1024,
        description: "Endpoints remembered; the least recently used is forgotten first.",
      },
      prefixMatchInfoProducerName: {
        type: "string",
        "x-producer": "approx-prefix-cache-producer",
        description: "Name of the data producer whose matches decide what a hit is; unset, the only one configured.",
      },
      prefixPluginType: { type: "string", deprecated: true, description: "Ignored." },
      prefixPluginName: { type: "string", deprecated: true, description: "Ignored." },
    },
  },
  needs: ["approx-prefix-cache-producer"],
  create: (parameters, { name }) => new NoHitLruScorer(name, parameters),
};
