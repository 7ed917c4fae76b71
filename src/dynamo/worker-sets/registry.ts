/**
 * What is registered, by what it is asked for: instances and cards by path, adapters by their base worker, sources by worker. A card is for the
 * life of its key: only its taints may change.
 */
import { isLoggedAt, type Logger } from "../../telemetry/log.ts";
import type { ModelCard } from "../model-card/model-card.ts";
import { endpointPath, scopePath } from "../record-keys.ts";
import type { EventScope, EventSourceRecord, InstanceRecord, ModelRecord } from "../records.ts";
import type { SetWorker } from "./worker-set.ts";

const kvTopic = "kv-events";

export type CardVerdict =
  | { readonly kind: "accepted" | "unchanged" }
  | { readonly kind: "rejected"; readonly reason: string };

export class Registry {
  readonly #log: Logger;
  readonly instances = new Map<string, InstanceRecord>();
  /** Base models only. */
  readonly cards = new Map<string, ModelRecord>();
  /** Made of the records of a path; whoever changes one of them deletes it. */
  readonly workers = new Map<string, SetWorker>();
  /** Adapters by path of their base worker, then by suffix. */
  readonly #loras = new Map<string, Map<string, ModelRecord>>();
  readonly #sources = new Map<string, Map<bigint, EventSourceRecord>>();

  #refusals = 0;

  constructor(log: Logger) {
    this.#log = log;
  }

  putCard(path: string, record: ModelRecord): CardVerdict {
    if ((record.modelSuffix === undefined) !== (record.card.lora === undefined)) {
      return this.#reject(path, "the card and its key disagree about being an adapter's");
    }
    const before = record.modelSuffix === undefined ? this.cards.get(path) : this.lorasOf(path).get(record.modelSuffix);
    if (before !== undefined && record.modelSuffix === undefined && !isSameButTaints(before.card, record.card)) {
      return this.#reject(path, "the card was changed under its key; the first one stays until its worker has gone");
    }
    if (before !== undefined && canonical(before.card) === canonical(record.card)) return { kind: "unchanged" };
    if (record.modelSuffix === undefined) this.cards.set(path, record);
    else mapIn(this.#loras, path).set(record.modelSuffix, record);
    return { kind: "accepted" };
  }

  #reject(path: string, reason: string): CardVerdict {
    const count = ++this.#refusals;
    if (isLoggedAt(count)) this.#log.error({ path, reason, count }, "a model card is refused");
    return { kind: "rejected", reason };
  }

  removeCard(path: string, suffix: string | undefined): void {
    if (suffix === undefined) this.cards.delete(path);
    else removeIn(this.#loras, path, suffix);
  }

  lorasOf(path: string): ReadonlyMap<string, ModelRecord> {
    return this.#loras.get(path) ?? noLoras;
  }

  putSource(source: EventSourceRecord): void {
    if (source.topic === kvTopic)
      mapIn(this.#sources, sourceKey(source.scope, source.workerId)).set(source.publisherId, source);
  }

  removeSource(source: EventSourceRecord): void {
    removeIn(this.#sources, sourceKey(source.scope, source.workerId), source.publisherId);
  }

  /** By rank. Of two publishers of one rank the one with the greater id: both are of this incarnation, and every reader must choose alike. */
  sourcesOf(scope: EventScope, workerId: bigint): ReadonlyMap<number, EventSourceRecord> {
    const byRank = new Map<number, EventSourceRecord>();
    for (const source of this.#sources.get(sourceKey(scope, workerId))?.values() ?? []) {
      const other = byRank.get(source.dpRank);
      if (other === undefined || other.publisherId < source.publisherId) byRank.set(source.dpRank, source);
    }
    return byRank;
  }
}

export function pathOf(record: InstanceRecord | ModelRecord): string {
  return endpointPath(record);
}

function sourceKey(scope: EventScope, workerId: bigint): string {
  return `${scopePath(scope)} ${workerId}`;
}

const noLoras: ReadonlyMap<string, ModelRecord> = new Map();

function mapIn<K, V>(maps: Map<string, Map<K, V>>, key: string): Map<K, V> {
  const map = maps.get(key) ?? new Map<K, V>();
  maps.set(key, map);
  return map;
}

function removeIn<K, V>(maps: Map<string, Map<K, V>>, key: string, member: K): void {
  const map = maps.get(key);
  map?.delete(member);
  if (map?.size === 0) maps.delete(key);
}

function isSameButTaints(a: ModelCard, b: ModelCard): boolean {
  return a.fingerprint === b.fingerprint && canonical(a, true) === canonical(b, true);
}

/** One text for equal cards; both come from the same parser, so their members stand in the same order. */
function canonical(card: ModelCard, withoutTaints = false): string {
  return JSON.stringify(card, (key, value: unknown) => {
    if (withoutTaints && key === "taints") return undefined;
    return value instanceof Map ? [...value].toSorted(([a], [b]) => (String(a) < String(b) ? -1 : 1)) : value;
  });
}
