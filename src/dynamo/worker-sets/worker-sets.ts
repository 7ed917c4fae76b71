/**
 * Records in, worker sets out. Records are booked as they come; sets are put together again once for all that came in one turn of the event
 * loop, or when somebody asks. What a listener hears and what a lookup says always agree.
 */
import { isLoggedAt, type Logger } from "../../telemetry/log.ts";
import { queryEndpoint, recordEndpoint } from "../kv-index/index-endpoints.ts";
import type { ModelFiles } from "../model-card/model-files-keeper.ts";
import type {
  DynamoRecord,
  EventChannelRecord,
  EventScope,
  EventSourceRecord,
  InstanceRecord,
  ModelRecord,
  RecordListener,
} from "../records.ts";
import { type AssembledSet, assembleSets } from "./assemble.ts";
import { CardGroup } from "./card-group.ts";
import { ChannelIndex } from "./channel-index.ts";
import { InstanceIndex } from "./instance-index.ts";
import { LiveSet } from "./live-set.ts";
import { type ModelNames, namesOf } from "./model-names.ts";
import { matchesNamespace, type NamespaceFilter } from "./namespace-filter.ts";
import { type CardVerdict, pathOf, Registry } from "./registry.ts";
import type { ModelLookup, WorkerSet, WorkerSetListener } from "./worker-set.ts";

export interface WorkerSetsOptions {
  readonly log: Logger;
  readonly listener: WorkerSetListener;
  readonly filter: NamespaceFilter;
  /** DYN_ENFORCE_DISAGG: no model is ready without prefill workers. */
  readonly enforceDisagg: boolean;
  /** Without it no files are fetched and none are waited for. `filesChanged` is to be called when it has news. */
  readonly files?: ModelFiles | undefined;
}

/** The groups of one model in one namespace, and the sets they make. */
interface ModelNamespace {
  readonly namespace: string;
  readonly model: string;
  readonly groups: Map<string, CardGroup>;
  readonly sets: Map<string, LiveSet>;
  /** The group whose set has the plain key. */
  primary: CardGroup | undefined;
}

/** Every model has an index and a tokenizer of its own: a store that somebody fills must not take the process down. */
const maxModels = 1024;

/** Shown faults: a store full of rubbish is no reason to keep all of it. */
const maxFaults = 1000;

export class WorkerSets implements RecordListener {
  readonly #options: WorkerSetsOptions;
  readonly #log: Logger;
  readonly #registry: Registry;
  readonly #models = new Map<string, ModelNamespace>();
  readonly #channels = new ChannelIndex();
  readonly #servedIndices = new InstanceIndex();
  /** Paths of base cards by worker: a source names a worker and no path. */
  readonly #pathsOfWorker = new Map<bigint, Set<string>>();
  readonly #sources = new Map<string, EventSourceRecord>();
  readonly #faults = new Map<string, string>();
  readonly #dirty = new Set<string>();
  #names: ModelNames | undefined;
  #mixes = 0;
  #isScheduled = false;
  #isFlushing = false;

  constructor(options: WorkerSetsOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#registry = new Registry(options.log);
  }

  put(key: string, record: DynamoRecord): void {
    if (!this.#isWanted(record)) return;
    switch (record.type) {
      case "Endpoint":
        if (isIndexEndpoint(record)) this.#servedIndices.put(key, record);
        this.#registry.instances.set(pathOf(record), record);
        this.#touchPath(pathOf(record));
        break;
      case "Model":
        this.#putModel(key, record);
        break;
      case "EventChannel": {
        const before = this.#channels.put(key, record);
        if (before !== undefined) this.#options.listener.channelClosed(before);
        this.#options.listener.channelOpened(record);
        break;
      }
      case "EventSource":
        this.#removeSource(key);
        this.#sources.set(key, record);
        this.#registry.putSource(record);
        this.#touchWorker(record.workerId);
        break;
      default:
        record satisfies never;
    }
  }

  removed(key: string, record: DynamoRecord): void {
    if (!this.#isWanted(record)) return;
    switch (record.type) {
      case "Endpoint":
        if (isIndexEndpoint(record)) this.#servedIndices.remove(key);
        this.#registry.instances.delete(pathOf(record));
        this.#touchPath(pathOf(record));
        break;
      case "Model":
        this.#faults.delete(key);
        this.#removeModel(record);
        break;
      case "EventChannel": {
        const channel = this.#channels.remove(key);
        if (channel !== undefined) this.#options.listener.channelClosed(channel);
        break;
      }
      case "EventSource":
        this.#removeSource(key);
        break;
      default:
        record satisfies never;
    }
  }

  unreadable(key: string, reason: string | undefined): void {
    if (reason === undefined) this.#faults.delete(key);
    else if (this.#faults.size < maxFaults) this.#faults.set(key, reason);
  }

  /** What is registered and cannot be used, by key: records that cannot be read and cards that are refused. */
  get faults(): ReadonlyMap<string, string> {
    return this.#faults;
  }

  /** Where a model, alias or adapter of this name is served now. */
  lookup(name: string): ModelLookup {
    this.#flush();
    this.#names ??= namesOf(this.#allSets());
    return this.#names.lookup(name);
  }

  /** Every name that leads to a set that is ready. */
  readyNames(): readonly string[] {
    this.#flush();
    this.#names ??= namesOf(this.#allSets());
    return this.#names.ready;
  }

  get sets(): readonly WorkerSet[] {
    this.#flush();
    return this.#allSets();
  }

  /** Who publishes a topic in exactly this scope now. */
  channels(scope: EventScope, topic: string): readonly EventChannelRecord[] {
    return this.#channels.of(scope, topic);
  }

  /** Who serves an index at this endpoint of a component now; the same array until one of them comes or goes. */
  servedIndices(endpoint: EventScope): readonly InstanceRecord[] {
    return this.#servedIndices.of(endpoint);
  }

  /** The files of cards with this fingerprint are there, or could not be had. */
  filesChanged(fingerprint: string): void {
    for (const [key, model] of this.#models) {
      for (const set of model.sets.values()) {
        if (set.card?.fingerprint === fingerprint) this.#touch(key);
      }
    }
  }

  #isWanted(record: DynamoRecord): boolean {
    const { namespace } = record.type === "Endpoint" || record.type === "Model" ? record : record.scope;
    return matchesNamespace(this.#options.filter, namespace);
  }

  #putModel(key: string, record: ModelRecord): void {
    const path = pathOf(record);
    const verdict = this.#hasRoomFor(record) ? this.#registry.putCard(path, record) : tooManyModels;
    this.unreadable(key, verdict.kind === "rejected" ? verdict.reason : undefined);
    if (verdict.kind !== "accepted") return;
    if (record.modelSuffix === undefined) {
      const { group } = this.#groupFor(record);
      if (group.put(path, record)) this.#reportMix(record);
      const paths = this.#pathsOfWorker.get(record.instanceId) ?? new Set();
      this.#pathsOfWorker.set(record.instanceId, paths.add(path));
    }
    this.#touchPath(path);
  }

  #hasRoomFor(record: ModelRecord): boolean {
    return record.modelSuffix !== undefined || this.#models.size < maxModels || this.#models.has(modelKey(record));
  }

  #removeModel(record: ModelRecord): void {
    const path = pathOf(record);
    // The card that was accepted, which a changed one did not replace.
    const card = this.#registry.cards.get(path);
    this.#touchPath(path);
    this.#registry.removeCard(path, record.modelSuffix);
    if (record.modelSuffix !== undefined || card === undefined) return;
    const { model, group } = this.#groupFor(card);
    group.remove(path, card.card.fingerprint);
    if (group.isEmpty) model.groups.delete(group.key);
    const paths = this.#pathsOfWorker.get(record.instanceId);
    paths?.delete(path);
    if (paths?.size === 0) this.#pathsOfWorker.delete(record.instanceId);
  }

  #removeSource(key: string): void {
    const source = this.#sources.get(key);
    if (source === undefined) return;
    this.#sources.delete(key);
    this.#registry.removeSource(source);
    this.#touchWorker(source.workerId);
  }

  #reportMix(record: ModelRecord): void {
    const count = ++this.#mixes;
    if (!isLoggedAt(count)) return;
    this.#log.error(
      {
        count,
        namespace: record.namespace,
        model: record.card.displayName,
        worker: record.instanceId.toString(),
        fingerprint: record.card.fingerprint,
      },
      "a worker's model card differs from those of the workers beside it; one group of them is left out while the other lives",
    );
  }

  #groupFor(record: ModelRecord): { readonly model: ModelNamespace; readonly group: CardGroup } {
    const key = modelKey(record);
    let model = this.#models.get(key);
    if (model === undefined) {
      model = {
        namespace: record.namespace,
        model: record.card.displayName,
        groups: new Map(),
        sets: new Map(),
        primary: undefined,
      };
      this.#models.set(key, model);
    }
    const { component, endpoint, card } = record;
    const groupKey = `${component}/${endpoint}/${card.role ?? "legacy"}/${[...card.modelTypes].sort().join("|")}`;
    let group = model.groups.get(groupKey);
    if (group === undefined) {
      group = new CardGroup(groupKey);
      model.groups.set(groupKey, group);
    }
    return { model, group };
  }

  #touchWorker(workerId: bigint): void {
    for (const path of this.#pathsOfWorker.get(workerId) ?? []) this.#touchPath(path);
  }

  #touchPath(path: string): void {
    this.#registry.workers.delete(path);
    const record = this.#registry.cards.get(path);
    if (record !== undefined) this.#touch(modelKey(record));
  }

  #touch(key: string): void {
    this.#dirty.add(key);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => this.#flush());
  }

  #flush(): void {
    // A listener that asks sees what has been told so far.
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    this.#isScheduled = false;
    try {
      for (const key of this.#dirty) {
        this.#dirty.delete(key);
        const model = this.#models.get(key);
        if (model !== undefined) this.#assemble(key, model);
        this.#names = undefined;
      }
    } finally {
      this.#isFlushing = false;
    }
  }

  #assemble(key: string, model: ModelNamespace): void {
    const groups = [...model.groups.values()];
    for (const group of groups) group.settle();
    const assembled = assembleSets(groups, this.#registry, this.#options);
    if (model.primary === undefined || !assembled.has(model.primary)) [model.primary] = assembled.keys();
    const wanted = new Map<string, AssembledSet>();
    for (const [group, set] of assembled) wanted.set(group === model.primary ? key : `${key}/${group.key}`, set);
    for (const [setKey, set] of model.sets) {
      if (wanted.has(setKey)) continue;
      set.close();
      model.sets.delete(setKey);
    }
    for (const [setKey, set] of wanted) {
      let live = model.sets.get(setKey);
      if (live === undefined) {
        live = new LiveSet(setKey, model.namespace, model.model, this.#options.listener, this.#options.files);
        model.sets.set(setKey, live);
      }
      live.become(set);
    }
    if (model.groups.size === 0) this.#models.delete(key);
  }

  #allSets(): LiveSet[] {
    return [...this.#models.values()].flatMap((model) => [...model.sets.values()]);
  }
}

const tooManyModels: CardVerdict = {
  kind: "rejected",
  reason: `more than ${maxModels} models are registered; this one is left out`,
};

function isIndexEndpoint({ endpoint }: InstanceRecord): boolean {
  return endpoint === queryEndpoint || endpoint === recordEndpoint;
}

function modelKey(record: ModelRecord): string {
  return `${record.namespace}/${record.card.displayName}`;
}
