/**
 * Pods of the namespace by label selector, for every pool that asks: pools of one selector share a watch, and a watch that nobody follows any
 * more is closed. The API server does the selecting.
 */
import { ListWatch } from "../../../net/kubernetes/list-watch.ts";
import type { KubernetesContext } from "./kubernetes-context.ts";
import { readServingPod, type ServingPod } from "./pod.ts";
import { reportWatch } from "./watch-report.ts";

export interface PodListener {
  /** All that serve, by key. Told at once where they are known already. */
  replaced(pods: ReadonlyMap<string, ServingPod>): void;
  put(pod: ServingPod): void;
  removed(pod: ServingPod): void;
}

export interface PodFollowing {
  /** Serving pods as last told; undefined before the first complete list. */
  readonly pods: ReadonlyMap<string, ServingPod> | undefined;
  readonly isStale: boolean;
  readonly lastHeardMs: number;
  close(): Promise<void>;
}

export interface PodSource {
  follow(selector: string, listener: PodListener): PodFollowing;
}

export function createPodSource(context: KubernetesContext): PodSource {
  const watches = new Map<string, SharedWatch>();
  return {
    follow(selector, listener) {
      let shared = watches.get(selector);
      if (shared === undefined) {
        shared = new SharedWatch(context, selector);
        watches.set(selector, shared);
        shared.start();
      }
      const watch = shared;
      watch.add(listener);
      return {
        get pods() {
          return watch.pods;
        },
        get isStale() {
          return watch.isStale;
        },
        get lastHeardMs() {
          return watch.lastHeardMs;
        },
        async close() {
          if (!watch.drop(listener)) return;
          watches.delete(selector);
          await watch.close();
        },
      };
    },
  };
}

class SharedWatch {
  readonly #listWatch: ListWatch<ServingPod>;
  readonly #pods = new Map<string, ServingPod>();
  #listeners: readonly PodListener[] = [];

  constructor({ api, namespace, log }: KubernetesContext, selector: string) {
    const what = selector === "" ? "pods" : `pods of ${selector}`;
    this.#listWatch = new ListWatch<ServingPod>({
      api,
      path: `/api/v1/namespaces/${namespace}/pods`,
      ...(selector === "" ? {} : { labelSelector: selector }),
      read: readServingPod,
      report: (event) => reportWatch(what, event, log),
      listener: {
        replaced: (pods) => this.#replaced(pods),
        put: (key, pod) => this.#put(key, pod),
        removed: (key) => this.#removed(key),
      },
    });
  }

  get pods(): ReadonlyMap<string, ServingPod> | undefined {
    return this.#listWatch.isSynced ? this.#pods : undefined;
  }

  get isStale(): boolean {
    return this.#listWatch.isStale;
  }

  get lastHeardMs(): number {
    return this.#listWatch.lastHeardMs;
  }

  start(): void {
    void this.#listWatch.start();
  }

  add(listener: PodListener): void {
    this.#listeners = [...this.#listeners, listener];
    if (this.#listWatch.isSynced) listener.replaced(this.#pods);
  }

  /** True when nobody is left. */
  drop(listener: PodListener): boolean {
    const had = this.#listeners.length;
    this.#listeners = this.#listeners.filter((other) => other !== listener);
    return had > 0 && this.#listeners.length === 0;
  }

  close(): Promise<void> {
    return this.#listWatch.close();
  }

  #replaced(pods: ReadonlyMap<string, ServingPod>): void {
    // A pod that was made anew under its name while nobody looked is another server, even at the old address.
    for (const [key, known] of this.#pods) {
      if (pods.has(key) && pods.get(key)?.uid !== known.uid) this.#removed(key);
    }
    this.#pods.clear();
    for (const [key, pod] of pods) this.#pods.set(key, pod);
    for (const listener of this.#listeners) listener.replaced(this.#pods);
  }

  #put(key: string, pod: ServingPod): void {
    const known = this.#pods.get(key);
    if (known !== undefined && known.uid !== pod.uid) this.#removed(key);
    this.#pods.set(key, pod);
    for (const listener of this.#listeners) listener.put(pod);
  }

  #removed(key: string): void {
    const pod = this.#pods.get(key);
    if (pod === undefined) return;
    this.#pods.delete(key);
    for (const listener of this.#listeners) listener.removed(pod);
  }
}
