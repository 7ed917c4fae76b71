/**
 * All worker sets that are served: follows their coming and going, keeps a runtime for each, and says which one serves a model. The planes are
 * opened with the first set and closed with the fleet.
 */
import type { DynamoWorkers } from "../../data/discovery/dynamo/dynamo-discovery.ts";
import type { DynamoRegistration } from "../../dynamo/discovery/registration.ts";
import type { EventPlane } from "../../dynamo/event-plane/event-plane.ts";
import type { LocalModelFiles } from "../../dynamo/model-card/model-files.ts";
import type { RequestPlane } from "../../dynamo/request-plane/contracts.ts";
import {
  chooseSet,
  type SetWorker,
  type WorkerSet,
  type WorkerSetListener,
} from "../../dynamo/worker-sets/worker-set.ts";
import type { Logger } from "../../telemetry/log.ts";
import { createTokenHasher, type TokenHasher } from "../../tokens/block-hash.ts";
import { createPromptTokenizer } from "../../tokens/create-prompt-tokenizer.ts";
import type { PromptTokenizer } from "../../tokens/prompt-tokenizer.ts";
import { createRecoveryQuery, type RecoveryQuery } from "../indexer/recovery-query.ts";
import type { RouterObserver } from "../plan/contracts.ts";
import { IndexService } from "../remote-index/index-service.ts";
import type { Environment } from "../settings/environment.ts";
import { chatOptionsOf } from "./chat-options.ts";
import type { FleetSettings } from "./fleet-settings.ts";
import { ParkedTokenizers } from "./parked-tokenizers.ts";
import type { RouteLookup, RouteTable, SetRoute } from "./route-table.ts";
import { SetRuntime } from "./set-runtime.ts";

export interface FleetInit {
  readonly workers: Pick<DynamoWorkers, "sets" | "subscribe" | "register">;
  readonly settings: FleetSettings;
  readonly isDisaggEnforced: boolean;
  readonly environment: Environment;
  readonly tokenizerTimeoutMs: number;
  readonly log: Logger;
  readonly now: () => number;
  readonly random: () => number;
  /** Who hears of the plans of a set. */
  readonly observersOf: (set: WorkerSet) => readonly RouterObserver[];
}

/** A worker that accepts a recovery query and says nothing is given up after this time. */
const recoveryAnswerMs = 30_000;

/** Longest wait for the past of slow workers. */
const settleWithinMs = 10_000;

interface Planes {
  readonly events: EventPlane;
  readonly requests: RequestPlane;
  readonly query: RecoveryQuery;
  /** Where this router announces what it shares; undefined where nothing is. */
  readonly registration: DynamoRegistration | undefined;
  /** What of it other routers may ask. */
  readonly service: IndexService | undefined;
}

export class Fleet implements RouteTable, WorkerSetListener {
  readonly #init: FleetInit;
  readonly #hasher: TokenHasher = createTokenHasher();
  readonly #runtimes = new Map<string, SetRuntime>();
  /** Tokenizers that are being made or could not be, by set. */
  readonly #tokenizing = new Map<string, { readonly runtime: SetRuntime; failure: string | undefined }>();
  readonly #parked: ParkedTokenizers;
  /** The last tokenizer asked for. */
  #loading: Promise<void> = Promise.resolve();
  #planes: Planes | undefined;
  #unsubscribe: (() => void) | undefined;
  #startedAtMs: number | undefined;
  #isClosed = false;

  constructor(init: FleetInit) {
    this.#init = init;
    this.#parked = new ParkedTokenizers({
      closeFailed: (error) => init.log.error({ error }, "a tokenizer failed to close"),
    });
  }

  /** Rejects with an error that names the setting at fault. */
  async start(): Promise<void> {
    const { environment, log } = this.#init;
    // What speaks ZeroMQ and NATS is loaded only where it is used.
    const { createEventPlane } = await import("../../dynamo/event-plane/create-event-plane.ts");
    const { createRequestPlane } = await import("../../dynamo/request-plane/request-plane.ts");
    const { requestPlaneSettings } = await import("../../dynamo/request-plane/settings.ts");
    const requests = await createRequestPlane(await requestPlaneSettings(environment));
    const events = createEventPlane(environment, log);
    const registration = await this.#register();
    const service = registration === undefined ? undefined : await this.#serve(registration);
    if (this.#isClosed) {
      await service?.close();
      await registration?.close();
      await requests.close();
      await events.close();
      return;
    }
    // Nothing is replayed: what was published meanwhile is asked of the workers.
    events.onReturn(() => {
      for (const { ingest } of this.#runtimes.values()) ingest?.resync();
    });
    this.#planes = { events, requests, query: createRecoveryQuery(requests, recoveryAnswerMs), registration, service };
    this.#unsubscribe = this.#init.workers.subscribe(this);
    this.#startedAtMs = this.#init.now();
  }

  find(model: string, random: () => number): RouteLookup {
    const found = this.#init.workers.sets.lookup(model);
    switch (found.kind) {
      case "unknown":
        return { kind: "unknown-model" };
      case "not-ready":
        return found;
      case "ready": {
        const set = chooseSet(found.choices, random());
        const runtime = set === undefined ? undefined : this.#runtimes.get(set.key);
        const waitsFor = runtime?.isWaitingFor;
        if (waitsFor !== undefined) return { kind: "not-ready", reason: waitsFor };
        const route = runtime?.routeFor(found.lora);
        if (route !== undefined) return { kind: "found", route };
        const failure = set === undefined ? undefined : this.#tokenizing.get(set.key)?.failure;
        return { kind: "not-ready", reason: failure ?? `the tokenizer of ${model} is being loaded` };
      }
      default:
        return found satisfies never;
    }
  }

  suspect(route: SetRoute, workerId: bigint, isCertain: boolean): void {
    this.#runtimes.get(route.key)?.suspects.suspect(workerId, isCertain);
  }

  setAdded(set: WorkerSet): void {
    this.#follow(set);
  }

  setRemoved(set: WorkerSet): void {
    this.#end(set.key);
  }

  setChanged(set: WorkerSet): void {
    this.#follow(set);
  }

  workerAdded(set: WorkerSet, worker: SetWorker): void {
    const runtime = this.#runtimes.get(set.key);
    if (runtime === undefined) this.#follow(set);
    else runtime.workerAdded(worker);
  }

  workerChanged(set: WorkerSet, worker: SetWorker): void {
    this.#runtimes.get(set.key)?.workerChanged(worker);
  }

  workerRemoved(set: WorkerSet, worker: SetWorker): void {
    this.#runtimes.get(set.key)?.workerRemoved(worker.id);
  }

  readonly channelOpened: WorkerSetListener["channelOpened"] = (channel) => {
    for (const runtime of this.#runtimes.values()) runtime.channelOpened(channel);
  };

  readonly channelClosed: WorkerSetListener["channelClosed"] = (channel) => {
    for (const runtime of this.#runtimes.values()) runtime.channelClosed(channel);
  };

  /**
   * Started, no tokenizer under way, as many workers as are wanted at first in one set at least, and what workers cached is known or has been asked for long enough: a worker that does not answer must
   * not keep the picker from serving.
   */
  get isSettled(): boolean {
    if (this.#startedAtMs === undefined) return false;
    for (const { failure } of this.#tokenizing.values()) if (failure === undefined) return false;
    for (const { files } of this.#init.workers.sets.sets) if (files?.kind === "loading") return false;
    if (this.#init.settings.config.minInitialWorkers > 0 && !this.#hasBegun()) return false;
    if (this.#init.now() - this.#startedAtMs > settleWithinMs) return true;
    for (const { ingest } of this.#runtimes.values()) if (ingest?.isSettled === false) return false;
    return true;
  }

  get runtimes(): ReadonlyMap<string, SetRuntime> {
    return this.#runtimes;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#unsubscribe?.();
    await this.#planes?.service?.close();
    await Promise.all([...this.#runtimes.values()].map((runtime) => runtime.close()));
    this.#runtimes.clear();
    this.#tokenizing.clear();
    await this.#parked.close();
    await this.#planes?.registration?.close();
    await this.#planes?.events.close();
    await this.#planes?.requests.close();
  }

  #hasBegun(): boolean {
    for (const { isWaitingFor } of this.#runtimes.values()) if (isWaitingFor === undefined) return true;
    return false;
  }

  /** Without a place among the records the router serves alone: better than not at all. */
  async #register(): Promise<DynamoRegistration | undefined> {
    const { settings, workers, log } = this.#init;
    const { routerReplicaSync, serveIndexer } = settings.config;
    if (!routerReplicaSync && !serveIndexer) return undefined;
    try {
      return await workers.register();
    } catch (error) {
      log.error({ error, routerReplicaSync, serveIndexer }, "nothing is shared: this router cannot be registered");
      return undefined;
    }
  }

  /** Rejects with an error that names the variable at fault. */
  async #serve(registration: DynamoRegistration): Promise<IndexService | undefined> {
    const { environment, settings, workers, log } = this.#init;
    if (!settings.config.serveIndexer) return undefined;
    const { createEndpointServer } = await import("../../dynamo/request-plane/endpoint-server.ts");
    const { createNatsEndpoints } = await import("../../dynamo/request-plane/nats-endpoints.ts");
    const { endpointServerSettings } = await import("../../dynamo/request-plane/settings.ts");
    const server = await endpointServerSettings(environment);
    const { nats } = server;
    return new IndexService({
      listen: () => (nats === undefined ? createEndpointServer(log, server) : createNatsEndpoints(log, nats, server)),
      registration,
      lookup: (endpoint) => workers.sets.servedIndices(endpoint),
      isFedByEvents: settings.config.useKvEvents,
      log,
    });
  }

  /** Makes or replaces the set's runtime as its card says, and its tokenizer once the files are there. */
  #follow(set: WorkerSet): void {
    const { card, files } = set;
    if (card === undefined) return;
    let runtime = this.#runtimes.get(set.key);
    if (runtime !== undefined && runtime.fingerprint !== card.fingerprint) {
      this.#end(set.key);
      runtime = undefined;
    }
    runtime ??= this.#begin(set);
    if (runtime !== undefined && files?.kind === "ready") this.#loadTokenizer(set, runtime, files.files);
  }

  #begin(set: WorkerSet): SetRuntime | undefined {
    const { card } = set;
    const planes = this.#planes;
    if (card === undefined || planes === undefined || this.#isClosed) return undefined;
    const { workers, settings, isDisaggEnforced, log, now, random, observersOf } = this.#init;
    const runtime = new SetRuntime({
      set,
      card,
      settings,
      isDisaggEnforced,
      plane: planes.events,
      channels: (scope, topic) => workers.sets.channels(scope, topic),
      query: planes.query,
      requests: planes.requests,
      registration: planes.registration,
      servedIndices: (endpoint) => workers.sets.servedIndices(endpoint),
      service: planes.service,
      hasher: this.#hasher,
      log,
      now,
      random,
      observers: observersOf(set),
    });
    this.#runtimes.set(set.key, runtime);
    for (const worker of set.workers.values()) runtime.workerAdded(worker);
    return runtime;
  }

  #end(key: string): void {
    const runtime = this.#runtimes.get(key);
    if (runtime === undefined) return;
    this.#runtimes.delete(key);
    this.#tokenizing.delete(key);
    const tokenizer = runtime.releaseTokenizer();
    if (tokenizer !== undefined) this.#parked.park(runtime.tokenizerKey, tokenizer);
    runtime
      .close()
      .catch((error: unknown) => this.#init.log.error({ error, set: key }, "a worker set failed to close"));
  }

  /** One after the other: prompts on the tokenizers' thread wait for one load at most, however many sets come and go. */
  #loadTokenizer(set: WorkerSet, runtime: SetRuntime, files: LocalModelFiles): void {
    if (runtime.isReady || this.#tokenizing.has(set.key)) return;
    const parked = this.#parked.take(runtime.tokenizerKey);
    if (parked !== undefined) {
      runtime.setTokenizer(parked);
      return;
    }
    const entry: { readonly runtime: SetRuntime; failure: string | undefined } = { runtime, failure: undefined };
    this.#tokenizing.set(set.key, entry);
    const isWanted = (): boolean => this.#runtimes.get(set.key) === runtime;
    this.#loading = this.#loading
      .then(() => (isWanted() ? this.#createTokenizer(set, files) : undefined))
      .then((tokenizer) => {
        if (tokenizer !== undefined) runtime.setTokenizer(tokenizer);
        if (this.#tokenizing.get(set.key) === entry) this.#tokenizing.delete(set.key);
      })
      .catch((error: unknown) => {
        entry.failure = `the tokenizer of ${set.model} cannot be used: ${error instanceof Error ? error.message : String(error)}`;
        this.#init.log.error({ error, set: set.key }, "a worker set is not ready: its tokenizer cannot be used");
      });
  }

  async #createTokenizer(set: WorkerSet, files: LocalModelFiles): Promise<PromptTokenizer> {
    const { tokenizer, tokenizerConfig, chatTemplate, config } = files;
    if (tokenizer === undefined) throw new Error("the model card names no tokenizer.json");
    return createPromptTokenizer(
      { tokenizer, tokenizerConfig, chatTemplate, config },
      {
        modelName: set.model,
        logger: this.#init.log,
        timeoutMs: this.#init.tokenizerTimeoutMs,
        chat: chatOptionsOf(set.card?.runtime.chat),
      },
    );
  }
}
