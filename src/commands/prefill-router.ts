/** `signalbox prefill-router`: the router alone, as an HTTP service with the routes of Dynamo's select service. */
import { startPrefillRouterService } from "../app/prefill-router-service/start-service.ts";
import { readFleetSettings } from "../prefill-router/fleet/fleet-settings.ts";
import { faultWithoutCards } from "../prefill-router/settings/settings-check.ts";
import { createLogger, levelOfVerbosity } from "../telemetry/logger.ts";
import { defineCommand, exitCode } from "./command.ts";
import { faultsOfPrefillRouterFlags, prefillRouterFlags, routerParametersOf } from "./prefill-router-flags.ts";

function firstSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let isStopping = false;
    const stop = (signal: NodeJS.Signals): void => {
      if (isStopping) process.exit(exitCode.failed);
      isStopping = true;
      resolve(signal);
    };
    process.on("SIGTERM", stop);
    process.on("SIGINT", stop);
  });
}

export const prefillRouter = defineCommand({
  name: "prefill-router",
  summary: "the router alone, as an HTTP service: workers, selections and reservations for routers of your own",
  description: [
    "Chooses a worker for each prompt and keeps the books, with the routes, bodies and statuses of Dynamo's select service; it never sends a request to a worker itself. Workers are registered by POST /workers; their engines' KV events are heard at the endpoints they name. docs/prefill-router.md shows every route.",
    "",
    "How it chooses is set by Dynamo's variables: DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT, DYN_ROUTER_TEMPERATURE, DYN_ROUTER_QUEUE_THRESHOLD, DYN_ROUTER_USE_KV_EVENTS, DYN_ROUTER_POLICY_CONFIG and the others that docs/prefill-router.md lists.",
    "",
    "SIGTERM and SIGINT drain: no new connections, what waits in a queue is refused, what is being answered is answered. A second signal ends the process at once.",
  ].join("\n"),
  examples: [
    "signalbox prefill-router --port 8092",
    "signalbox prefill-router --replica-sync-port 9092 --replica-sync-peers tcp://10.0.0.2:9092 --indexer-peers http://10.0.0.2:8092",
    `curl localhost:8092/workers -H 'content-type: application/json' -d '{"worker_id":1,"endpoint":"http://10.0.0.7:8000","block_size":16,"kv_events_endpoint":"tcp://10.0.0.7:5557"}'`,
  ],
  flags: prefillRouterFlags,
  validate: faultsOfPrefillRouterFlags,
  async run(settings, given, warnings) {
    const isPretty = settings["log-format"] === "pretty" || (settings["log-format"] === "" && process.stderr.isTTY);
    const log = createLogger({ level: levelOfVerbosity(settings.v), format: isPretty ? "pretty" : "json" });
    const read = readFleetSettings(process.env, routerParametersOf(settings, given));
    for (const warning of [...warnings, ...read.warnings]) log.warn({}, warning);
    const uncarded = faultWithoutCards(read.settings.config);
    const faults = uncarded === undefined ? read.faults : [...read.faults, uncarded];
    if (faults.length > 0) {
      for (const fault of faults) process.stderr.write(`signalbox prefill-router: ${fault}\n`);
      return exitCode.usage;
    }
    const stopped = firstSignal();
    let running: Awaited<ReturnType<typeof startPrefillRouterService>>;
    try {
      running = await startPrefillRouterService({
        host: settings.host,
        port: settings.port,
        settings: read.settings,
        pending: {
          ttlMs: settings["selection-cache-ttl-secs"] * 1000,
          maxEntries: settings["selection-cache-max-entries"],
          maxBytes: settings["selection-cache-max-bytes"],
        },
        indexerPeers: settings["indexer-peers"],
        replicaPort: settings["replica-sync-port"] < 0 ? undefined : settings["replica-sync-port"],
        replicaPeers: settings["replica-sync-peers"],
        log,
      });
    } catch (error) {
      process.stderr.write(`signalbox prefill-router: ${error instanceof Error ? error.message : String(error)}\n`);
      return exitCode.failed;
    }
    const { port, replicaPort } = running;
    log.info({ port, replicaPort }, "the prefill router serves");
    log.info({ signal: await stopped }, "stopping");
    await running.close(settings["drain-timeout"]);
    log.info({}, "stopped");
    return exitCode.ok;
  },
});
