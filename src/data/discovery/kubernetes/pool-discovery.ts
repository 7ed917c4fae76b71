/**
 * Endpoints of one pool out of Kubernetes: those of an InferencePool object, or of a label selector where there are no such objects. A pool that
 * is missing is waited for; while the API server is away, what it last said stands.
 */
import type { Logger } from "../../../telemetry/log.ts";
import type { EndpointWriter } from "../../endpoint-store.ts";
import type { Discovery } from "../discovery.ts";
import { type InferencePool, type ReadPool, samePool } from "./inference-pool.ts";
import type { PodSource } from "./pod-source.ts";
import { PoolMembers } from "./pool-members.ts";
import type { PoolSource } from "./pool-source.ts";

export type PoolState =
  /** The API server has not said yet whether there is such a pool. */
  | { readonly kind: "unheard" }
  /** There is none: nothing can be meant for it. */
  | { readonly kind: "absent" }
  /** It has never been one that can be served. */
  | { readonly kind: "faulty" }
  /** Its pods are not listed yet. */
  | { readonly kind: "listing"; readonly pool: InferencePool }
  | { readonly kind: "listed"; readonly pool: InferencePool };

export interface DiscoveryAge {
  /** The API server does not answer; what is shown is what it last said. */
  readonly isStale: boolean;
  /** How long it has been silent; 0 while it is not stale, undefined when nothing was ever heard. */
  readonly ageMs: number | undefined;
}

export interface KubernetesDiscovery extends Discovery {
  readonly state: PoolState;
  /** Pods that serve, whatever their ports. */
  readonly pods: number;
  /** What is wrong with the object as it is now, where the last good one stands in for it. */
  readonly faults: readonly string[];
  age(nowMs: number): DiscoveryAge;
}

export interface PoolDiscoveryOptions {
  readonly pods: PodSource;
  readonly log: Logger;
  readonly from:
    | { readonly kind: "object"; readonly name: string; readonly pools: PoolSource }
    | { readonly kind: "selector"; readonly pool: InferencePool };
}

/** Follows its pool from `start` on; the source of pool objects is started after it. */
export function createPoolDiscovery(options: PoolDiscoveryOptions): KubernetesDiscovery {
  return new PoolDiscovery(options);
}

class PoolDiscovery implements KubernetesDiscovery {
  readonly #options: PoolDiscoveryOptions;
  #members: PoolMembers | undefined;
  /** The last good one; undefined where there is none. */
  #pool: InferencePool | undefined;
  #isHeard = false;
  #faults: readonly string[] = [];
  #isClosed = false;

  constructor(options: PoolDiscoveryOptions) {
    this.#options = options;
  }

  get state(): PoolState {
    if (this.#pool !== undefined) {
      return { kind: this.#members?.isListed === true ? "listed" : "listing", pool: this.#pool };
    }
    if (this.#faults.length > 0) return { kind: "faulty" };
    return { kind: this.#isHeard ? "absent" : "unheard" };
  }

  get pods(): number {
    return this.#members?.pods ?? 0;
  }

  get faults(): readonly string[] {
    return this.#faults;
  }

  age(nowMs: number): DiscoveryAge {
    const { from } = this.#options;
    const watches = [...(from.kind === "object" ? [from.pools] : []), this.#members?.watch].filter(
      (watch) => watch !== undefined,
    );
    const stale = watches.filter(({ isStale }) => isStale);
    if (watches.length > 0 && stale.length === 0) return { isStale: false, ageMs: 0 };
    const lastHeardMs = Math.min(...stale.map((watch) => watch.lastHeardMs));
    return { isStale: true, ageMs: Number.isFinite(lastHeardMs) ? nowMs - lastHeardMs : undefined };
  }

  /** Resolves at once: a pool may be long in coming, and the process answers meanwhile that it is not ready. */
  async start(store: EndpointWriter): Promise<void> {
    const { from, pods } = this.#options;
    this.#members = new PoolMembers(pods, store);
    if (from.kind === "selector") this.#found(from.pool);
    else from.pools.follow(from.name, { told: (pool) => this.#told(from.name, pool) });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#members?.close();
  }

  #told(name: string, read: ReadPool | undefined): void {
    if (this.#isClosed) return;
    const { log } = this.#options;
    const wasHeard = this.#isHeard;
    this.#isHeard = true;
    if (read === undefined) {
      if (wasHeard && this.#pool === undefined && this.#faults.length === 0) return;
      log.debug({ pool: name }, "there is no such InferencePool: no endpoints until there is one");
      this.#faults = [];
      this.#pool = undefined;
      this.#members?.clear();
      return;
    }
    if (read.kind === "faulty") {
      if (read.faults.join() === this.#faults.join()) return;
      const what = this.#pool === undefined ? "no endpoints until it can be" : "its last good state stays";
      log.error({ pool: name, faults: read.faults }, `the InferencePool cannot be read: ${what}`);
      this.#faults = read.faults;
      return;
    }
    this.#faults = [];
    if (this.#pool !== undefined && samePool(this.#pool, read.pool)) return;
    log.info({ pool: name, ...read.pool }, "the InferencePool is there or has changed");
    this.#found(read.pool);
  }

  #found(pool: InferencePool): void {
    this.#pool = pool;
    this.#members?.select(pool);
  }
}
