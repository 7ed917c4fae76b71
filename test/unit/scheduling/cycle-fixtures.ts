/** Endpoints, requests and cycles for scheduling tests: plain literals with what the test does not care about filled in. */
import { InferenceRequest } from "../../../src/request/inference-request.ts";
import {
  type Assignment,
  type Cycle,
  type Endpoint,
  type Endpoints,
  type EngineMetrics,
  endpointName,
  type PluginContext,
  type PluginDefinition,
  type PrefixMatch,
  prefixMatchKey,
} from "../../../src/scheduling/contracts.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";

export interface EndpointInit {
  readonly name?: string;
  readonly address?: string;
  readonly port?: number;
  readonly labels?: Readonly<Record<string, string>>;
  readonly attributes?: Readonly<Record<string, unknown>>;
  readonly requests?: number;
  readonly tokens?: number;
  readonly waiting?: number;
  readonly running?: number;
  readonly kv?: number;
  readonly active?: readonly string[];
  readonly pending?: readonly string[];
  readonly maxAdapters?: number;
  /** False for an endpoint that was never scraped. */
  readonly scraped?: boolean;
}

export function endpoint(slot: number, init: EndpointInit = {}): Endpoint {
  const address = init.address ?? `10.0.0.${slot + 1}`;
  const port = init.port ?? 8000;
  const name = init.name ?? `pod-${slot}`;
  const metrics: EngineMetrics = {
    waitingRequests: init.waiting ?? 0,
    runningRequests: init.running ?? 0,
    kvCacheUsage: init.kv ?? 0,
    activeAdapters: new Set(init.active),
    waitingAdapters: new Set(init.pending),
    maxAdapters: init.maxAdapters ?? 0,
    blockSizeTokens: 16,
    totalBlocks: 1000,
    updatedAtMs: init.scraped === false ? Number.NEGATIVE_INFINITY : 1,
  };
  return {
    name: endpointName("default", name),
    namespace: "default",
    slot,
    generation: slot,
    address,
    port,
    hostPort: address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`,
    labels: new Map(Object.entries(init.labels ?? {})),
    metrics,
    load: { requests: init.requests ?? 0, tokens: init.tokens ?? 0 },
    attributes: new Map(Object.entries(init.attributes ?? {})),
  };
}

export function endpointsOf(...inits: readonly EndpointInit[]): readonly Endpoint[] {
  return inits.map((init, slot) => endpoint(slot, init));
}

export interface RequestInit {
  readonly id?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly model?: string;
  readonly promptTokens?: number;
}

export function request(init: RequestInit = {}): InferenceRequest {
  const made = new InferenceRequest({
    id: init.id ?? "request-1",
    method: "POST",
    path: "/v1/completions",
    headers: new Map(Object.entries(init.headers ?? {})),
    body: Buffer.alloc(0),
    parsed: {
      api: "openai-completions",
      parser: "openai-parser",
      model: init.model ?? "model",
      modelRange: undefined,
      stream: false,
      maxOutputTokens: undefined,
      user: undefined,
      cacheSalt: undefined,
      nvextRange: undefined,
      prompt: { kind: "opaque" },
      readsResponse: true,
    },
    receivedAtMs: 0,
  });
  if (init.promptTokens !== undefined) made.promptTokens = init.promptTokens;
  return made;
}

/** A small generator with a full period, so that a test's randomness is its seed's. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

export function cycle(init: RequestInit | InferenceRequest = {}, random = seeded(1), nowMs = 1000): Cycle {
  return { request: init instanceof InferenceRequest ? init : request(init), nowMs, staleAfterMs: 2000, random };
}

/** Publishes matched blocks by slot under the producer's name. */
export function publishMatch(
  into: InferenceRequest,
  matchedBySlot: readonly number[],
  totalBlocks: number,
  producer = "approx-prefix-cache-producer",
  blockSizeTokens = 64,
): void {
  const match: PrefixMatch = {
    blockSizeTokens,
    totalBlocks,
    hashes: new Uint32Array(2 * totalBlocks),
    matchedBlocks: ({ slot }) => matchedBySlot[slot] ?? 0,
  };
  into.setAttribute(prefixMatchKey(producer), match);
}

export const context: PluginContext = {
  name: "plugin-under-test",
  log: silentLogger,
  endpoints: {
    snapshot: () => [],
    get: () => undefined,
    subscribe: () => () => {},
    isSynced: true,
    book: () => ({ releaseTokens: () => {}, release: () => {} }),
  },
  plugin: () => undefined,
  now: () => 0,
  random: () => 0.5,
};

/** Creates an instance with the schema's top-level defaults under the parameters given. */
export function create<Instance>(definition: PluginDefinition<never, Instance>, parameters: object = {}): Instance {
  return definition.create(withDefaults(definition.parameters, parameters) as never, context);
}

export function withDefaults(schema: Readonly<Record<string, unknown>>, given: object): Record<string, unknown> {
  const filled: Record<string, unknown> = { ...given };
  const properties = (schema["properties"] ?? {}) as Record<string, Record<string, unknown>>;
  for (const [name, property] of Object.entries(properties)) {
    if (filled[name] === undefined && property["default"] !== undefined) filled[name] = property["default"];
    const value = filled[name];
    if (property["type"] === "object" && typeof value === "object" && value !== null) {
      filled[name] = withDefaults(property, value);
    }
  }
  return filled;
}

export function assignment(destinations: Endpoints, byProfile: Readonly<Record<string, Endpoints>> = {}): Assignment {
  return { destinations, byProfile: new Map(Object.entries({ default: destinations, ...byProfile })) };
}

/** The scores a scorer writes, over an array that the caller zeroed, as its contract says. */
export function scoresOf(
  scorer: { score(cycle: Cycle, endpoints: Endpoints, scores: Float64Array): void },
  at: Cycle,
  endpoints: Endpoints,
): number[] {
  const scores = new Float64Array(endpoints.length);
  scorer.score(at, endpoints, scores);
  return [...scores];
}

export function names(endpoints: Endpoints): string[] {
  return endpoints.map(({ name }) => name.slice("default/".length));
}
