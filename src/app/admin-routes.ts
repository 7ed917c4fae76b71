/** What the metrics port answers, by path. Everything is read only, and no answer holds a secret or the text of a prompt. */
import type { DecisionLog } from "../admin/decision-log.ts";
import { type AdminAnswer, type AdminRoute, json, text } from "../admin/http-server.ts";
import type { EppSettings } from "../commands/epp-flags.ts";
import type { EndpointStoreView } from "../data/store-view.ts";
import type { RunningPipeline } from "../pipeline/pipeline.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Configuration } from "./configuration.ts";
import {
  describeConfiguration,
  describeEndpoint,
  describeObjects,
  describePlugins,
  pluginStates,
} from "./debug-views.ts";
import type { Leadership } from "./leadership.ts";
import type { Pool } from "./pool.ts";
import type { Serving } from "./serving.ts";

export interface AdminRouteOptions {
  readonly settings: EppSettings;
  readonly metrics: Metrics;
  readonly store: EndpointStoreView;
  readonly pool: Pool;
  readonly configuration: Configuration;
  readonly pipeline: RunningPipeline;
  readonly serving: Pick<Serving, "streams">;
  readonly decisions: DecisionLog;
  /** Routes of the profiler; empty with --enable-pprof=false. */
  readonly profiles: ReadonlyMap<string, AdminRoute>;
  /** Undefined without leader election: then there is no /debug/leader. */
  readonly leadership: Pick<Leadership, "describe"> | undefined;
  isReady(): boolean;
  now(): number;
}

const defaultDecisions = 100;
const maxDecisions = 1_000;

export function adminRoutes(options: AdminRouteOptions): ReadonlyMap<string, AdminRoute> {
  const { metrics, store, configuration, pipeline, decisions, settings } = options;
  const endpoints = (): AdminAnswer => {
    const scrapes = options.pool.scrapeStatus();
    return json(
      store.snapshot().map((endpoint) => ({
        ...describeEndpoint(endpoint, options.now()),
        scrapes: scrapes.filter((scrape) => scrape.endpoint === endpoint.name),
      })),
    );
  };
  const exchanges = (): AdminAnswer =>
    json({
      open: pipeline.openExchanges,
      pending: pipeline.pendingDecisions,
      reaped: pipeline.reapedExchanges,
      streams: options.serving.streams(),
    });
  const routes = new Map<string, AdminRoute>([
    ["/metrics", async () => ({ status: 200, contentType: metrics.contentType, body: await metrics.render() })],
    ["/healthz", () => text("ok\n")],
    ["/readyz", () => (options.isReady() ? text("ok\n") : text("not ready\n", 503))],
    ["/debug/endpoints", endpoints],
    ["/debug/objects", () => json(describeObjects(options.pool))],
    ["/debug/config", () => json(describeConfiguration(configuration, settings))],
    ["/debug/plugins", () => json(describePlugins(configuration.current))],
    ["/debug/plugins/state", () => json(pluginStates(configuration.current))],
    ["/debug/decisions", (_rest, query) => listDecisions(decisions, undefined, query)],
    ["/debug/decisions/", (rest, query) => listDecisions(decisions, rest, query)],
    ["/debug/exchanges", exchanges],
    ...leaderRoutes(options.leadership),
    ...options.profiles,
  ]);
  const index = [...routes.keys()].map((path) => (path.endsWith("/") ? `${path}{request-id}` : path));
  routes.set("/debug", () => text(`${index.join("\n")}\n`));
  return routes;
}

function leaderRoutes(leadership: AdminRouteOptions["leadership"]): readonly (readonly [string, AdminRoute])[] {
  return leadership === undefined ? [] : [["/debug/leader", () => json(leadership.describe())]];
}

function listDecisions(decisions: DecisionLog, requestId: string | undefined, query: URLSearchParams): AdminAnswer {
  const limit = limitOf(query.get("limit"));
  if (limit === undefined) return json({ error: `limit must be a whole number from 1 to ${maxDecisions}` }, 400);
  const found = decisions.list(limit, requestId);
  return found.length === 0 && requestId !== undefined
    ? json({ error: `no decision is kept for ${requestId}` }, 404)
    : json(found);
}

function limitOf(given: string | null): number | undefined {
  if (given === null) return defaultDecisions;
  const limit = /^\d{1,4}$/.test(given) ? Number(given) : 0;
  return limit >= 1 && limit <= maxDecisions ? limit : undefined;
}
