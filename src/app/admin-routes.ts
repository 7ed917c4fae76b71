/**
 * What the metrics port answers, by path. Everything is read only, and no answer holds a secret or the text of a prompt. With several pools an
 * answer about one of them is an object by pool, or with ?pool=NAME that pool's alone.
 */
import type { DecisionLog } from "../admin/decision-log.ts";
import { type AdminRoute, json, text } from "../admin/http-server.ts";
import type { EppSettings } from "../commands/epp-flags.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import {
  describeConfiguration,
  describeEndpoint,
  describeObjects,
  describePlugins,
  describePool,
  pluginStates,
} from "./debug-views.ts";
import type { Leadership } from "./leadership.ts";
import type { Peers } from "./peers.ts";
import type { ServedPool } from "./served-pool.ts";

export interface AdminRouteOptions {
  readonly settings: EppSettings;
  /** Of the pools. */
  readonly namespace: string;
  readonly metrics: Metrics;
  /** At least one. */
  readonly pools: readonly ServedPool[];
  /** Routes of the profiler; empty with --enable-pprof=false. */
  readonly profiles: ReadonlyMap<string, AdminRoute>;
  /** Undefined without leader election: then there is no /debug/leader. */
  readonly leadership: Pick<Leadership, "describe"> | undefined;
  /** Undefined without other replicas: then there is no /debug/peers. */
  readonly peers: Pick<Peers, "state"> | undefined;
  readonly isReady: () => boolean;
  readonly now: () => number;
}

const defaultDecisions = 100;
const maxDecisions = 1_000;

/** What one pool shows under a path; `rest` and `query` as in AdminRoute. */
type PoolView = (
  pool: ServedPool,
  rest: string,
  query: URLSearchParams,
) => { readonly value: unknown; readonly status?: number };

export function adminRoutes(options: AdminRouteOptions): ReadonlyMap<string, AdminRoute> {
  const { metrics, pools, settings, namespace, now } = options;
  const views: readonly (readonly [string, PoolView])[] = [
    ["/debug/endpoints", (pool) => ({ value: endpointsOf(pool, now()) })],
    ["/debug/objects", ({ pool }) => ({ value: describeObjects(pool) })],
    ["/debug/config", ({ configuration }) => ({ value: describeConfiguration(configuration, settings) })],
    ["/debug/plugins", ({ configuration }) => ({ value: describePlugins(configuration.current) })],
    ["/debug/plugins/state", ({ configuration }) => ({ value: pluginStates(configuration.current) })],
    ["/debug/decisions", ({ decisions }, _rest, query) => listDecisions(decisions, undefined, query)],
    ["/debug/decisions/", ({ decisions }, rest, query) => listDecisions(decisions, rest, query)],
    ["/debug/exchanges", (pool) => ({ value: exchangesOf(pool) })],
  ];
  const routes = new Map<string, AdminRoute>([
    ["/metrics", async () => ({ status: 200, contentType: metrics.contentType, body: await metrics.render() })],
    ["/healthz", () => text("ok\n")],
    ["/readyz", () => (options.isReady() ? text("ok\n") : text("not ready\n", 503))],
    ["/debug/pools", () => json(pools.map((pool) => describePool(pool, { settings, namespace, nowMs: now() })))],
    ...views.map(([path, view]) => [path, routeOf(pools, view)] as const),
    ...leaderRoutes(options.leadership),
    ...peerRoutes(options.peers),
    ...options.profiles,
  ]);
  const index = [...routes.keys()].map((path) => (path.endsWith("/") ? `${path}{request-id}` : path));
  routes.set("/debug", () => text(`${index.join("\n")}\n`));
  return routes;
}

function routeOf(pools: readonly ServedPool[], view: PoolView): AdminRoute {
  return (rest, query) => {
    const wanted = query.get("pool");
    const asked = wanted === null ? pools : pools.filter(({ name }) => name === wanted);
    const [only, ...others] = asked;
    if (only === undefined) return json({ error: `no pool ${JSON.stringify(wanted)} is served here` }, 404);
    if (others.length === 0) {
      const { value, status = 200 } = view(only, rest, query);
      return json(value, status);
    }
    const answers = asked.map((pool) => [pool.name, view(pool, rest, query)] as const);
    // What one of them has is an answer, although another has it not.
    const statuses = answers.map(([, { status = 200 }]) => status);
    const values = Object.fromEntries(answers.map(([name, { value }]) => [name, value]));
    return json(values, Math.min(...statuses));
  };
}

function endpointsOf({ pool, store }: ServedPool, nowMs: number): readonly object[] {
  const scrapes = Map.groupBy(pool.scrapeStatus(), ({ endpoint }) => endpoint);
  const discovery = pool.kubernetes?.age(nowMs);
  return store.snapshot().map((endpoint) => ({
    ...describeEndpoint(endpoint, nowMs),
    ...(discovery === undefined ? {} : { discovery }),
    scrapes: scrapes.get(endpoint.name) ?? [],
  }));
}

function exchangesOf({ pipeline, serving }: ServedPool): object {
  return {
    open: pipeline.openExchanges,
    pending: pipeline.pendingDecisions,
    reaped: pipeline.reapedExchanges,
    streams: serving.streams(),
  };
}

function leaderRoutes(leadership: AdminRouteOptions["leadership"]): readonly (readonly [string, AdminRoute])[] {
  return leadership === undefined ? [] : [["/debug/leader", () => json(leadership.describe())]];
}

function peerRoutes(peers: AdminRouteOptions["peers"]): readonly (readonly [string, AdminRoute])[] {
  return peers === undefined ? [] : [["/debug/peers", () => json(peers.state())]];
}

function listDecisions(
  decisions: DecisionLog,
  requestId: string | undefined,
  query: URLSearchParams,
): ReturnType<PoolView> {
  const limit = limitOf(query.get("limit"));
  if (limit === undefined) {
    return { value: { error: `limit must be a whole number from 1 to ${maxDecisions}` }, status: 400 };
  }
  const found = decisions.list(limit, requestId);
  return found.length === 0 && requestId !== undefined
    ? { value: { error: `no decision is kept for ${requestId}` }, status: 404 }
    : { value: found };
}

function limitOf(given: string | null): number | undefined {
  if (given === null) return defaultDecisions;
  const limit = /^\d{1,4}$/.test(given) ? Number(given) : 0;
  return limit >= 1 && limit <= maxDecisions ? limit : undefined;
}
