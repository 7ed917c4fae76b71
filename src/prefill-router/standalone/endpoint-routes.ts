/**
 * The router over raw engines: every endpoint of the store is a worker of one set, known by its pod's name and by what its engine publishes, and does
 * both stages unless its labels make it a prefill server. Owns the router, the index, the engines' events and the tokenizer, and ends them at close.
 */
import type { MediaSpan } from "../../data/attributes.ts";
import { EndpointFeeds } from "../../data/kv-events/endpoint-feeds.ts";
import type { EventCounters } from "../../data/kv-events/event-counters.ts";
import type { PeerSource } from "../../data/peers/peer-addresses.ts";
import type { Holder } from "../../data/prefix-index/kv-index.ts";
import { mediaByBlock } from "../../data/producers/precise-prefix-cache-media.ts";
import type { TokenBackend } from "../../data/producers/token-backend.ts";
import type { EndpointStoreView } from "../../data/store-view.ts";
import type { Logger } from "../../telemetry/log.ts";
import { createTokenHasher } from "../../tokens/block-hash.ts";
import type { PrefillRouter, WorkerRank } from "../contracts.ts";
import type { FleetSettings } from "../fleet/fleet-settings.ts";
import type { RouteLookup, SetRoute, TokenizeRequest } from "../fleet/route-table.ts";
import { createSetIndex, type IndexSize } from "../fleet/set-index.ts";
import { Suspects } from "../fleet/suspects.ts";
import { type RouterObserver, systemTimers } from "../plan/contracts.ts";
import { createPrefillRouter } from "../plan/prefill-router.ts";
import type { OwnedRoutes, RoutedSet } from "../plugin/dynamo-prefill-router.ts";
import type { WatchedSet } from "../plugin/plan-watcher.ts";
import { hasQueue } from "../policy/policy-class.ts";
import { defaultRoutingGroup as routingGroup } from "../routing-group.ts";
import { createWorkerStage } from "../stage/worker-stage.ts";
import type { EngineParameters } from "./engine-parameters.ts";
import { EngineServers } from "./engine-servers.ts";
import { tokenizeThrough } from "./request-tokenizer.ts";
import { SharedIndex } from "./shared-index.ts";
import { SlotPeers } from "./slot-peers.ts";

export interface EndpointRoutesInit {
  readonly endpoints: EndpointStoreView;
  readonly engines: EngineParameters;
  readonly settings: FleetSettings;
  /** Owned from now on. Undefined: requests have no tokens. */
  readonly tokenizer: TokenBackend | undefined;
  /** Where the other pickers are found, and the port of all; owned from now on. Undefined: there are none. */
  readonly peers?: EnginePeers | undefined;
  readonly log: Logger;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly random: () => number;
  readonly observersOf: (set: WatchedSet) => readonly RouterObserver[];
}

export interface EnginePeers {
  readonly source: PeerSource;
  /** Of what they have running. */
  readonly port: number;
  /** Where they give each other their indices; undefined: they do not. */
  readonly index: { readonly port: number; readonly urls: readonly string[] | undefined } | undefined;
}

const setKey = "endpoints";
/** Distinct blocks of one rank: an engine's own capacity many times over. */
const maxBlocksPerRank = 4_194_304;
/** Longest wait for the past of slow engines. */
const settleWithinMs = 10_000;

export class EndpointRoutes implements OwnedRoutes {
  readonly #init: EndpointRoutesInit;
  readonly #hasher = createTokenHasher();
  readonly #router: PrefillRouter;
  readonly #suspects: Suspects;
  readonly #indexSize: IndexSize | undefined;
  readonly #openFeeds: (() => EndpointFeeds) | undefined;
  readonly #tokenize: TokenizeRequest;
  readonly #peers: SlotPeers | undefined;
  /** Undefined where pickers do not give each other their indices. */
  readonly #shared: SharedIndex | undefined;
  readonly #servers: EngineServers;
  readonly #routes = new Map<string | undefined, SetRoute>();
  readonly runtimes: ReadonlyMap<string, RoutedSet>;
  #feeds: EndpointFeeds | undefined;
  #beganAtMs: number | undefined;
  #wasReady = false;
  #isClosed = false;

  /** Throws where the settings need what the engines' parameters do not say. */
  constructor(init: EndpointRoutesInit) {
    const { engines, settings, endpoints, log, now, random } = init;
    const { modelName, blockSizeTokens: blockSize, totalKvBlocks, maxNumBatchedTokens } = engines;
    this.#init = init;
    this.#tokenize = tokenizeThrough(init.tokenizer);
    const index = createSetIndex(settings.config, random);
    const { conditional } = settings;
    const config = { ...settings.planConfig(modelName, false), conditional, servesWithoutPrefill: true };
    const needsBatchedTokens = config.profile.classes.some(hasQueue);
    if (needsBatchedTokens && maxNumBatchedTokens === undefined) {
      throw new Error(
        "engines.maxNumBatchedTokens: is needed where requests wait for a share of it (routerQueueThreshold)",
      );
    }
    const { busyThresholds, prefillLoad } = settings;
    const shared = { blockSize, busyThresholds, needsBatchedTokens, prefillLoad, now, random };
    const set: WatchedSet = { key: setKey, model: modelName, namespace: "", workers: new Map(), card: undefined };
    const decode = createWorkerStage({ stage: "decode", ...shared });
    this.#router = createPrefillRouter({
      config,
      settingsOf: settings.settingsOf,
      prefill: createWorkerStage({ stage: "prefill", ...shared }),
      decode,
      index: index.router,
      now,
      random,
      timers: systemTimers,
      log,
      observers: init.observersOf(set),
    });
    this.#servers = new EngineServers({
      endpoints,
      limits: { totalKvBlocks, maxNumBatchedTokens },
      prefillSelector: engines.prefillSelector,
      router: this.#router,
      replaced: (id) => this.#suspects.forget(id),
      // The same process that was seen not to listen, whatever is heard of it.
      retold: (id) => {
        if (this.#suspects.isExcluded(id)) this.#router.suspectWorker(id, Number.POSITIVE_INFINITY);
      },
      log,
    });
    this.#suspects = new Suspects({
      addressOf: (id) => this.#servers.endpointOf(id)?.hostPort,
      isDispensable: (id) => this.#servers.hasStandIn(id, (other) => this.#suspects.isExcluded(other)),
      exclude: (id) => {
        log.warn(
          { worker: this.#servers.endpointOf(id)?.name },
          "an engine does not serve: it gets no requests until it listens",
        );
        this.#router.suspectWorker(id, Number.POSITIVE_INFINITY);
      },
      readmit: (id) => this.#router.suspectWorker(id, 0),
    });
    if (init.peers !== undefined) {
      const { source, port } = init.peers;
      this.#peers = new SlotPeers({
        source,
        port,
        found: (addresses) => this.#shared?.found(addresses),
        modelName,
        blockSize,
        stage: decode,
        capacityChanged: () => this.#router.capacityChanged(),
        bookingExpiryMs: config.activeRequestExpiryMs,
        now,
        log,
      });
    }
    const { fed } = index;
    if (fed !== undefined && init.peers?.index !== undefined) {
      this.#shared = new SharedIndex({
        fed,
        peers: init.peers.index,
        modelName,
        blockSize,
        isPrepared: () => endpoints.isSynced,
        ranks: () => this.#ranks(),
        holderOf: ({ workerId, dpRank }) => {
          const endpoint = this.#servers.endpointOf(workerId);
          return endpoint && this.#feeds?.foretell(endpoint, dpRank);
        },
        log,
        now,
        random,
      });
    }
    if (fed !== undefined) {
      this.#openFeeds = () =>
        new EndpointFeeds({
          index: this.#shared?.index ?? fed,
          endpoints,
          blockSize,
          topicFilter: "",
          perEndpoint: { port: engines.kvEventPort, replayPort: engines.kvEventReplayPort, selects: () => true },
          boundEndpoint: undefined,
          maxBlocksPerRank,
          catchesUp: true,
          log,
          now,
          onRank: (endpoint, rank, holder, isThere) =>
            this.#servers.heard(endpoint, rank, isThere ? holder : undefined),
        });
    }
    this.#indexSize = this.#shared?.index ?? index.size;
    this.runtimes = new Map([
      [setKey, { set, router: this.#router, indexSize: this.#indexSize, replicas: this.#peers, ingest: undefined }],
    ]);
  }

  begin(): void {
    if (this.#isClosed || this.#beganAtMs !== undefined) return;
    this.#beganAtMs = this.#init.now();
    this.#servers.begin();
    this.#feeds = this.#openFeeds?.();
    this.#shared?.begin();
    this.#peers?.begin();
  }

  /** Whatever model is asked for: an engine knows its own names, and answers for those that it does not know. */
  find(model: string): RouteLookup {
    if (this.#beganAtMs === undefined) return { kind: "not-ready", reason: "the router has not begun" };
    this.#servers.follow();
    return { kind: "found", route: this.#routeFor(this.#feeds?.adapters.has(model) === true ? model : undefined) };
  }

  suspect(_route: SetRoute, workerId: bigint, isCertain: boolean): void {
    if (this.#servers.endpointOf(workerId) !== undefined) this.#suspects.suspect(workerId, isCertain);
  }

  /** True for good once there is a server and what the engines cached is known or has been asked for long enough. */
  get isReady(): boolean {
    this.#wasReady ||= this.#isSettled();
    return this.#wasReady;
  }

  get engineEvents(): Readonly<EventCounters> | undefined {
    return this.#feeds?.counters;
  }

  state(): Readonly<Record<string, unknown>> {
    const size = this.#indexSize;
    const feeds = this.#feeds;
    return {
      sets: [
        {
          set: setKey,
          isReady: this.isReady,
          suspects: this.#suspects.excluded.map(String),
          index: size && { blocks: size.blocks, heldBlocks: size.heldBlocks, sizeBytes: size.sizeBytes },
          router: this.#router.snapshot(),
          prefillLoad: this.#init.settings.prefillLoad?.state() ?? null,
          replicas: this.#peers?.state() ?? null,
          sharedIndex: this.#shared?.state() ?? null,
          events: feeds && { ...feeds.counters, isReplaying: feeds.isReplaying },
          engines: Object.fromEntries(
            Array.from(this.#servers, ({ id, endpoint }) => [
              endpoint.name,
              { id: id.toString(), blocks: feeds?.blocksOf(endpoint) ?? 0 },
            ]),
          ) as unknown,
        },
      ],
    };
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#servers.close();
    this.#suspects.close();
    this.#router.close();
    await this.#shared?.close();
    await this.#peers?.close();
    await this.#feeds?.close();
    await this.#init.tokenizer?.close();
  }

  #isSettled(): boolean {
    const { endpoints, settings } = this.#init;
    if (this.#beganAtMs === undefined || !endpoints.isSynced) return false;
    if (this.#servers.size < Math.max(1, settings.config.minInitialWorkers)) return false;
    if (this.#shared?.isRecovering === true) return false;
    return this.#feeds?.isReplaying !== true || this.#init.now() - this.#beganAtMs > settleWithinMs;
  }

  /** That have blocks. */
  *#ranks(): IterableIterator<{ readonly rank: WorkerRank; readonly holder: Holder }> {
    for (const { id, endpoint } of this.#servers) {
      for (const [dpRank, holder] of this.#feeds?.ranksOf(endpoint) ?? [])
        yield { rank: { workerId: id, dpRank }, holder };
    }
  }

  #routeFor(loraName: string | undefined): SetRoute {
    let route = this.#routes.get(loraName);
    if (route === undefined) {
      const { modelName, blockSizeTokens: blockSize } = this.#init.engines;
      const track = this.#init.settings.tracking?.of({ modelName, routingGroup, blockSize });
      route = {
        key: setKey,
        namespace: "",
        model: modelName,
        loraName,
        blockSize,
        contextLength: 0,
        tokenize: this.#tokenize,
        router: this.#router,
        isPrefillWorker: (id) => this.#servers.isPrefillServer(id),
        prefillServerOf: (id) => this.#servers.endpointOf(id)?.hostPort,
        hash: (tokens, cacheSalt, media: readonly MediaSpan[] | undefined) => {
          const prompt = { loraName, cacheSalt, mmHashes: mediaByBlock(media, tokens.length, blockSize) };
          return {
            ...this.#hasher.hash(tokens, { blockSize, ...prompt }),
            trackingHashes: track?.(tokens, prompt, false),
          };
        },
      };
      this.#routes.set(loraName, route);
    }
    return route;
  }
}
