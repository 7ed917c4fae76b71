/** The gRPC health port of one process: jointly for all its pools, and each by its own name. Liveness says only that the process answers. */
import { createHealthServer, type ServingStatus } from "../net/grpc/health.ts";
import type { Logger } from "../telemetry/log.ts";

export interface Health {
  readonly port: number;
  /** Tells watchers to look again. */
  readinessChanged(): void;
  close(): Promise<void>;
}

/** By the name that is asked for. */
export type HealthStatus = (service: string) => ServingStatus;

export interface HealthOptions {
  readonly host: string;
  readonly port: number;
  readonly log: Logger;
  readonly status: HealthStatus;
  /** Named ones. */
  readonly pools: readonly string[];
}

/** Envoy's name of what the ext-proc port serves. */
export const extProcService = "envoy.service.ext_proc.v3.ExternalProcessor";
/** Any other name is answered as these are: whoever asks means this process. */
const jointServices = ["", "liveness", "readiness", "inference-extension", extProcService] as const;
const poolPrefix = "inference-extension/";

export function healthStatusOf({
  pools,
  isReady,
}: {
  readonly pools: readonly string[];
  /** Of the whole process; a pool's name: of that pool alone. */
  readonly isReady: (pool?: string) => boolean;
}): HealthStatus {
  return (service) => {
    if (service === "liveness") return "SERVING";
    if (!service.startsWith(poolPrefix)) return isReady() ? "SERVING" : "NOT_SERVING";
    const pool = service.slice(poolPrefix.length);
    if (!pools.includes(pool)) return "SERVICE_UNKNOWN";
    return isReady(pool) ? "SERVING" : "NOT_SERVING";
  };
}

/** Resolves once bound. */
export async function startHealth(options: HealthOptions): Promise<Health> {
  const { host, port, log, status, pools } = options;
  const server = await createHealthServer({
    host,
    port,
    status,
    services: () => [...jointServices, ...pools.map((pool) => poolPrefix + pool)],
    onError: (error) => log.error({ error }, "the health port failed"),
  }).catch((error: unknown) => {
    throw new Error(`port ${port} (--grpc-health-port) cannot be bound`, { cause: error });
  });
  return {
    port: server.port,
    readinessChanged: () => server.notify(),
    close: () => server.close(),
  };
}
