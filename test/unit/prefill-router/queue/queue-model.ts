/** What PolicyQueue is to do, written as plainly as possible: lists, sorting, and one round of credit at a time. */
import type { PolicyClass } from "../../../../src/prefill-router/policy/policy-class.ts";
import type { Arrival } from "../../../../src/prefill-router/queue/policy-queue.ts";

export interface ModelEntry {
  readonly id: number;
  readonly arrival: Arrival;
  readonly sequence: number;
}

function scoreOf(entry: ModelEntry, { queuePolicy }: PolicyClass): number {
  const { priorityJump, arrivalSeconds, weight } = entry.arrival;
  if (queuePolicy === "wspt") return (1 + priorityJump) / Math.max(1, weight.rawTokens - weight.cachedTokens);
  return queuePolicy === "fcfs" ? priorityJump - arrivalSeconds : priorityJump + arrivalSeconds;
}

export class QueueModel {
  readonly #classes: readonly PolicyClass[];
  readonly #waiting: ModelEntry[] = [];
  readonly #deficits: number[];
  #cursor = 0;
  #carried: number | undefined;
  #sequence = 0;

  constructor(classes: readonly PolicyClass[]) {
    this.#classes = classes;
    this.#deficits = classes.map(() => 0);
  }

  get size(): number {
    return this.#waiting.length;
  }

  push(id: number, arrival: Arrival): void {
    this.#waiting.push({ id, arrival, sequence: this.#sequence++ });
  }

  remove(id: number): void {
    const index = this.#waiting.findIndex((entry) => entry.id === id);
    const [gone] = this.#waiting.splice(index, 1);
    if (gone !== undefined) this.#resetIfEmpty(gone.arrival.classIndex);
  }

  pop(isReady: (id: number) => boolean): number | undefined {
    const heads = this.#classes.map((_, index) => this.#headOf(index, isReady));
    const carried = this.#carried;
    this.#carried = undefined;
    const canPay = (index: number) => {
      const head = heads[index];
      return head !== undefined && costOf(head) <= (this.#deficits[index] ?? 0);
    };
    if (carried !== undefined && canPay(carried)) return this.#serve(carried, heads[carried]);
    const ring = this.#classes.map((_, offset) => (this.#cursor + offset) % this.#classes.length);
    for (const index of ring) {
      if (heads[index] === undefined) continue;
      if (!canPay(index)) this.#grant(index);
      if (canPay(index)) return this.#serve(index, heads[index]);
    }
    if (heads.every((head) => head === undefined)) return undefined;
    for (;;) {
      for (const index of ring) if (heads[index] !== undefined) this.#grant(index);
      const winner = ring.find(canPay);
      if (winner !== undefined) return this.#serve(winner, heads[winner]);
    }
  }

  #grant(index: number): void {
    this.#deficits[index] = (this.#deficits[index] ?? 0) + (this.#classes[index]?.quantum ?? 0);
  }

  #serve(index: number, head: ModelEntry | undefined): number | undefined {
    if (head === undefined) return undefined;
    this.#deficits[index] = (this.#deficits[index] ?? 0) - costOf(head);
    this.#waiting.splice(this.#waiting.indexOf(head), 1);
    this.#resetIfEmpty(index);
    this.#cursor = (index + 1) % this.#classes.length;
    if ((this.#deficits[index] ?? 0) > 0) this.#carried = index;
    return head.id;
  }

  #resetIfEmpty(index: number): void {
    if (!this.#waiting.some((entry) => entry.arrival.classIndex === index)) this.#deficits[index] = 0;
  }

  #headOf(index: number, isReady: (id: number) => boolean): ModelEntry | undefined {
    const policyClass = this.#classes[index];
    if (policyClass === undefined) return undefined;
    const ordered = this.#waiting
      .filter((entry) => entry.arrival.classIndex === index)
      .sort(
        (a, b) =>
          b.arrival.strictPriority - a.arrival.strictPriority ||
          scoreOf(b, policyClass) - scoreOf(a, policyClass) ||
          a.sequence - b.sequence,
      );
    const lanes = new Set<string | undefined>();
    const heads = ordered.filter((entry) => !lanes.has(entry.arrival.lane) && lanes.add(entry.arrival.lane));
    return heads.find((entry) => isReady(entry.id));
  }
}

function costOf({ arrival: { weight } }: ModelEntry): number {
  return Math.max(1, weight.rawTokens - weight.cachedTokens);
}
