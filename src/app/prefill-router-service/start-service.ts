/** Composes the prefill router's service: settings, books, index, peers and port; and ends them in reverse. */
import type { FleetSettings } from "../../prefill-router/fleet/fleet-settings.ts";
import type { PendingBounds } from "../../prefill-router/service/pending-selections.ts";
import { recoverFromPeers } from "../../prefill-router/service/recovery.ts";
import { type ReplicaMesh, startReplicaMesh } from "../../prefill-router/service/replica-mesh.ts";
import { Replicas } from "../../prefill-router/service/replicas.ts";
import { createRoutes } from "../../prefill-router/service/routes.ts";
import { SelectionService } from "../../prefill-router/service/selection-service.ts";
import type { Logger } from "../../telemetry/log.ts";
import { createTokenHasher } from "../../tokens/block-hash.ts";
import { startServiceServer } from "./http-server.ts";
import { createServiceMetrics } from "./service-metrics.ts";

export interface ServiceOptions {
  readonly host: string;
  readonly port: number;
  readonly settings: FleetSettings;
  readonly pending: PendingBounds;
  readonly indexerPeers: readonly string[];
  /** Undefined: no replica sync. 0 picks a free port. */
  readonly replicaPort: number | undefined;
  readonly replicaPeers: readonly string[];
  readonly log: Logger;
  readonly now?: () => number;
  readonly random?: () => number;
}

export interface RunningService {
  readonly port: number;
  readonly replicaPort: number | undefined;
  /** Answers what is being asked, at most for the grace, then ends everything. */
  close(graceMs?: number): Promise<void>;
}

const defaultGraceMs = 5_000;

/** Resolves once it serves, with the peers' blocks taken over. */
export async function startPrefillRouterService(options: ServiceOptions): Promise<RunningService> {
  const { settings, log, now = () => performance.now(), random = Math.random } = options;
  const stopping = new AbortController();
  let mesh: ReplicaMesh | undefined;
  const service = new SelectionService({
    settings,
    hasher: createTokenHasher(),
    log,
    now,
    random,
    pending: options.pending,
    partitionMade: (partition) => {
      if (options.replicaPort !== undefined) replicas.follow(partition);
    },
  });
  const replicas = new Replicas({
    service,
    publish: (event) => mesh?.publish(event),
    expiryMs: settings.config.activeRequestExpirySecs * 1000,
    now,
  });
  const metrics = createServiceMetrics(service, () => mesh);
  try {
    if (options.replicaPort !== undefined) {
      const heard = replicas.heard.bind(replicas);
      mesh = await startReplicaMesh({ port: options.replicaPort, peers: options.replicaPeers, log, heard });
    }
    await recoverFromPeers({ service, peers: options.indexerPeers, log, signal: stopping.signal });
    const server = await startServiceServer({
      host: options.host,
      port: options.port,
      routes: createRoutes({ service, peers: mesh, metrics: () => metrics.render() }),
      onError: (error) => log.error({ error }, "a request could not be answered"),
      answered: (route, status, seconds) => metrics.answered(route, status, seconds),
    });
    return {
      port: server.port,
      replicaPort: mesh?.port,
      async close(graceMs = defaultGraceMs) {
        stopping.abort();
        replicas.close();
        const closed = server.close(graceMs);
        // What waits in a queue is refused now, and its answer still goes out.
        await service.close();
        await closed;
        await mesh?.close();
      },
    };
  } catch (error) {
    await service.close();
    await mesh?.close();
    throw error;
  }
}
