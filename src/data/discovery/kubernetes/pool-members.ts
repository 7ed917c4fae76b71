/**
 * The pods of one pool as endpoints in its store. A changed selector is a new list: the endpoints of the old one stay, and stay current, until
 * the new one is complete; then what is in both goes on as the same endpoint.
 */

import { endpointName } from "../../endpoint.ts";
import type { EndpointSpec, EndpointWriter } from "../../endpoint-store.ts";
import { type InferencePool, samePorts } from "./inference-pool.ts";
import { endpointsOfPod, rankName, type ServingPod } from "./pod.ts";
import type { PodFollowing, PodSource } from "./pod-source.ts";

type Wanted = Pick<InferencePool, "selector" | "targetPorts">;

/** What the endpoint store knows them by. */
const source = "kubernetes";

export class PoolMembers {
  readonly #pods: PodSource;
  readonly #store: EndpointWriter;
  readonly #closing = new Set<Promise<void>>();
  /** What the store shows. */
  #current: Selection | undefined;
  /** What it will show once its list is complete. */
  #next: Selection | undefined;

  constructor(pods: PodSource, store: EndpointWriter) {
    this.#pods = pods;
    this.#store = store;
  }

  /** The store shows the pods of a complete list. */
  get isListed(): boolean {
    return this.#current !== undefined;
  }

  /** A list that has been asked for is not complete. */
  get isListing(): boolean {
    return this.#next !== undefined;
  }

  /** Serving pods, whatever their ports. */
  get pods(): number {
    return this.#current?.pods.size ?? 0;
  }

  /** Of what the store shows, else of what it will show. */
  get watch(): Pick<PodFollowing, "isStale" | "lastHeardMs"> | undefined {
    return (this.#current ?? this.#next)?.following;
  }

  select(wanted: Wanted): void {
    if (this.#current?.selector === wanted.selector) {
      this.#drop(this.#next);
      this.#next = undefined;
      this.#setPorts(this.#current, wanted.targetPorts);
    } else if (this.#next?.selector === wanted.selector) {
      this.#next.targetPorts = wanted.targetPorts;
    } else {
      this.#drop(this.#next);
      this.#next = new Selection(wanted);
      this.#follow(this.#next);
    }
  }

  /** The pool is gone, and its endpoints with it. */
  clear(): void {
    this.#drop(this.#next);
    this.#drop(this.#current);
    this.#next = undefined;
    this.#current = undefined;
    this.#store.replaceAll(source, []);
  }

  /** What is in the store stays. */
  async close(): Promise<void> {
    this.#drop(this.#next);
    this.#drop(this.#current);
    await Promise.all(this.#closing);
  }

  #follow(selection: Selection): void {
    selection.following = this.#pods.follow(selection.selector, {
      replaced: (pods) => this.#replaced(selection, pods),
      put: (pod) => {
        if (selection === this.#current) this.#put(pod, selection.targetPorts);
      },
      removed: (pod) => {
        if (selection === this.#current) this.#removed(pod, selection.targetPorts);
      },
    });
    // It may have been told and dropped while it began.
    if (selection.isDropped) this.#stop(selection);
  }

  #replaced(selection: Selection, pods: ReadonlyMap<string, ServingPod>): void {
    if (selection.isDropped) return;
    selection.pods = pods;
    if (selection === this.#next) {
      this.#drop(this.#current);
      this.#current = selection;
      this.#next = undefined;
    }
    this.#store.replaceAll(source, endpointsOf(pods, selection.targetPorts));
    this.#store.markSynced();
  }

  #setPorts(selection: Selection, targetPorts: readonly number[]): void {
    if (samePorts(selection.targetPorts, targetPorts)) return;
    selection.targetPorts = targetPorts;
    this.#store.replaceAll(source, endpointsOf(selection.pods, targetPorts));
  }

  #put(pod: ServingPod, targetPorts: readonly number[]): void {
    for (const [rank, spec] of endpointsOfPod(pod, targetPorts).entries()) {
      if (spec === undefined) this.#store.remove(source, endpointName(pod.namespace, rankName(pod, rank)));
      else this.#store.upsert(source, spec);
    }
  }

  #removed(pod: ServingPod, targetPorts: readonly number[]): void {
    for (const rank of targetPorts.keys()) {
      this.#store.remove(source, endpointName(pod.namespace, rankName(pod, rank)));
    }
  }

  #drop(selection: Selection | undefined): void {
    if (selection === undefined) return;
    selection.isDropped = true;
    this.#stop(selection);
  }

  #stop(selection: Selection): void {
    if (selection.following === undefined) return;
    const closing = selection.following.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
    selection.following = undefined;
  }
}

class Selection {
  readonly selector: string;
  targetPorts: readonly number[];
  following: PodFollowing | undefined;
  pods: ReadonlyMap<string, ServingPod> = new Map();
  isDropped = false;

  constructor({ selector, targetPorts }: Wanted) {
    this.selector = selector;
    this.targetPorts = targetPorts;
  }
}

function endpointsOf(pods: ReadonlyMap<string, ServingPod>, targetPorts: readonly number[]): readonly EndpointSpec[] {
  const specs: EndpointSpec[] = [];
  for (const pod of pods.values()) {
    for (const spec of endpointsOfPod(pod, targetPorts)) if (spec !== undefined) specs.push(spec);
  }
  return specs;
}
