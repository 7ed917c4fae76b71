/** The real endpoint store with a short way to fill it, and requests held in literals. */
import { type Endpoint, type EngineMetrics, endpointName, noMetrics } from "../../../../src/data/endpoint.ts";
import { createEndpointStore } from "../../../../src/data/endpoint-store.ts";
import type { PluginContext } from "../../../../src/data/plugin.ts";
import type { Assignment } from "../../../../src/data/producer.ts";
import type { EndpointStoreView } from "../../../../src/data/store-view.ts";
import { InferenceRequest } from "../../../../src/request/inference-request.ts";
import type { ParsedBody, Prompt } from "../../../../src/request/parsed-body.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

export interface Pool extends EndpointStoreView {
  add(metrics?: Partial<EngineMetrics>): Endpoint;
  /** A scrape: the endpoint's new snapshot. */
  scrape(endpoint: Endpoint, metrics: Partial<EngineMetrics>): Endpoint;
  remove(endpoint: Endpoint): void;
  /** Listeners now subscribed. */
  readonly listeners: number;
}

export function createPool(): Pool {
  const store = createEndpointStore();
  let added = 0;
  let listeners = 0;
  const current = (endpoint: Endpoint): Endpoint => {
    const found = store.get(endpoint.name);
    if (found === undefined) throw new Error("the endpoint has left");
    return found;
  };
  const scrape = (endpoint: Endpoint, metrics: Partial<EngineMetrics>): Endpoint => {
    store.setMetrics(endpoint.name, { ...noMetrics, ...metrics });
    return current(endpoint);
  };
  return {
    isSynced: true,
    get listeners() {
      return listeners;
    },
    snapshot: () => store.snapshot(),
    get: (name) => store.get(name),
    book: (endpoint, tokens) => store.book(endpoint, tokens),
    subscribe(listener) {
      const unsubscribe = store.subscribe(listener);
      listeners += 1;
      return () => {
        listeners -= 1;
        unsubscribe();
      };
    },
    add(metrics = {}) {
      added += 1;
      const name = `pod-${String(added).padStart(4, "0")}`;
      const address = `10.0.${added >> 8}.${added & 255}`;
      store.upsert("test", { namespace: "default", name, address, port: 8000, labels: new Map() });
      const endpoint = store.get(endpointName("default", name));
      if (endpoint === undefined) throw new Error("the store took no endpoint");
      return scrape(endpoint, metrics);
    },
    scrape,
    remove: (endpoint) => store.remove("test", endpoint.name),
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
