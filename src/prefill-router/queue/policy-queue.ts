/**
 * Requests that wait for a worker, by policy class. Classes share by deficit round robin over the tokens still to compute; within a class the
 * order is that of queue-entry.ts. Pure: who may go is asked, time is an argument (dynamo-kv-router 1.6.1, scheduling/policy_queue.rs).
 */
import type { PolicyClass, PolicyProfile } from "../policy/policy-class.ts";
import { ClassQueue } from "./class-queue.ts";
import { policyScore, QueueEntry, type QueueWeight } from "./queue-entry.ts";

export type LimitKind = "requests" | "raw_isl_tokens" | "cached_tokens";

export interface QueueRejection {
  readonly policyClass: string;
  readonly limitKind: LimitKind;
  readonly current: number;
  readonly limit: number;
}

export interface Arrival {
  readonly classIndex: number;
  readonly weight: QueueWeight;
  /** Since any fixed point. */
  readonly arrivalSeconds: number;
  readonly priorityJump: number;
  readonly strictPriority: number;
  readonly lane: string | undefined;
}

export interface ClassStats {
  readonly policyClass: string;
  readonly requests: number;
  readonly rawTokens: number;
  readonly cachedTokens: number;
}

export class PolicyQueue<T> {
  readonly #classes: readonly ClassQueue<T>[];
  readonly #ready: (QueueEntry<T> | undefined)[];
  /** Where the ring starts: behind the class served last. */
  #cursor = 0;
  /** The class served last while it has credit left. */
  #carried: number | undefined;
  #sequence = 0;
  #size = 0;

  constructor(profile: PolicyProfile) {
    this.#classes = profile.classes.map((policyClass) => new ClassQueue<T>(policyClass));
    this.#ready = this.#classes.map(() => undefined);
  }

  get size(): number {
    return this.#size;
  }

  sizeOf(classIndex: number): number {
    return this.#classes[classIndex]?.size ?? 0;
  }

  /** Limits compare what waits already, times the number of workers. */
  push(arrival: Arrival, payload: T, workers: number): QueueEntry<T> | QueueRejection {
    const queue = this.#queue(arrival.classIndex);
    const rejection = rejectionOf(queue, workers);
    if (rejection !== undefined) return rejection;
    const { policyClass } = queue;
    const score = policyScore(policyClass.queuePolicy, arrival.weight, arrival.arrivalSeconds, arrival.priorityJump);
    this.#sequence += 1;
    const entry = new QueueEntry<T>(
      payload,
      arrival.classIndex,
      arrival.lane,
      arrival.strictPriority,
      score,
      this.#sequence,
      arrival.weight,
    );
    queue.push(entry);
    this.#size += 1;
    return entry;
  }

  /** A request of the class went without waiting: the ring moves on as if it had been taken from an empty class. */
  passed(classIndex: number): void {
    this.#cursor = (classIndex + 1) % this.#classes.length;
    this.#carried = undefined;
  }

  /** False when it waits no more. */
  remove(entry: QueueEntry<T>): boolean {
    if (!this.#queue(entry.classIndex).remove(entry)) return false;
    this.#size -= 1;
    return true;
  }

  /**
   * Takes the next request that may go. `isReady` is asked for the first of every lane, several times perhaps. A class spends its credit
   * before it is granted more; where no class can pay, all that have someone ready get the least number of whole rounds that lets one pay.
   */
  popNext(isReady: (policyClass: PolicyClass, payload: T) => boolean): QueueEntry<T> | undefined {
    const carried = this.#carried;
    this.#carried = undefined;
    if (this.#size === 0) return undefined;
    const count = this.#classes.length;
    this.#ready.fill(undefined);

    if (carried !== undefined) {
      const queue = this.#queue(carried);
      const first = queue.firstReady(isReady);
      if (first !== undefined && first.cost <= queue.deficit) return this.#take(queue, first);
      this.#ready[carried] = first;
    }
    for (let offset = 0; offset < count; offset++) {
      const index = (this.#cursor + offset) % count;
      const queue = this.#queue(index);
      const first = index === carried ? this.#ready[index] : queue.firstReady(isReady);
      this.#ready[index] = first;
      if (first === undefined) continue;
      if (first.cost > queue.deficit) queue.deficit += queue.policyClass.quantum;
      if (first.cost <= queue.deficit) return this.#take(queue, first);
    }
    if (!this.#grantRounds()) return undefined;
    for (let offset = 0; offset < count; offset++) {
      const index = (this.#cursor + offset) % count;
      const queue = this.#queue(index);
      const first = this.#ready[index];
      if (first !== undefined && first.cost <= queue.deficit) return this.#take(queue, first);
    }
    return undefined;
  }

  stats(): readonly ClassStats[] {
    return this.#classes.map((queue) => ({
      policyClass: queue.policyClass.name,
      requests: queue.size,
      rawTokens: queue.rawTokens,
      cachedTokens: queue.cachedTokens,
    }));
  }

  /** In no particular order. Not to be changed meanwhile. */
  *entries(): IterableIterator<QueueEntry<T>> {
    for (const queue of this.#classes) yield* queue.entries();
  }

  /** False when nobody is ready. */
  #grantRounds(): boolean {
    let rounds = Number.POSITIVE_INFINITY;
    for (const [index, first] of this.#ready.entries()) {
      if (first === undefined) continue;
      const queue = this.#queue(index);
      rounds = Math.min(rounds, Math.ceil((first.cost - queue.deficit) / queue.policyClass.quantum));
    }
    if (rounds === Number.POSITIVE_INFINITY) return false;
    for (const [index, first] of this.#ready.entries()) {
      if (first === undefined) continue;
      const queue = this.#queue(index);
      queue.deficit += rounds * queue.policyClass.quantum;
    }
    return true;
  }

  #take(queue: ClassQueue<T>, entry: QueueEntry<T>): QueueEntry<T> {
    queue.deficit = Math.max(0, queue.deficit - entry.cost);
    queue.remove(entry);
    this.#size -= 1;
    this.#cursor = (entry.classIndex + 1) % this.#classes.length;
    this.#carried = queue.deficit > 0 ? entry.classIndex : undefined;
    this.#ready.fill(undefined);
    return entry;
  }

  #queue(index: number): ClassQueue<T> {
    const queue = this.#classes[index];
    if (queue === undefined) throw new RangeError(`no policy class ${index}`);
    return queue;
  }
}

function rejectionOf<T>(queue: ClassQueue<T>, workers: number): QueueRejection | undefined {
  const { policyClass } = queue;
  return (
    exceeded(policyClass, "requests", queue.size, policyClass.requestLimit, workers) ??
    exceeded(policyClass, "raw_isl_tokens", queue.rawTokens, policyClass.rawTokenLimit, workers) ??
    exceeded(policyClass, "cached_tokens", queue.cachedTokens, policyClass.cachedTokenLimit, workers)
  );
}

function exceeded(
  policyClass: PolicyClass,
  limitKind: LimitKind,
  current: number,
  limitPerWorker: number | undefined,
  workers: number,
): QueueRejection | undefined {
  if (limitPerWorker === undefined) return undefined;
  const limit = limitPerWorker * workers;
  return current >= limit ? { policyClass: policyClass.name, limitKind, current, limit } : undefined;
}
