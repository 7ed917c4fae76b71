/**
 * Composition root of the endpoint picker: settings → a running process. Everything with a lifetime goes onto one stack and is closed in
 * reverse order of its start.
 */
import { DecisionLog } from "../admin/decision-log.ts";
import { createProfiler } from "../admin/profiler.ts";
import type { EppSettings } from "../commands/epp-flags.ts";
import { createEndpointStore } from "../data/endpoint-store.ts";
import { createSheddingAdmission } from "../flow-control/admission.ts";
import type { SaturationDetector } from "../flow-control/saturation.ts";
import { resolveBindAddress } from "../net/bind-address.ts";
import type { DecisionSink } from "../pipeline/decision-sink.ts";
import { bothSinks } from "../pipeline/decision-sinks.ts";
import { createPipeline, type RunningPipeline } from "../pipeline/pipeline.ts";
import { processTimers } from "../pipeline/production.ts";
import { createDecisionSpans } from "../pipeline/request-spans.ts";
import { createRoute } from "../routing/route.ts";
import type { Logger } from "../telemetry/log.ts";
import { createMetrics, type Metrics } from "../telemetry/metrics.ts";
import { createTracing, type Tracing } from "../telemetry/tracing.ts";
import { adminRoutes } from "./admin-routes.ts";
import { tuneCollector } from "./collector.ts";
import { Configuration } from "./configuration.ts";
import { createDynamoMetrics } from "./dynamo-metrics.ts";
import { createKubernetes } from "./kubernetes.ts";
import { createLeadership } from "./leadership.ts";
import { type Environment, startMetricsPort } from "./metrics-port.ts";
import { createPluginGauges } from "./plugin-gauges.ts";
import { createPluginRegistry } from "./plugins.ts";
import { isInKubernetes, startPool } from "./pool.ts";
import { createEventRecorder, createPoolEvents, type PoolEvents, subjectOf } from "./pool-events.ts";
import { watchPoolGauges } from "./pool-gauges.ts";
import { startServing } from "./serving.ts";
import type { UnexpectedErrorKind } from "./unexpected-errors.ts";

export interface RunningEpp {
  readonly grpcPort: number;
  readonly healthPort: number;
  readonly metricsPort: number;
  /** For the process that runs it: an error that nobody caught is counted. */
  noteUnexpectedError(kind: UnexpectedErrorKind): void;
  /** Readiness off, everything served on for the drain time-out, then release and wait for what runs; resolves when nothing is left. */
  drain(): Promise<void>;
  /** Ends everything now. Idempotent. */
  close(): Promise<void>;
}

export interface EppOptions {
  readonly settings: EppSettings;
  readonly log: Logger;
  readonly version: string;
  /** Namespace of the pool, resolved from flag and environment. */
  readonly namespace: string;
  /** Names of the flags that were given; default: none. */
  readonly given?: ReadonlySet<string>;
  /** Where the text of the configuration is from, for messages; default: the flag. */
  readonly configurationSource?: string;
  /** Where Kubernetes and OpenTelemetry leave their settings; default: nothing is set. */
  readonly environment?: Environment;
}

const now = (): number => performance.now();
/** An exchange open longer than this has lost its front door; the count stays 0 in a healthy process. */
const exchangeMaxAgeMs = 6 * 3_600_000;
/** How soon watchers of the health service hear that a plugin became fit to decide. */
const readinessLookMs = 100;

/** Resolves once every port is bound and the first endpoint list is in. Throws ConfigError, DiscoveryError, or the system's error with the port it was about. */
export async function startEpp(options: EppOptions): Promise<RunningEpp> {
  const { log } = options;
  tuneCollector();
  const stack: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (let step = stack.pop(); step !== undefined; step = stack.pop()) await step();
  };
  try {
    const host = await resolveBindAddress(options.settings["bind-address"]);
    return await compose({ ...options, settings: { ...options.settings, "bind-address": host } }, stack, close);
  } catch (error) {
    await close().catch((failure: unknown) => log.error({ error: failure }, "closing after a failed start"));
    throw error;
  }
}

async function compose(
  { settings, log, version, namespace, given = new Set(), environment = {}, configurationSource }: EppOptions,
  stack: (() => Promise<void>)[],
  close: () => Promise<void>,
): Promise<RunningEpp> {
  const metrics = createMetrics({ streamMetrics: settings["enable-grpc-stream-metrics"], version });
  const store = createEndpointStore(log);
  const pluginEnvironment = withFlags(environment, settings);
  let poolEvents: PoolEvents | undefined;
  const configuration = await Configuration.start({
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
    onReload: (outcome) => {
      metrics.families.configReloads.series(outcome).add(1);
      poolEvents?.configurationReloaded(outcome, configuration.state.faults);
    },
  });
  stack.push(() => configuration.close());

  const kubernetes = isInKubernetes(settings, configuration)
    ? createKubernetes({ settings, namespace, environment, log })
    : undefined;
  if (kubernetes !== undefined) stack.push(() => kubernetes.close());
  const pool = await startPool({ settings, namespace, store, configuration, kubernetes, metrics, log, now });
  stack.push(() => pool.close());
  kubernetes?.start();
  watchPoolGauges({
    metrics,
    store,
    poolName: settings["pool-name"],
    stalenessMs: settings["metrics-staleness-threshold"],
    now,
  });

  const tracing = settings.tracing
    ? await createTracing({ environment, version, log, random: Math.random })
    : undefined;
  if (tracing !== undefined) stack.push(() => tracing.close());
  const decisions = new DecisionLog(settings["decision-log-size"], Date.now);
  const sink = withSpans(decisions, tracing, configuration);
  const unknownObjective = (name: string): void => poolEvents?.unknownObjective(name);
  const pipeline = composePipeline(settings, configuration, pool, metrics, sink, log, unknownObjective);
  stack.push(() => pipeline.close());
  const reaper = setInterval(() => pipeline.reap(exchangeMaxAgeMs), 60_000);
  reaper.unref();
  stack.push(() => Promise.resolve(clearInterval(reaper)));
  const instances = () => configuration.current.instances;
  for (const gauges of [
    createPluginGauges({ metrics, store, pipeline, instances }),
    createDynamoMetrics({ metrics, instances }),
  ]) {
    gauges.watchInstances();
    configuration.onSwap(() => gauges.watchInstances());
  }
  configuration.onSwap((_loaded, previous) => pipeline.drained(previous.plan));

  const recorder =
    kubernetes !== undefined && settings["pool-events"]
      ? createEventRecorder({ api: kubernetes.context.api, environment, log })
      : undefined;
  if (recorder !== undefined) stack.push(() => recorder.close());
  let isDraining = false;
  const leadership = settings["ha-enable-leader-election"]
    ? createLeadership({
        poolName: settings["pool-name"],
        namespace,
        environment,
        api: kubernetes?.context.api,
        events: recorder,
        metrics,
        log,
        changed: () => serving.readinessChanged(),
      })
    : undefined;
  if (leadership !== undefined) stack.push(() => leadership.close());
  const isFit = (): boolean => !isDraining && pool.readiness().kind === "ready";
  const isReady = (): boolean => isFit() && (leadership?.isLeading ?? true);
  const serving = await startServing({ settings, log, metrics, configuration, pipeline, tracing, isReady });
  stack.push(() => serving.close());
  const subject =
    kubernetes === undefined ? undefined : subjectOf({ settings, environment, context: kubernetes.context });
  if (recorder !== undefined && subject !== undefined) {
    const events = createPoolEvents({
      recorder,
      about: subject,
      isSpeaking: () => leadership?.isLeading ?? true,
      view: () => ({
        endpoints: store.snapshot().length,
        readiness: pool.readiness(),
        faults: pool.manifestFaults(),
      }),
      now,
    });
    poolEvents = events;
    stack.push(() => Promise.resolve(events.close()));
  }
  let wasReady = isReady();
  const readiness = setInterval(() => {
    // One that cannot serve yet must not lead.
    if (isFit()) leadership?.contend();
    if (wasReady === isReady()) return;
    wasReady = !wasReady;
    serving.readinessChanged();
    log.info({ isReady: wasReady }, "readiness changed");
  }, readinessLookMs);
  readiness.unref();
  stack.push(() => Promise.resolve(clearInterval(readiness)));

  const profiler = settings["enable-pprof"] ? createProfiler() : undefined;
  const profiles = profiler?.routes ?? new Map();
  const admin = await startMetricsPort({
    settings,
    given,
    environment,
    log,
    now,
    routes: adminRoutes({
      settings,
      metrics,
      store,
      pool,
      configuration,
      pipeline,
      serving,
      decisions,
      profiles,
      leadership,
      isReady,
      now,
    }),
  });
  stack.push(() => admin.close());
  if (profiler !== undefined) stack.push(() => profiler.close());
  log.info(
    {
      grpcPort: serving.grpcPort,
      healthPort: serving.healthPort,
      metricsPort: admin.port,
      transport: settings.transport,
      tls: settings["secure-serving"],
      endpoints: store.snapshot().length,
    },
    "the endpoint picker serves",
  );

  return {
    grpcPort: serving.grpcPort,
    healthPort: serving.healthPort,
    metricsPort: admin.port,
    noteUnexpectedError: (kind) => metrics.families.unexpectedErrors.series(kind).add(1),
    async drain() {
      if (isDraining) return;
      isDraining = true;
      serving.readinessChanged();
      log.info({ forMs: settings["drain-timeout"] }, "draining: not ready, serving on");
      const released = leadership?.close();
      await new Promise((resolve) => setTimeout(resolve, settings["drain-timeout"]));
      await released;
      await serving.drain(settings["drain-grace"]);
      await close();
    },
    close,
  };
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
function withSpans(decisions: DecisionLog, tracing: Tracing | undefined, configuration: Configuration): DecisionSink {
  if (tracing === undefined) return decisions;
  const typeOf = (plugin: string): string => configuration.current.instances.get(plugin)?.entry.type ?? plugin;
  return bothSinks(decisions, createDecisionSpans({ now, typeOf }));
}

function composePipeline(
  settings: EppSettings,
  configuration: Configuration,
  pool: Awaited<ReturnType<typeof startPool>>,
  metrics: Metrics,
  decisions: DecisionSink,
  log: Logger,
  unknownObjective: (name: string) => void,
): RunningPipeline {
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
