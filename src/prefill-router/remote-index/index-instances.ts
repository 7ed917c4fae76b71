/**
 * Who serves the index of one component, and whose turn it is: round-robin, as Dynamo asks. One that has failed is left alone for a moment and
 * then tried by a single request, so that a server that hangs delays few.
 */
import { queryEndpoint, recordEndpoint } from "../../dynamo/kv-index/index-endpoints.ts";
import type { EventScope, InstanceRecord } from "../../dynamo/records.ts";
import type { RemoteFailure } from "./remote-counters.ts";

/** Who answers at an endpoint now; the same array until one comes or goes. */
export type InstanceLookup = (endpoint: EventScope) => readonly InstanceRecord[];

export interface Component {
  readonly namespace: string;
  readonly component: string;
}

export type InstanceChoice =
  | { readonly kind: "instance"; readonly instance: InstanceRecord }
  | { readonly kind: "none"; readonly reason: RemoteFailure; readonly message: string };

const restMs = 1000;

export class IndexInstances {
  readonly #lookup: InstanceLookup;
  readonly #query: EventScope;
  readonly #record: EventScope;
  /** The index is fed by events, not by decisions. */
  readonly #isFedByEvents: boolean;
  readonly #now: () => number;
  readonly #restsUntilMs = new Map<bigint, number>();
  #known: readonly InstanceRecord[] = [];
  #turn = 0;

  constructor({ namespace, component }: Component, isFedByEvents: boolean, lookup: InstanceLookup, now: () => number) {
    this.#lookup = lookup;
    this.#query = { namespace, component, endpoint: queryEndpoint };
    this.#record = { namespace, component, endpoint: recordEndpoint };
    this.#isFedByEvents = isFedByEvents;
    this.#now = now;
  }

  /** Of those that were last chosen from, one at least has not just failed. */
  get isSomeoneFit(): boolean {
    return this.#fault() === undefined && this.#known.some(({ instanceId }) => !this.#restsUntilMs.has(instanceId));
  }

  /** Whom to ask now. */
  forQuery(): InstanceChoice {
    return this.#choose(this.#lookup(this.#query));
  }

  /** Whom to write to: the one there is. */
  forRecord(): InstanceChoice {
    return this.#choose(this.#lookup(this.#record));
  }

  succeeded({ instanceId }: InstanceRecord): void {
    this.#restsUntilMs.delete(instanceId);
  }

  failed({ instanceId }: InstanceRecord): void {
    this.#restsUntilMs.set(instanceId, this.#now() + restMs);
  }

  #choose(candidates: readonly InstanceRecord[]): InstanceChoice {
    const fault = this.#fault();
    if (fault !== undefined) return { kind: "none", reason: "topology", message: fault };
    if (candidates !== this.#known) this.#forgetOthers(candidates);
    if (candidates.length === 0) {
      return { kind: "none", reason: "no-instance", message: "nobody serves an index there" };
    }
    const nowMs = this.#now();
    for (let tried = 0; tried < candidates.length; tried++) {
      this.#turn = (this.#turn + 1) % candidates.length;
      const instance = candidates[this.#turn] as InstanceRecord;
      const restsUntilMs = this.#restsUntilMs.get(instance.instanceId);
      if (restsUntilMs === undefined) return { kind: "instance", instance };
      if (restsUntilMs > nowMs) continue;
      // One request finds out whether it is back; the others go on without it meanwhile.
      this.#restsUntilMs.set(instance.instanceId, nowMs + restMs);
      return { kind: "instance", instance };
    }
    return { kind: "none", reason: "resting", message: "everybody who serves an index there has just failed" };
  }

  /** Dynamo's own rules: decisions reach one index only, so there is one, and it is not mixed with those that events feed. */
  #fault(): string | undefined {
    const queries = this.#lookup(this.#query);
    const records = this.#lookup(this.#record);
    if (queries.length === 0 && records.length === 0) return undefined;
    if (this.#isFedByEvents) {
      return records.length === 0 ? undefined : "an index fed by decisions is served there, and events are to feed it";
    }
    if (queries.length !== 1 || records.length !== 1) {
      return "an index fed by decisions must be served by exactly one process";
    }
    return queries[0]?.instanceId === records[0]?.instanceId
      ? undefined
      : "questions and decisions would go to different processes";
  }

  #forgetOthers(candidates: readonly InstanceRecord[]): void {
    this.#known = candidates;
    if (this.#restsUntilMs.size === 0) return;
    const there = new Set(candidates.map(({ instanceId }) => instanceId));
    for (const id of this.#restsUntilMs.keys()) if (!there.has(id)) this.#restsUntilMs.delete(id);
  }
}
