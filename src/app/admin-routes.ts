/** What the metrics port answers, by path. */
import type { DecisionLog } from "../admin/decision-log.ts";
import { type AdminRoute, json, text } from "../admin/http-server.ts";
import type { EppSettings } from "../commands/epp-flags.ts";
import type { EndpointStoreView } from "../data/store-view.ts";
import type { RunningPipeline } from "../pipeline/pipeline.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Configuration } from "./configuration.ts";
import type { Pool } from "./pool.ts";

export interface AdminRouteOptions {
  readonly settings: EppSettings;
  readonly metrics: Metrics;
  readonly store: EndpointStoreView;
  readonly pool: Pool;
  readonly configuration: Configuration;
  readonly pipeline: RunningPipeline;
  readonly decisions: DecisionLog;
  isReady(): boolean;
  now(): number;
}

export function adminRoutes(options: AdminRouteOptions): ReadonlyMap<string, AdminRoute> {
  const { metrics, store, configuration, pipeline, decisions } = options;
  const listDecisions = (requestId: string | undefined, query: URLSearchParams) => {
    const found = decisions.list(Number(query.get("limit") ?? 100), requestId);
    return found.length === 0 && requestId !== undefined
      ? json({ error: `no decision is kept for ${requestId}` }, 404)
      : json(found);
  };
  return new Map<string, AdminRoute>([
    ["/metrics", async () => ({ status: 200, contentType: metrics.contentType, body: await metrics.render() })],
    ["/healthz", () => text("ok\n")],
    ["/readyz", () => (options.isReady() ? text("ok\n") : text("not ready\n", 503))],
    [
      "/debug/endpoints",
      () => {
        const scrapes = options.pool.scrapeStatus();
        return json(
          store.snapshot().map((endpoint) => ({
            ...describeEndpoint(endpoint, options.now()),
            scrapes: scrapes.filter((scrape) => scrape.endpoint === endpoint.name),
          })),
        );
      },
    ],
    ["/debug/objects", () => json(describeObjects(options.pool))],
    ["/debug/config", () => json(describeConfiguration(configuration, options.settings))],
    ["/debug/decisions", (_rest, query) => listDecisions(undefined, query)],
    ["/debug/decisions/", (rest, query) => listDecisions(rest, query)],
    [
      "/debug/exchanges",
      () =>
        json({ open: pipeline.openExchanges, pending: pipeline.pendingDecisions, reaped: pipeline.reapedExchanges }),
    ],
  ]);
}

function describeEndpoint(endpoint: ReturnType<EndpointStoreView["snapshot"]>[number], nowMs: number) {
  const { metrics } = endpoint;
  return {
    name: endpoint.name,
    address: endpoint.hostPort,
    labels: Object.fromEntries(endpoint.labels),
    load: { requests: endpoint.load.requests, tokens: endpoint.load.tokens },
    metrics: {
      ...metrics,
      activeAdapters: [...metrics.activeAdapters],
      waitingAdapters: [...metrics.waitingAdapters],
      updatedAtMs: undefined,
      ageMs: Number.isFinite(metrics.updatedAtMs) ? Math.round(nowMs - metrics.updatedAtMs) : null,
    },
    attributes: Object.fromEntries(endpoint.attributes),
  };
}

function describeConfiguration(configuration: Configuration, settings: EppSettings) {
  const { config } = configuration.current;
  return {
    ...configuration.state,
    flags: settings,
    featureGates: Object.fromEntries(config.featureGates),
    plugins: config.plugins.map(({ name, type, parameters }) => ({ name, type, parameters })),
    schedulingProfiles: config.profiles,
    profileHandler: config.profileHandler,
    parsers: config.parsers,
    sources: config.sources,
    discovery: config.discovery ?? null,
    saturationDetector: config.saturationDetector,
  };
}

function describeObjects(pool: Pool) {
  const { objectives, rewrites } = pool.objects();
  return { objectives: Object.fromEntries(objectives), rewrites, faults: pool.manifestFaults() };
}
