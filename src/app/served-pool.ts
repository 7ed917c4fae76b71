/**
 * Everything one pool has for itself: endpoints, configuration instances, pipeline, metrics and an ext-proc port. Several of them live in one
 * process and share what knows nothing of pools: the API server's client and watches, tracing, health and metrics ports.
 */
import { DecisionLog } from "../admin/decision-log.ts";
import type { EppSettings } from "../commands/epp-flags.ts";
import type { PoolChoice } from "../commands/pool-names.ts";
import { createEndpointStore, type EndpointStore } from "../data/endpoint-store.ts";
import { createSheddingAdmission } from "../flow-control/admission.ts";
import type { SaturationDetector } from "../flow-control/saturation.ts";
import type { EventRecorder } from "../net/kubernetes/event-recorder.ts";
import type { DecisionSink } from "../pipeline/decision-sink.ts";
import { bothSinks } from "../pipeline/decision-sinks.ts";
import { createPipeline, type RunningPipeline } from "../pipeline/pipeline.ts";
import { processTimers } from "../pipeline/production.ts";
import { createDecisionSpans } from "../pipeline/request-spans.ts";
import { createRoute } from "../routing/route.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Tracing } from "../telemetry/tracing.ts";
import { Configuration } from "./configuration.ts";
import { createDynamoMetrics } from "./dynamo-metrics.ts";
import type { HealthStatus } from "./health.ts";
import { deploymentName, type Kubernetes } from "./kubernetes.ts";
import type { Environment } from "./metrics-port.ts";
import { createPluginGauges } from "./plugin-gauges.ts";
import { createPluginRegistry } from "./plugins.ts";
import { type Pool, startPool } from "./pool.ts";
import { createPoolEvents, type PoolEvents, subjectOf } from "./pool-events.ts";
import { watchPoolGauges } from "./pool-gauges.ts";
import { type Serving, startServing } from "./serving.ts";

export interface ServedPool {
  /** "" where it has none. */
  readonly name: string;
  readonly metrics: Metrics;
  readonly store: EndpointStore;
  readonly configuration: Configuration;
  readonly pool: Pool;
  readonly pipeline: RunningPipeline;
  readonly decisions: DecisionLog;
  readonly serving: Serving;
}

/** What all pools of the process have in common. */
export interface PoolSurroundings {
  readonly settings: EppSettings;
  readonly log: Logger;
  /** Namespace of the pools. */
  readonly namespace: string;
  readonly environment: Environment;
  readonly configurationSource: string | undefined;
  readonly tracing: Tracing | undefined;
  /** Made when the first pool that needs it asks; throws DiscoveryError. */
  readonly kubernetes: () => Kubernetes;
  /** Undefined where Events are not written. */
  readonly recorder: () => EventRecorder | undefined;
  /** Another replica speaks for the pools otherwise. */
  readonly isSpeaking: () => boolean;
  /** For health checks on a pool's own port. */
  readonly health: HealthStatus;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** An exchange open longer than this has lost its front door; the count stays 0 in a healthy process. */
const exchangeMaxAgeMs = 6 * 3_600_000;

/** Resolves once its port is bound; what it has begun goes onto the stack, also when it throws. */
export async function startServedPool(
  surroundings: PoolSurroundings,
  { name, grpcPort }: PoolChoice,
  metrics: Metrics,
  log: Logger,
  stack: (() => Promise<void>)[],
): Promise<ServedPool> {
  const { settings, namespace, tracing, health, now } = surroundings;
  const store = createEndpointStore(log);
  let events: PoolEvents | undefined;
  const configuration = await startConfiguration(surroundings, store, log, (outcome, faults) => {
    metrics.families.configReloads.series(outcome).add(1);
    events?.configurationReloaded(outcome, faults);
  });
  stack.push(() => configuration.close());
  const pool = await startPool({
    settings,
    name,
    namespace,
    store,
    configuration,
    kubernetes: surroundings.kubernetes,
    metrics,
    log,
    now,
  });
  stack.push(() => pool.close());
  watchPoolGauges({
    metrics,
    store,
    poolName: name === "" && pool.kubernetes !== undefined ? deploymentName(surroundings.environment) : name,
    stalenessMs: settings["metrics-staleness-threshold"],
    scrapeIntervalMs: () => pool.scrapeIntervalMs(),
    discovery: pool.kubernetes,
    now,
  });

  const decisions = new DecisionLog(settings["decision-log-size"], (atMs) => Date.now() - (now() - atMs));
  const pipeline = composePipeline(surroundings, configuration, pool, metrics, log, {
    decisions: withSpans(decisions, tracing, configuration, now),
    unknownObjective: (objective) => events?.unknownObjective(objective),
  });
  stack.push(() => pipeline.close());
  const reaper = setInterval(() => pipeline.reap(exchangeMaxAgeMs), 60_000);
  reaper.unref();
  stack.push(() => Promise.resolve(clearInterval(reaper)));
  watchInstances(configuration, metrics, store, pipeline);
  configuration.onSwap((_loaded, previous) => pipeline.drained(previous.plan));

  events = startEvents(surroundings, name, pool);
  if (events !== undefined) stack.push(() => Promise.resolve(events?.close()));
  const serving = await startServing({ settings, grpcPort, log, metrics, configuration, pipeline, tracing, health });
  stack.push(() => serving.close());
  return { name, metrics, store, configuration, pool, pipeline, decisions, serving };
}

function startConfiguration(
  { settings, environment, configurationSource, now }: PoolSurroundings,
  store: EndpointStore,
  log: Logger,
  reloaded: (outcome: "applied" | "rejected", faults: readonly string[]) => void,
): Promise<Configuration> {
  const pluginEnvironment = withFlags(environment, settings);
  let configuration: Configuration | undefined;
  return Configuration.start({
    file: settings["config-file"] === "" ? undefined : settings["config-file"],
    text: settings["config-text"] === "" ? undefined : settings["config-text"],
    source: configurationSource,
    registry: createPluginRegistry(),
    contextFor: (name, plugin) => ({
      name,
      log: log.child({ plugin: name }),
      endpoints: store,
      environment: pluginEnvironment,
      plugin,
      now,
      random: Math.random,
    }),
    log,
    onReload: (outcome) => reloaded(outcome, configuration?.state.faults ?? []),
  }).then((started) => {
    configuration = started;
    return started;
  });
}

/** Plugins that take their settings from the environment find there what flags say of them. */
function withFlags(environment: Environment, settings: EppSettings): Environment {
  const frontends = settings["dynamo-frontend"];
  return {
    ...environment,
    ...(settings["dynamo-legacy-headers"] ? { DYN_EPP_LEGACY_HEADERS: "true" } : {}),
    ...(frontends.length > 0 ? { DYN_EPP_FRONTENDS: frontends.join(",") } : {}),
  };
}

/** Traced requests tell their spans of the decision as well. */
function withSpans(
  decisions: DecisionLog,
  tracing: Tracing | undefined,
  configuration: Configuration,
  now: () => number,
): DecisionSink {
  if (tracing === undefined) return decisions;
  const typeOf = (plugin: string): string => configuration.current.instances.get(plugin)?.entry.type ?? plugin;
  return bothSinks(decisions, createDecisionSpans({ now, typeOf }));
}

function composePipeline(
  { settings, now }: PoolSurroundings,
  configuration: Configuration,
  pool: Pool,
  metrics: Metrics,
  log: Logger,
  told: { readonly decisions: DecisionSink; readonly unknownObjective: (name: string) => void },
): RunningPipeline {
  const { decisions, unknownObjective } = told;
  const detector = (): SaturationDetector =>
    configuration.lookup(configuration.current.config.saturationDetector) as SaturationDetector;
  return createPipeline({
    plan: () => configuration.plan,
    endpoints: pool.store,
    route: createRoute({ objects: pool.objects, random: Math.random, metrics: metrics.requests, unknownObjective }),
    admission: createSheddingAdmission({ detector, now }),
    metrics: metrics.requests,
    decisions,
    log,
    timers: processTimers,
    now,
    random: Math.random,
    noteTraffic: pool.noteTraffic,
    staleAfterMs: settings["metrics-staleness-threshold"],
    filterSubset: !settings["disable-endpoint-subset-filter"],
    emitEndpointScores: settings["emit-endpoint-scores"],
  });
}

function watchInstances(
  configuration: Configuration,
  metrics: Metrics,
  store: EndpointStore,
  pipeline: RunningPipeline,
): void {
  const instances = () => configuration.current.instances;
  for (const gauges of [
    createPluginGauges({ metrics, store, pipeline, instances }),
    createDynamoMetrics({ metrics, instances }),
  ]) {
    gauges.watchInstances();
    configuration.onSwap(() => gauges.watchInstances());
  }
}

function startEvents(surroundings: PoolSurroundings, poolName: string, pool: Pool): PoolEvents | undefined {
  if (pool.kubernetes === undefined) return undefined;
  const { settings, environment, isSpeaking, now } = surroundings;
  const kubernetes = surroundings.kubernetes();
  const recorder = surroundings.recorder();
  const { context } = kubernetes;
  const about = subjectOf({ poolName, poolGroup: settings["pool-group"], environment, context });
  if (recorder === undefined || about === undefined) return undefined;
  return createPoolEvents({
    recorder,
    about,
    isSpeaking,
    view: () => ({
      endpoints: pool.store.snapshot().length,
      readiness: pool.readiness(),
      faults: pool.objectSource.faults(),
    }),
    now,
  });
}
