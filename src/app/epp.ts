/**
 * Composition root of the endpoint picker: settings → a running process. Everything with a lifetime goes onto one stack and is closed in
 * reverse order of its start.
 */
import { createProfiler } from "../admin/profiler.ts";
import type { EppSettings } from "../commands/epp-flags.ts";
import { parsePoolNames } from "../commands/pool-names.ts";
import { resolveBindAddress } from "../net/bind-address.ts";
import type { EventRecorder } from "../net/kubernetes/event-recorder.ts";
import type { Logger } from "../telemetry/log.ts";
import { createMetrics } from "../telemetry/metrics.ts";
import { createTracing } from "../telemetry/tracing.ts";
import { adminRoutes } from "./admin-routes.ts";
import { boundHeapGrowth, tuneCollector } from "./collector.ts";
import { type Health, type HealthStatus, healthStatusOf, startHealth } from "./health.ts";
import { createKubernetes, type Kubernetes } from "./kubernetes.ts";
import { createLeadership, type Leadership } from "./leadership.ts";
import { type Environment, startMetricsPort } from "./metrics-port.ts";
import { startPeers } from "./peers.ts";
import { createEventRecorder } from "./pool-events.ts";
import { jointReadiness, type PoolReadiness } from "./pool-readiness.ts";
import { watchReadiness } from "./readiness-watch.ts";
import { type PoolSurroundings, type ServedPool, startServedPool } from "./served-pool.ts";
import type { UnexpectedErrorKind } from "./unexpected-errors.ts";

export interface RunningEpp {
  /** Of the first pool. */
  readonly grpcPort: number;
  readonly pools: readonly { readonly name: string; readonly grpcPort: number }[];
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

/** What the process has begun, in order; closed from its end. */
type Stack = (() => Promise<void>)[];

const now = (): number => performance.now();
/** How soon watchers of the health service hear that a plugin became fit to decide. */
const readinessLookMs = 100;

/** Resolves once every port is bound and the first endpoint list is in; Kubernetes is not waited for. Throws ConfigError, DiscoveryError, or the system's error with the port it was about. */
export async function startEpp(options: EppOptions): Promise<RunningEpp> {
  const { log } = options;
  tuneCollector();
  const heapGrowth = boundHeapGrowth();
  const stack: Stack = [() => heapGrowth.close()];
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

async function compose(options: EppOptions, stack: Stack, close: () => Promise<void>): Promise<RunningEpp> {
  const { settings, log, version, namespace, given = new Set(), environment = {} } = options;
  const metrics = createMetrics({ streamMetrics: settings["enable-grpc-stream-metrics"], version });
  const tracing = settings.tracing
    ? await createTracing({ environment, version, log, random: Math.random })
    : undefined;
  if (tracing !== undefined) stack.push(() => tracing.close());

  const cluster = new Cluster(options, stack);
  let leadership: Leadership | undefined;
  /** Of health checks, as soon as there is something to be fit. */
  let statusOf: HealthStatus = () => "NOT_SERVING";
  const surroundings: PoolSurroundings = {
    settings,
    log,
    namespace,
    environment,
    configurationSource: options.configurationSource,
    tracing,
    kubernetes: () => cluster.demand(),
    recorder: () => cluster.recorder,
    isSpeaking: () => leadership?.isLeading ?? true,
    health: (service) => statusOf(service),
    now,
  };
  const pools: ServedPool[] = [];
  const { pools: choices } = parsePoolNames(settings["pool-name"], settings["grpc-port"]);
  for (const choice of choices) {
    const isAlone = choices.length === 1;
    const poolLog = isAlone ? log : log.child({ pool: choice.name });
    const poolMetrics = isAlone ? metrics : metrics.ofPool(choice.name);
    pools.push(await startServedPool(surroundings, choice, poolMetrics, poolLog, stack));
  }
  cluster.kubernetes?.start();
  const peers = await startPeers({ settings, namespace, environment, pools, metrics, log, now });
  if (peers !== undefined) stack.push(() => peers.close());

  let health: Health | undefined;
  let isDraining = false;
  if (settings["ha-enable-leader-election"]) {
    const elected = createLeadership({
      poolName: choices[0]?.name ?? "",
      namespace,
      environment,
      api: cluster.kubernetes?.context.api,
      events: cluster.recorder,
      metrics,
      log,
      changed: () => health?.readinessChanged(),
    });
    stack.push(() => elected.close());
    leadership = elected;
  }
  const readinessByPool = (): ReadonlyMap<string, PoolReadiness> =>
    new Map(pools.map(({ name, pool }) => [name, pool.readiness()]));
  const fitness = (): PoolReadiness => jointReadiness(readinessByPool());
  const isAnnounced = (): boolean => !isDraining && (leadership?.isLeading ?? true);
  const isReady = (poolName?: string): boolean => {
    if (!isAnnounced()) return false;
    const readiness =
      poolName === undefined ? fitness() : pools.find(({ name }) => name === poolName)?.pool.readiness();
    return readiness?.kind === "ready";
  };
  const names = pools.map(({ name }) => name).filter((name) => name !== "");
  statusOf = healthStatusOf({ isReady, pools: names });
  const announced = await startHealth({
    host: settings["bind-address"],
    port: settings["grpc-health-port"],
    log,
    status: statusOf,
    pools: names,
  });
  stack.push(() => announced.close());
  health = announced;
  const readiness = watchReadiness({
    pools: readinessByPool,
    isReady,
    looked() {
      // One that cannot serve must not lead.
      if (!isDraining && fitness().kind === "ready") leadership?.contend();
      else leadership?.abstain();
    },
    changed: () => announced.readinessChanged(),
    log,
    lookMs: readinessLookMs,
  });
  stack.push(() => readiness.close());

  const profiler = settings["enable-pprof"] ? createProfiler() : undefined;
  const profiles = profiler?.routes ?? new Map();
  const admin = await startMetricsPort({
    settings,
    given,
    environment,
    log,
    now,
    routes: adminRoutes({ settings, namespace, metrics, pools, profiles, leadership, peers, isReady, now }),
  });
  stack.push(() => admin.close());
  if (profiler !== undefined) stack.push(() => profiler.close());

  const ports = pools.map(({ name, serving }) => ({ name, grpcPort: serving.grpcPort }));
  const running = { grpcPort: ports[0]?.grpcPort ?? 0, healthPort: announced.port, metricsPort: admin.port };
  log.info(
    {
      ...running,
      ...(peers === undefined ? {} : { peerPort: peers.port }),
      ...(ports.length > 1 ? { pools: ports } : {}),
      transport: settings.transport,
      tls: settings["secure-serving"],
      endpoints: pools.reduce((sum, { store }) => sum + store.snapshot().length, 0),
    },
    "the endpoint picker serves",
  );
  return {
    ...running,
    pools: ports,
    noteUnexpectedError: (kind) => metrics.families.unexpectedErrors.series(kind).add(1),
    async drain() {
      if (isDraining) return;
      isDraining = true;
      announced.readinessChanged();
      log.info({ forMs: settings["drain-timeout"] }, "draining: not ready, serving on");
      const released = leadership?.close();
      await new Promise((resolve) => setTimeout(resolve, settings["drain-timeout"]));
      await released;
      await Promise.all(pools.map(({ serving }) => serving.drain(settings["drain-grace"])));
      await close();
    },
    close,
  };
}

/** Kubernetes as far as anybody of this process has asked for it. */
class Cluster {
  readonly #options: EppOptions;
  readonly #stack: Stack;
  kubernetes: Kubernetes | undefined;
  /** Undefined where no Events are written. */
  recorder: EventRecorder | undefined;

  constructor(options: EppOptions, stack: Stack) {
    this.#options = options;
    this.#stack = stack;
  }

  /** Throws DiscoveryError where nothing says how to reach an API server. */
  demand(): Kubernetes {
    if (this.kubernetes !== undefined) return this.kubernetes;
    const { settings, namespace, environment = {}, log } = this.#options;
    const kubernetes = createKubernetes({ settings, namespace, environment, log });
    this.#stack.push(() => kubernetes.close());
    this.kubernetes = kubernetes;
    if (settings["pool-events"]) {
      const recorder = createEventRecorder({ api: kubernetes.context.api, environment, log });
      this.#stack.push(() => recorder.close());
      this.recorder = recorder;
    }
    return kubernetes;
  }
}
