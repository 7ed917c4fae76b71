/** One worker set's index as others may ask for it: by component, and without what is only predicted here. */
import type { KvMatcher, KvMatches } from "../../data/prefix-index/kv-index.ts";
import type { RankOverlap } from "../../dynamo/kv-index/index-answer.ts";
import type { RoutingRecord } from "../../dynamo/kv-index/routing-record.ts";
import type { RuntimeConfig } from "../../dynamo/model-card/model-card.ts";
import type { SetWorker } from "../../dynamo/worker-sets/worker-set.ts";
import { tokenHasher } from "../../tokens/block-hash.ts";
import type { WorkerRank } from "../contracts.ts";
import type { Component } from "./index-instances.ts";
import type { IndexService } from "./index-service.ts";
import type { ServedIndex } from "./served-component.ts";

export interface SetServingInit {
  readonly service: Pick<IndexService, "serve">;
  readonly model: string;
  readonly matcher: Pick<KvMatcher, "match" | "createMatches" | "holderCount">;
  /** A decision of another router; undefined where events feed the index. */
  readonly routed: ((holder: number, sequenceHashes: Uint32Array, nowMs: number) => void) | undefined;
  readonly holderOf: (rank: WorkerRank) => number | undefined;
  readonly isSettled: () => boolean;
  readonly now: () => number;
}

/** What is needed of a worker. */
export interface ServedWorker extends Pick<SetWorker, "id"> {
  readonly instance: Component;
  readonly card: { readonly runtime: Pick<RuntimeConfig, "dataParallelStartRank" | "dataParallelSize"> };
}

export interface ServingCounters {
  answered: number;
  recorded: number;
  /** Decisions for workers that are not known here. */
  foreign: number;
}

interface Served {
  readonly workers: Map<bigint, ServedWorker>;
  readonly end: () => void;
}

export class SetServing {
  readonly counters: ServingCounters = { answered: 0, recorded: 0, foreign: 0 };
  readonly #init: SetServingInit;
  /** By component. */
  readonly #served = new Map<string, Served>();
  readonly #componentOf = new Map<bigint, string>();
  #matches: KvMatches;

  constructor(init: SetServingInit) {
    this.#init = init;
    this.#matches = init.matcher.createMatches();
  }

  /** Also when anything of the worker changed. */
  workerAdded(worker: ServedWorker): void {
    const { namespace, component } = worker.instance;
    const key = `${namespace}/${component}`;
    let served = this.#served.get(key);
    if (served === undefined) {
      const workers = new Map<bigint, ServedWorker>();
      served = { workers, end: this.#serve({ namespace, component }, workers) };
      this.#served.set(key, served);
    }
    served.workers.set(worker.id, worker);
    this.#componentOf.set(worker.id, key);
  }

  workerRemoved(workerId: bigint): void {
    const key = this.#componentOf.get(workerId) ?? "";
    const served = this.#served.get(key);
    this.#componentOf.delete(workerId);
    served?.workers.delete(workerId);
    if (served?.workers.size !== 0) return;
    served.end();
    this.#served.delete(key);
  }

  close(): void {
    for (const { end } of this.#served.values()) end();
    this.#served.clear();
    this.#componentOf.clear();
  }

  #serve(component: Component, workers: ReadonlyMap<bigint, ServedWorker>): () => void {
    const { service, model, isSettled } = this.#init;
    const index: ServedIndex = {
      get isSettled() {
        return isSettled();
      },
      overlaps: (blockHashes, isDeviceOnly) => this.#overlaps(workers, blockHashes, isDeviceOnly),
      record: (record) => this.#record(record),
    };
    return service.serve(component, model, index);
  }

  #overlaps(
    workers: ReadonlyMap<bigint, ServedWorker>,
    blockHashes: Uint32Array,
    isDeviceOnly: boolean,
  ): readonly RankOverlap[] {
    const { matcher, holderOf, now } = this.#init;
    this.counters.answered += 1;
    const sequenceHashes = new Uint32Array(blockHashes.length);
    tokenHasher().chain(0, 0, false, blockHashes, 0, blockHashes.length >> 1, sequenceHashes, 0);
    if (this.#matches.device.length < matcher.holderCount) this.#matches = matcher.createMatches();
    const matches = this.#matches;
    matcher.match(sequenceHashes, matches, now());
    const overlaps: RankOverlap[] = [];
    for (const { id: workerId, card } of workers.values()) {
      const { dataParallelStartRank: first, dataParallelSize: size } = card.runtime;
      for (let dpRank = first; dpRank < first + size; dpRank++) {
        const holder = holderOf({ workerId, dpRank });
        if (holder === undefined) continue;
        const device = matches.device[holder] ?? 0;
        const host = isDeviceOnly ? 0 : (matches.host[holder] ?? 0);
        const disk = isDeviceOnly ? 0 : (matches.disk[holder] ?? 0);
        if (device + host + disk > 0) overlaps.push({ workerId, dpRank, device, host, disk });
      }
    }
    return overlaps;
  }

  /** A worker that this process does not know of yet is passed over: what is routed to it next will find it. */
  #record({ workerId, dpRank, sequenceHashes }: RoutingRecord): void {
    const { routed, holderOf, now } = this.#init;
    const holder = holderOf({ workerId, dpRank });
    if (holder === undefined || routed === undefined) {
      this.counters.foreign += 1;
      return;
    }
    routed(holder, sequenceHashes, now());
    this.counters.recorded += 1;
  }
}
