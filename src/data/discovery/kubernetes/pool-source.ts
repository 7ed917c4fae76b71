/**
 * InferencePool objects by name, for every pool that this process serves. One name is watched by itself, so a Role may be narrowed to it; several
 * share a watch of their group.
 */
import { ListWatch } from "../../../net/kubernetes/list-watch.ts";
import { poolCollection, type ReadPool, readPool } from "./inference-pool.ts";
import type { KubernetesContext } from "./kubernetes-context.ts";
import { reportWatch } from "./watch-report.ts";

export interface PoolListener {
  /** Undefined: there is no such object. Also told when nothing has changed. */
  told(pool: ReadPool | undefined): void;
}

export interface PoolSource {
  readonly isStale: boolean;
  readonly lastHeardMs: number;
  /** Of the last failure; undefined when there was none. */
  readonly lastError: unknown;
  /** Before `start`; once for each name. */
  follow(name: string, listener: PoolListener): void;
  start(): void;
  close(): Promise<void>;
}

export function createPoolSource(context: KubernetesContext, group: string): PoolSource {
  return new Source(context, group);
}

class Source implements PoolSource {
  readonly #context: KubernetesContext;
  readonly #group: string;
  readonly #listeners = new Map<string, PoolListener>();
  #watch: ListWatch<ReadPool> | undefined;

  constructor(context: KubernetesContext, group: string) {
    this.#context = context;
    this.#group = group;
  }

  get isStale(): boolean {
    return this.#watch?.isStale ?? true;
  }

  get lastHeardMs(): number {
    return this.#watch?.lastHeardMs ?? Number.NEGATIVE_INFINITY;
  }

  get lastError(): unknown {
    return this.#watch?.lastError;
  }

  follow(name: string, listener: PoolListener): void {
    this.#listeners.set(name, listener);
  }

  start(): void {
    const { api, namespace, log } = this.#context;
    const [only, ...others] = this.#listeners.keys();
    const keyOf = (name: string): string => `${namespace}/${name}`;
    this.#watch = new ListWatch<ReadPool>({
      api,
      path: poolCollection(this.#group, namespace),
      ...(only !== undefined && others.length === 0 ? { fieldSelector: `metadata.name=${only}` } : {}),
      read: readPool,
      report: (event) => reportWatch("InferencePools", event, log),
      listener: {
        replaced: (pools) => {
          for (const [name, listener] of this.#listeners) listener.told(pools.get(keyOf(name)));
        },
        put: (key, pool) => this.#tell(key, pool),
        removed: (key) => this.#tell(key, undefined),
      },
    });
    void this.#watch.start();
  }

  async close(): Promise<void> {
    await this.#watch?.close();
  }

  #tell(key: string, pool: ReadPool | undefined): void {
    this.#listeners.get(key.slice(key.indexOf("/") + 1))?.told(pool);
  }
}
