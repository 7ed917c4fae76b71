/**
 * The endpoint snapshot: what scheduling sees of one model server. Objects are immutable and replaced as a whole, but for `load`,
 * whose counters are live on purpose (no scrape lag).
 */

/** "<namespace>/<name>", for a Kubernetes pod "<namespace>/<pod>-rank-<n>". Unique in the store. */
export type EndpointName = string & { readonly brand: "EndpointName" };

export function endpointName(namespace: string, name: string): EndpointName {
  return `${namespace}/${name}` as EndpointName;
}

/** Engine signals of the last good scrape. */
export interface EngineMetrics {
  readonly waitingRequests: number;
  readonly runningRequests: number;
  /** 0..1 */
  readonly kvCacheUsage: number;
  /** LoRA adapters loaded and running. */
  readonly activeAdapters: ReadonlySet<string>;
  readonly waitingAdapters: ReadonlySet<string>;
  /** Adapter slots; 0 when the engine reports none. */
  readonly maxAdapters: number;
  /** Tokens per KV block; 0 when unknown. */
  readonly blockSizeTokens: number;
  /** KV blocks of the engine; 0 when unknown. */
  readonly totalBlocks: number;
  /** performance.now() of the scrape; -Infinity before the first. */
  readonly updatedAtMs: number;
}

export const noMetrics: EngineMetrics = Object.freeze({
  waitingRequests: 0,
  runningRequests: 0,
  kvCacheUsage: 0,
  activeAdapters: new Set<string>(),
  waitingAdapters: new Set<string>(),
  maxAdapters: 0,
  blockSizeTokens: 0,
  totalBlocks: 0,
  updatedAtMs: Number.NEGATIVE_INFINITY,
});

/** Requests that this picker and its replicas have sent to the endpoint and that have not ended. Live. */
export interface EndpointLoad {
  readonly requests: number;
  /** Uncached prompt tokens not yet prefilled, plus estimated output tokens where configured. */
  readonly tokens: number;
}

export interface Endpoint {
  readonly name: EndpointName;
  readonly namespace: string;
  /** Dense small integer: index into per-endpoint columns. Stable for the endpoint's life; reused after removal. */
  readonly slot: number;
  /** Distinguishes two endpoints that used the same slot; increases over the store's life. */
  readonly generation: number;
  /** IP literal without brackets. */
  readonly address: string;
  readonly port: number;
  /** "ip:port", IPv6 in brackets: what the destination header holds. */
  readonly hostPort: string;
  readonly labels: ReadonlyMap<string, string>;
  readonly metrics: EngineMetrics;
  readonly load: EndpointLoad;
  /** Extracted attributes other than engine metrics, e.g. served models; by attribute name. */
  readonly attributes: ReadonlyMap<string, unknown>;
}

export type Endpoints = readonly Endpoint[];

/** Bracketed where the address is IPv6 (RFC 3986 §3.2.2). */
export function hostPortOf(address: string, port: number): string {
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}
