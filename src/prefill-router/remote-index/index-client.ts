/**
 * The served indices that one worker set asks: one for each component of its workers, those alone whose ranks an overlap can be counted for. A
 * prompt whose legs need several asks all of them at once.
 */
import type { RankOverlap } from "../../dynamo/kv-index/index-answer.ts";
import type { SetWorker } from "../../dynamo/worker-sets/worker-set.ts";
import type { WorkerRank } from "../contracts.ts";
import { ComponentIndex, type ComponentIndexInit } from "./component-index.ts";
import type { Component } from "./index-instances.ts";
import { createRemoteCounters, type RemoteCounters } from "./remote-counters.ts";

export interface IndexClientInit extends Omit<ComponentIndexInit, "component" | "counters"> {
  /** What a decode worker has cached counts also for a request that another worker has prefilled. */
  readonly asksDecodeLeg: boolean;
}

/** What is needed of a worker. */
export type IndexedWorker = Pick<SetWorker, "id" | "role" | "instance">;

export class IndexClient {
  readonly counters: RemoteCounters = createRemoteCounters();
  readonly #init: IndexClientInit;
  readonly #workers = new Map<bigint, IndexedWorker>();
  /** By component. */
  readonly #indices = new Map<string, ComponentIndex>();
  /** Those to be asked of a prompt; undefined where workers have changed since. */
  #asked: readonly ComponentIndex[] | undefined;

  constructor(init: IndexClientInit) {
    this.#init = init;
  }

  /** Also when anything of the worker changed. */
  workerAdded(worker: IndexedWorker): void {
    this.#workers.set(worker.id, worker);
    this.#asked = undefined;
  }

  workerRemoved(workerId: bigint): void {
    this.#workers.delete(workerId);
    this.#asked = undefined;
  }

  /** `done` is called exactly once, before it returns or later, unless cancelled; undefined: nothing could be learnt. */
  ask(blockHashes: Uint32Array, done: (overlaps: readonly RankOverlap[] | undefined) => void): { cancel(): void } {
    this.#asked ??= this.#askedNow();
    const asked = this.#asked;
    let left = asked.length;
    let found: readonly RankOverlap[] | undefined;
    const took = (overlaps: readonly RankOverlap[] | undefined): void => {
      if (overlaps !== undefined) found = found === undefined ? overlaps : [...found, ...overlaps];
      left -= 1;
      if (left === 0) done(found);
    };
    if (left === 0) done(undefined);
    const calls = asked.map((index) => index.ask(blockHashes, took));
    return {
      cancel: () => {
        if (left === 0) return;
        left = 0;
        this.counters.cancelled += 1;
        for (const call of calls) call.cancel();
      },
    };
  }

  /** The request was sent to this rank. */
  record(rank: WorkerRank, blockHashes: Uint32Array, sequenceHashes: Uint32Array): void {
    const worker = this.#workers.get(rank.workerId);
    if (worker !== undefined) this.#indexOf(worker.instance).record(rank, blockHashes, sequenceHashes);
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    const { answered, cancelled, recorded, failedQueries, failedRecords } = this.counters;
    return {
      components: Object.fromEntries(Array.from(this.#indices, ([key, index]) => [key, index.state()])),
      answered,
      cancelled,
      recorded,
      failedQueries: Object.fromEntries(failedQueries),
      failedRecords: Object.fromEntries(failedRecords),
    };
  }

  close(): void {
    for (const index of this.#indices.values()) index.close();
    this.#indices.clear();
    this.#workers.clear();
    this.#asked = [];
  }

  /** With prefill workers they compute the prompts, else the others do. Forgets components that have no workers any more. */
  #askedNow(): readonly ComponentIndex[] {
    const workers = [...this.#workers.values()];
    const there = new Set(workers.map(({ instance }) => keyOf(instance)));
    for (const [key, index] of this.#indices) {
      if (there.has(key)) continue;
      index.close();
      this.#indices.delete(key);
    }
    const isDisaggregated = workers.some(({ role }) => role === "prefill");
    const counting = workers.filter(({ role }) => !isDisaggregated || role === "prefill" || this.#init.asksDecodeLeg);
    return [...new Set(counting.map(({ instance }) => this.#indexOf(instance)))];
  }

  #indexOf(component: Component): ComponentIndex {
    const key = keyOf(component);
    let index = this.#indices.get(key);
    if (index === undefined) {
      const { namespace, component: name } = component;
      index = new ComponentIndex({ ...this.#init, component: { namespace, component: name }, counters: this.counters });
      this.#indices.set(key, index);
    }
    return index;
  }
}

function keyOf({ namespace, component }: Component): string {
  return `${namespace}/${component}`;
}
