/** The other replicas of this picker: found by flags, told what every pool here has in flight and has learnt, and counted in its decisions. */
import { readFile } from "node:fs/promises";
import type { EppSettings } from "../commands/epp-flags.ts";
import { ConfigError } from "../config/complete-config.ts";
import { createListedPeers, type PeerName, type PeerSource, parsePeer } from "../data/peers/peer-addresses.ts";
import { PeerExchange } from "../data/peers/peer-exchange.ts";
import { PeerSecret } from "../data/peers/peer-secret.ts";
import { createServicePeers } from "../data/peers/peer-slices.ts";
import { SharedLoad } from "../data/peers/shared-load.ts";
import type { SharedState } from "../data/shared-state.ts";
import type { EndpointStoreView } from "../data/store-view.ts";
import { statKeys, watchFiles } from "../data/watch/file-watch.ts";
import { createKubernetesApi } from "../net/kubernetes/api-client.ts";
import { findCredentials } from "../net/kubernetes/credentials.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Configuration } from "./configuration.ts";
import type { Environment } from "./metrics-port.ts";

export interface Peers {
  readonly port: number;
  /** For /debug/peers. */
  state(): unknown;
  close(): Promise<void>;
}

export interface PeersOptions {
  readonly settings: Pick<EppSettings, "bind-address" | "peers" | "peer-service" | "peer-port" | "peer-secret-file">;
  /** Of the pools and of the peers' Service. */
  readonly namespace: string;
  readonly environment: Environment;
  readonly pools: readonly SharedPool[];
  readonly metrics: Pick<Metrics, "families" | "onCollect">;
  readonly log: Logger;
  readonly now: () => number;
}

/** A pool as its replicas share it. */
export interface SharedPool {
  readonly name: string;
  readonly store: EndpointStoreView;
  readonly configuration: Pick<Configuration, "current" | "onSwap">;
}

/** Undefined where no flag says that there are any. Throws ConfigError, or the system's error about the port. */
export async function startPeers(options: PeersOptions): Promise<Peers | undefined> {
  const { settings, namespace, pools, log, now } = options;
  if (settings.peers.length === 0 && settings["peer-service"] === "") return undefined;
  const secret = await startSecret(settings["peer-secret-file"], log);
  const found = sourceOf(options);
  const exchange = new PeerExchange({
    host: settings["bind-address"],
    port: settings["peer-port"],
    scope: `${namespace}/${pools.map(({ name }) => name).join(",")}`,
    source: found.source,
    secret: secret?.secret,
    log,
    now,
    random: Math.random,
  });
  const close = async (): Promise<void> => {
    await exchange.close();
    await secret?.close();
    await found.close();
  };
  for (const pool of pools) sharePool(exchange, pool);
  watchPeerMetrics(options.metrics, exchange);
  try {
    await exchange.start();
  } catch (error) {
    await close();
    throw error;
  }
  log.info({ port: exchange.port, heard: exchange.heard, secured: secret !== undefined }, "replicas share their state");
  return { port: exchange.port, state: () => exchange.state(), close };
}

function sharePool(exchange: PeerExchange, { name, store, configuration }: SharedPool): void {
  const load = new SharedLoad(store);
  const share = (): void => exchange.share(name, [load, ...statesOf(configuration)]);
  share();
  configuration.onSwap(share);
}

/** What the plugins of a configuration have to share. */
function statesOf({ current }: Pick<Configuration, "current">): readonly SharedState[] {
  const states: SharedState[] = [];
  for (const { plugin } of current.instances.values()) {
    if (typeof plugin !== "object" || plugin === null || !("shared" in plugin)) continue;
    if (isSharedState(plugin.shared)) states.push(plugin.shared);
  }
  return states;
}

function isSharedState(value: unknown): value is SharedState {
  return typeof value === "object" && value !== null && "topic" in value && "shareWith" in value && "apply" in value;
}

function sourceOf({ settings, namespace, environment, log }: PeersOptions): {
  readonly source: PeerSource;
  close(): Promise<void>;
} {
  const port = settings["peer-port"];
  if (settings["peer-service"] === "") {
    const names = settings.peers
      .map((text) => parsePeer(text, port))
      .filter((peer): peer is PeerName => "host" in peer);
    return { source: createListedPeers({ names }), close: () => Promise.resolve() };
  }
  const credentials = findCredentials(environment, environment["SIGNALBOX_SERVICE_ACCOUNT_FOLDER"]);
  if (credentials === undefined) {
    throw new ConfigError("--peer-service", [
      "there is no way to Kubernetes: no KUBECONFIG, no service account in a pod, no ~/.kube/config",
    ]);
  }
  // A client of its own: who the peers are must not wait behind lists of pods.
  const api = createKubernetesApi(credentials);
  const podIp = environment["POD_IP"];
  const own = podIp === undefined || podIp === "" ? {} : { own: new Set([podIp]) };
  const source = createServicePeers({ api, namespace, service: settings["peer-service"], port, log, ...own });
  return { source, close: () => api.close() };
}

/** The secret of a file, followed as it changes: a bad edit changes nothing. */
async function startSecret(
  file: string,
  log: Logger,
): Promise<{ readonly secret: PeerSecret; close(): Promise<void> } | undefined> {
  if (file === "") return undefined;
  const seen = await statKeys([file]);
  const secret = await readFile(file, "utf8")
    .then((text) => new PeerSecret(text))
    .catch((error: unknown) => {
      throw new ConfigError("--peer-secret-file", [
        `${file}: ${error instanceof Error ? error.message : String(error)}`,
      ]);
    });
  const watch = watchFiles([file], seen, async () => {
    try {
      secret.replace(await readFile(file, "utf8"));
      log.info({ file }, "the secret of the replicas was read anew");
    } catch (error) {
      log.error({ error, file }, "the new secret of the replicas cannot be used; the one before stays");
    }
  });
  return { secret, close: () => watch.close() };
}

function watchPeerMetrics({ families, onCollect }: PeersOptions["metrics"], exchange: PeerExchange): void {
  onCollect(() => {
    const { counters, heard, listening } = exchange;
    families.peersConnected.series("heard").set(heard);
    families.peersConnected.series("listening").set(listening.peers);
    families.peerLag.series().set(listening.lagBytes);
    families.peerBytes.series("sent").set(counters.sentBytes);
    families.peerBytes.series("heard").set(counters.heardBytes);
    families.peerEvents.series("changes-sent").set(counters.sentChanges);
    families.peerEvents.series("changes-heard").set(counters.heardChanges);
    for (const what of peerEventKinds) families.peerEvents.series(what.label).set(counters[what.counter]);
  });
}

const peerEventKinds = [
  { label: "snapshot", counter: "snapshots" },
  { label: "resumed", counter: "resumed" },
  { label: "overrun", counter: "overrun" },
  { label: "silent", counter: "silent" },
  { label: "refused", counter: "refused" },
  { label: "unknown-topic", counter: "unknownTopic" },
  { label: "malformed", counter: "malformed" },
  { label: "too-long", counter: "tooLong" },
] as const;
