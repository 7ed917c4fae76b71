/**
 * Everything that runs for one worker set: its index and the events that feed it, its router, its tokenizer. Made when the set has a card and
 * closed with it; a set whose card changes gets a new one.
 */
import type { DynamoRegistration } from "../../dynamo/discovery/registration.ts";
import type { EventPlane } from "../../dynamo/event-plane/event-plane.ts";
import { parseActiveLoad } from "../../dynamo/kv-events/active-load.ts";
import type { ModelCard } from "../../dynamo/model-card/model-card.ts";
import type { EventChannelRecord, EventScope, InstanceRecord } from "../../dynamo/records.ts";
import type { RequestPlane } from "../../dynamo/request-plane/contracts.ts";
import type { SetWorker, WorkerSet } from "../../dynamo/worker-sets/worker-set.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { TokenHasher } from "../../tokens/block-hash.ts";
import type { PromptTokenizer } from "../../tokens/prompt-tokenizer.ts";
import type { PrefillRouter, Stage } from "../contracts.ts";
import { KvEventIngest } from "../indexer/kv-event-ingest.ts";
import type { RecoveryQuery } from "../indexer/recovery-query.ts";
import { type RouterObserver, systemTimers } from "../plan/contracts.ts";
import { createPrefillRouter } from "../plan/prefill-router.ts";
import { hasQueue } from "../policy/policy-class.ts";
import type { IndexClient } from "../remote-index/index-client.ts";
import type { SetServing } from "../remote-index/set-serving.ts";
import { ReplicaSync } from "../replica-sync/replica-sync.ts";
import { defaultRoutingGroup as routingGroup } from "../routing-group.ts";
import { SharedCaches } from "../shared-cache/shared-caches.ts";
import { createWorkerStage } from "../stage/worker-stage.ts";
import type { WorkerStage } from "../stage.ts";
import { chatOptionsOf } from "./chat-options.ts";
import { type ChannelLookup, EventFeeds } from "./event-feeds.ts";
import type { FleetSettings } from "./fleet-settings.ts";
import { createIndexClient, createIndexFor, createServing, type IndexSharingInit } from "./index-sharing.ts";
import type { AskIndex, SetRoute } from "./route-table.ts";
import { routerWorkerOf } from "./router-worker.ts";
import type { IndexSize } from "./set-index.ts";
import { Suspects } from "./suspects.ts";
import { tokenizeBy } from "./tokenize-request.ts";

export interface SetRuntimeInit extends IndexSharingInit {
  readonly set: WorkerSet;
  readonly card: ModelCard;
  readonly settings: FleetSettings;
  readonly isDisaggEnforced: boolean;
  readonly plane: EventPlane;
  readonly channels: ChannelLookup;
  readonly query: RecoveryQuery;
  readonly requests: Pick<RequestPlane, "call" | "isServed">;
  readonly hasher: TokenHasher;
  readonly log: Logger;
  readonly now: () => number;
  readonly random: () => number;
  readonly observers: readonly RouterObserver[];
  /** Where this router's channels are registered, under whose instance id it speaks to its replicas. Undefined: they are told nothing. */
  readonly registration?: DynamoRegistration | undefined;
}

const kvEventsTopic = "kv-events";
const loadTopic = "kv_metrics";

export class SetRuntime {
  readonly key: string;
  readonly fingerprint: string;
  readonly router: PrefillRouter;
  readonly stages: { readonly prefill: WorkerStage; readonly decode: WorkerStage };
  readonly suspects: Suspects;
  readonly ingest: KvEventIngest | undefined;
  /** Read live; undefined where no cache is known of. */
  readonly indexSize: IndexSize | undefined;
  readonly replicas: ReplicaSync;
  /** Undefined where the router has an index of its own. */
  readonly remoteIndex: IndexClient | undefined;
  /** Undefined where nobody is told of it. */
  readonly serving: SetServing | undefined;
  /** Undefined where the settings name none. */
  readonly sharedCaches: SharedCaches | undefined;
  readonly #init: SetRuntimeInit;
  readonly #feeds: EventFeeds;
  readonly #workers = new Map<bigint, SetWorker>();
  readonly #routes = new Map<string | undefined, SetRoute>();
  #tokenizer: PromptTokenizer | undefined;
  /** As many workers as are wanted at first have been there at once. */
  #hasBegun = false;
  #isClosed = false;

  constructor(init: SetRuntimeInit) {
    const { set, card, settings, log, now, random } = init;
    this.#init = init;
    this.key = set.key;
    this.fingerprint = card.fingerprint;
    this.remoteIndex = createIndexClient(init);
    const index = createIndexFor(init, this.remoteIndex);
    this.indexSize = index.size;
    const planConfig = settings.planConfig(set.model, init.isDisaggEnforced);
    const stage = (name: "prefill" | "decode"): WorkerStage =>
      createWorkerStage({
        stage: name,
        blockSize: card.kvCacheBlockSize,
        busyThresholds: settings.busyThresholds,
        needsBatchedTokens: planConfig.profile.classes.some(hasQueue),
        prefillLoad: settings.prefillLoad,
        now,
        random,
      });
    this.stages = { prefill: stage("prefill"), decode: stage("decode") };
    this.router = createPrefillRouter({
      config: planConfig,
      settingsOf: settings.settingsOf,
      prefill: this.stages.prefill,
      decode: this.stages.decode,
      index: index.router,
      now,
      random,
      timers: systemTimers,
      log,
      observers: init.observers,
    });
    this.suspects = new Suspects({
      addressOf: (id) => addressOf(this.#workers.get(id)),
      isServed: (id, timeoutMs) => {
        const transport = this.#workers.get(id)?.instance.transport;
        return transport?.kind === "nats" ? init.requests.isServed(transport.subject, timeoutMs) : undefined;
      },
      isDispensable: (id) => this.#hasStandIn(id),
      exclude: (id) => {
        log.warn(
          { worker: id.toString(), set: set.key },
          "a worker does not serve: it gets no requests until it listens",
        );
        this.router.suspectWorker(id, Number.POSITIVE_INFINITY);
      },
      readmit: (id) => this.router.suspectWorker(id, 0),
    });
    this.sharedCaches = sharedCachesOf(init, card.kvCacheBlockSize);
    this.#feeds = new EventFeeds(init.plane, init.channels, log);
    const { registration, plane } = init;
    this.replicas = new ReplicaSync({
      sharing:
        registration !== undefined && settings.config.routerReplicaSync
          ? { routerId: registration.instanceId, registration, plane }
          : undefined,
      hear: (scope, topic, handler) => this.#feeds.hear(scope, topic, handler),
      stages: this.stages,
      capacityChanged: () => this.router.capacityChanged(),
      bookingExpiryMs: planConfig.activeRequestExpiryMs,
      now,
      log,
    });
    this.serving = createServing(init, index, {
      holderOf: (rank) => this.router.holderOf(rank),
      isSettled: () => this.ingest?.isSettled ?? true,
    });
    if (index.fed !== undefined) {
      this.ingest = new KvEventIngest({
        index: index.fed,
        query: init.query,
        log,
        holderChanged: (rank, holder) => this.router.setHolder(rank, holder),
      });
    }
  }

  get set(): WorkerSet {
    return this.#init.set;
  }

  get isReady(): boolean {
    return this.#tokenizer !== undefined;
  }

  /** What its first requests wait for; undefined for good once it is there. */
  get isWaitingFor(): string | undefined {
    if (this.#hasBegun) return undefined;
    const wanted = this.#init.settings.config.minInitialWorkers;
    const [prefill, decode] = [this.stages.prefill.workers.size, this.stages.decode.workers.size];
    const known = prefill === 0 ? decode : Math.min(prefill, decode);
    this.#hasBegun = known >= wanted;
    return this.#hasBegun ? undefined : `${known} of ${wanted} initial workers are there`;
  }

  /** Takes the tokenizer over. */
  setTokenizer(tokenizer: PromptTokenizer): void {
    if (this.#isClosed || this.#tokenizer !== undefined) this.#drop(tokenizer);
    else this.#tokenizer = tokenizer;
  }

  /** All that its tokenizer is made of: the fingerprint covers the files, but not what else the card says of chats. */
  get tokenizerKey(): string {
    const { set, card } = this.#init;
    return JSON.stringify([set.model, this.fingerprint, chatOptionsOf(card.runtime.chat)]);
  }

  /** Gives it up, to be kept for a set like this one; requests at work with it are served to their end. */
  releaseTokenizer(): PromptTokenizer | undefined {
    const tokenizer = this.#tokenizer;
    this.#tokenizer = undefined;
    return tokenizer;
  }

  routeFor(loraName: string | undefined): SetRoute | undefined {
    const tokenizer = this.#tokenizer;
    if (tokenizer === undefined) return undefined;
    let route = this.#routes.get(loraName);
    if (route === undefined) {
      const { set, card, hasher } = this.#init;
      const { kvCacheBlockSize: blockSize, contextLength } = card;
      const { isEagle } = card.runtime;
      const track = this.#init.settings.tracking?.of({ modelName: set.model, routingGroup, blockSize });
      route = {
        key: set.key,
        namespace: set.namespace,
        model: set.model,
        loraName,
        blockSize,
        contextLength,
        tokenize: tokenizeBy(tokenizer),
        router: this.router,
        askIndex: this.#askIndex(),
        isPrefillWorker: (workerId) => this.stages.prefill.workers.has(workerId),
        hash: (tokens, cacheSalt) => ({
          ...hasher.hash(tokens, { blockSize, loraName, cacheSalt, isEagle }),
          trackingHashes: track?.(tokens, { loraName, cacheSalt, mmHashes: undefined }, isEagle),
          sharedHits: this.sharedCaches?.hitsOf(tokens, cacheSalt),
        }),
      };
      this.#routes.set(loraName, route);
    }
    return route;
  }

  workerAdded(worker: SetWorker): void {
    this.#workers.set(worker.id, worker);
    this.suspects.forget(worker.id);
    this.router.upsertWorker(routerWorkerOf(worker));
    this.remoteIndex?.workerAdded(worker);
    this.serving?.workerAdded(worker);
    this.#followCache(worker);
    this.replicas.workerAdded(worker);
    this.#hear(worker);
  }

  workerChanged(worker: SetWorker): void {
    const before = this.#workers.get(worker.id);
    this.#workers.set(worker.id, worker);
    this.router.upsertWorker(routerWorkerOf(worker));
    this.remoteIndex?.workerAdded(worker);
    this.serving?.workerAdded(worker);
    this.#followCache(worker);
    // The same process that was seen not to listen, whatever it registers.
    if (this.suspects.excluded.includes(worker.id)) this.router.suspectWorker(worker.id, Number.POSITIVE_INFINITY);
    if (before !== undefined && before.kvScope !== worker.kvScope) this.#feeds.retain(this.#scopes());
    for (const [rank, source] of before?.sources ?? []) {
      if (worker.sources.get(rank)?.publisherId !== source.publisherId) this.ingest?.sourceGone(source);
    }
    this.#hear(worker);
  }

  workerRemoved(workerId: bigint): void {
    this.#workers.delete(workerId);
    this.suspects.forget(workerId);
    this.ingest?.workerGone(workerId);
    this.router.removeWorker(workerId);
    this.remoteIndex?.workerRemoved(workerId);
    this.serving?.workerRemoved(workerId);
    this.sharedCaches?.removeWorker(workerId);
    this.#feeds.retain(this.#scopes());
    this.replicas.workerRemoved(workerId);
  }

  channelOpened(channel: EventChannelRecord): void {
    if (!this.replicas.owns(channel)) this.#feeds.opened(channel);
  }

  channelClosed(channel: EventChannelRecord): void {
    this.#feeds.closed(channel);
    this.replicas.channelClosed(channel);
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return {
      set: this.key,
      isReady: this.isReady,
      suspects: this.suspects.excluded.map(String),
      index: sizeOf(this.indexSize),
      sharedCache: this.sharedCaches?.state() ?? null,
      router: this.router.snapshot(),
      prefillLoad: this.#init.settings.prefillLoad?.state() ?? null,
      remoteIndex: this.remoteIndex?.state() ?? null,
      servedIndex: this.serving?.counters ?? null,
      replicas: this.replicas.state(),
      events:
        this.ingest === undefined
          ? null
          : { ...this.ingest.counters, sources: this.ingest.sources(), longestSliceMs: this.ingest.longestSliceMs },
    };
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.suspects.close();
    this.serving?.close();
    this.ingest?.close();
    this.router.close();
    this.remoteIndex?.close();
    const tokenizer = this.releaseTokenizer();
    this.#routes.clear();
    await this.replicas.close();
    await this.#feeds.close();
    await this.sharedCaches?.close();
    await tokenizer?.close();
  }

  #askIndex(): AskIndex | undefined {
    const client = this.remoteIndex;
    return client === undefined ? undefined : (blockHashes, done) => client.ask(blockHashes, done);
  }

  #followCache({ id, role, card }: SetWorker): void {
    this.sharedCaches?.upsertWorker({ id, role, hicache: card.runtime.hicache });
  }

  /** Another worker of its kind may be chosen. */
  #hasStandIn(workerId: bigint): boolean {
    const isPrefill = this.#workers.get(workerId)?.role === "prefill";
    for (const { id, role } of this.#workers.values()) {
      if (id !== workerId && (role === "prefill") === isPrefill && !this.suspects.isExcluded(id)) return true;
    }
    return false;
  }

  #scopes(): EventScope[] {
    const scopes: EventScope[] = [];
    for (const { kvScope, instance } of this.#workers.values()) scopes.push(kvScope, scopeOf(instance));
    return scopes;
  }

  /** Subscribes first and asks for the past then: what is published in between is in one of the two. */
  #hear(worker: SetWorker): void {
    const { ingest } = this;
    if (ingest !== undefined && worker.sources.size > 0) {
      this.#after(
        this.#feeds.hear(worker.kvScope, kvEventsTopic, (payload, publisherId) =>
          ingest.onPayload(payload, publisherId),
        ),
        () => {
          const current = this.#workers.get(worker.id);
          for (const source of current?.sources.values() ?? []) {
            if (current !== undefined && hasRank(current, source.dpRank)) ingest.sourceAppeared(source);
          }
        },
      );
    }
    const { activeDecodeBlocks, activePrefillTokens, activePrefillTokensFraction } = this.#init.settings.busyThresholds;
    if (activeDecodeBlocks ?? activePrefillTokens ?? activePrefillTokensFraction) {
      this.#after(
        this.#feeds.hear(scopeOf(worker.instance), loadTopic, (payload) => this.#reported(payload)),
        () => undefined,
      );
    }
  }

  #after(heard: Promise<void>, then: () => void): void {
    heard
      .then(() => {
        if (!this.#isClosed) then();
      })
      .catch((error: unknown) => this.#init.log.error({ error }, "a worker's events cannot be followed"));
  }

  #reported(payload: Buffer): void {
    let load: ReturnType<typeof parseActiveLoad>;
    try {
      load = parseActiveLoad(payload);
    } catch {
      // What a worker says of its load is a hint: one that cannot be read is as good as none.
      return;
    }
    const worker = this.#workers.get(load.workerId);
    if (worker === undefined) return;
    const stage = worker.role === "prefill" ? this.stages.prefill : this.stages.decode;
    stage.setReportedLoad({ workerId: load.workerId, dpRank: load.dpRank }, load);
  }

  #drop(tokenizer: PromptTokenizer): void {
    tokenizer.close().catch((error: unknown) => this.#init.log.error({ error }, "a tokenizer failed to close"));
  }
}

/** A stage in whose choice no cached block counts follows no cache. */
function sharedCachesOf({ set, settings, observers, now, log }: SetRuntimeInit, blockSize: number) {
  const { config, settingsOf } = settings;
  if (config.sharedCacheType === "none") return undefined;
  const legs = { prefill: ["prefill"], decode: ["aggregated", "decode"] } as const;
  return new SharedCaches({
    set: set.key,
    blockSize,
    eventsEndpoint: config.mooncakeKvEventsEndpoint,
    stages: (["prefill", "decode"] satisfies Stage[]).filter((stage) =>
      legs[stage].some((leg) => settingsOf(leg, undefined).overlapScoreCredit !== 0),
    ),
    now,
    asked: (ms) => {
      for (const observer of observers) observer.sharedCacheAsked?.(ms);
    },
    log,
  });
}

/** Its own card says how many it has; a source of another rank is nobody's. */
function hasRank({ card }: SetWorker, dpRank: number): boolean {
  const { dataParallelStartRank: first, dataParallelSize: size } = card.runtime;
  return dpRank >= first && dpRank < first + size;
}

function scopeOf({ namespace, component, endpoint }: InstanceRecord): EventScope {
  return { namespace, component, endpoint };
}

function sizeOf(index: IndexSize | undefined): IndexSize | null {
  if (index === undefined) return null;
  const { blocks, heldBlocks, sizeBytes } = index;
  return { blocks, heldBlocks, sizeBytes };
}

function addressOf(worker: SetWorker | undefined): string | undefined {
  return worker?.instance.transport.kind === "tcp" ? worker.instance.transport.address : undefined;
}
