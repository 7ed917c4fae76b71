/** A pool of endpoints and requests as producers see them, held in literals. */
import {
  type Endpoint,
  type EngineMetrics,
  endpointName,
  hostPortOf,
  noMetrics,
} from "../../../../src/data/endpoint.ts";
import type { PluginContext } from "../../../../src/data/plugin.ts";
import type { Assignment } from "../../../../src/data/producer.ts";
import type { EndpointListener, EndpointStoreView } from "../../../../src/data/store-view.ts";
import { InferenceRequest } from "../../../../src/request/inference-request.ts";
import type { ParsedBody, Prompt } from "../../../../src/request/parsed-body.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

export interface FakePool extends EndpointStoreView {
  /** Adds an endpoint to the slot. */
  add(slot: number, metrics?: Partial<EngineMetrics>): Endpoint;
  /** A scrape: the endpoint's new snapshot. */
  scrape(endpoint: Endpoint, metrics: Partial<EngineMetrics>): Endpoint;
  remove(endpoint: Endpoint): void;
  readonly listeners: ReadonlySet<EndpointListener>;
}

export function createFakePool(): FakePool {
  let endpoints: readonly Endpoint[] = [];
  let generation = 0;
  const listeners = new Set<EndpointListener>();
  return {
    isSynced: true,
    listeners,
    snapshot: () => endpoints,
    get: (name) => endpoints.find((endpoint) => endpoint.name === name),
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    book(endpoint, tokens) {
      const load = endpoint.load as { requests: number; tokens: number };
      let held = tokens;
      let isOpen = true;
      load.requests += 1;
      load.tokens += tokens;
      const releaseTokens = (released: number) => {
        const taken = isOpen ? Math.min(released, held) : 0;
        held -= taken;
        load.tokens -= taken;
      };
      return {
        releaseTokens,
        release() {
          releaseTokens(held);
          if (isOpen) load.requests -= 1;
          isOpen = false;
        },
      };
    },
    add(slot, metrics = {}) {
      generation += 1;
      const address = `10.0.${generation}.${slot}`;
      const endpoint: Endpoint = {
        name: endpointName("default", `pod-${generation}`),
        namespace: "default",
        slot,
        generation,
        address,
        port: 8000,
        hostPort: hostPortOf(address, 8000),
        labels: new Map(),
        metrics: { ...noMetrics, ...metrics },
        load: { requests: 0, tokens: 0 },
        attributes: new Map(),
      };
      endpoints = [...endpoints, endpoint];
      for (const listener of listeners) listener.added?.(endpoint);
      return endpoint;
    },
    scrape(endpoint, metrics) {
      const fresh: Endpoint = { ...endpoint, metrics: { ...noMetrics, ...metrics } };
      endpoints = endpoints.map((other) => (other.name === endpoint.name ? fresh : other));
      return fresh;
    },
    remove(endpoint) {
      endpoints = endpoints.filter(({ name }) => name !== endpoint.name);
      for (const listener of listeners) listener.removed?.(endpoint);
    },
  };
}

export function contextOf(endpoints: EndpointStoreView, name: string): PluginContext {
  return { name, log: silentLogger, endpoints, plugin: () => undefined, now: () => 0, random: () => 0.372_911 };
}

export function requestOf(
  prompt: Prompt,
  options: {
    readonly body?: Buffer;
    readonly model?: string;
    readonly cacheSalt?: string;
    readonly headers?: Readonly<Record<string, string>>;
    readonly maxOutputTokens?: number;
  } = {},
): InferenceRequest {
  const parsed: ParsedBody = {
    api: "openai-completions",
    parser: "openai-parser",
    model: options.model ?? "m",
    modelRange: undefined,
    stream: true,
    maxOutputTokens: options.maxOutputTokens,
    user: undefined,
    cacheSalt: options.cacheSalt,
    nvextRange: undefined,
    prompt,
    readsResponse: true,
  };
  return new InferenceRequest({
    id: "r",
    method: "POST",
    path: "/v1/completions",
    headers: new Map(Object.entries(options.headers ?? {})),
    body: options.body ?? Buffer.alloc(0),
    parsed,
    receivedAtMs: 0,
  });
}

/** One prompt a text, with JSON of other fields around it. */
export function textRequest(texts: readonly string[], options: Parameters<typeof requestOf>[1] = {}): InferenceRequest {
  const parts = texts.map((text) => `{"prompt":"${text}"}`);
  let at = 0;
  const chains = texts.map((text, i) => {
    const start = at + 11;
    at += parts[i]?.length ?? 0;
    return [{ start, end: start + text.length }];
  });
  return requestOf({ kind: "bytes", chains }, { ...options, body: Buffer.from(parts.join("")) });
}

export function assignmentOf(destinations: readonly Endpoint[], prefill?: Endpoint): Assignment {
  const byProfile = new Map<string, readonly Endpoint[]>([["decode", destinations]]);
  if (prefill !== undefined) byProfile.set("prefill", [prefill]);
  return { destinations, byProfile };
}

/** Text of that many blocks of 64 tokens; the same start gives the same text. */
export function textOf(blocks: number, start = 0): string {
  let text = "";
  for (let block = 0; block < blocks; block++) text += String(start + block).padEnd(256, "x");
  return text;
}
