/**
 * Which workers are ready, and which pod each of them is: told by EndpointSlices, or in container mode by the pods themselves. While slices are
 * resharded two of them may hold one pod, so it stays ready until both have let go; a name that stands for two pods at once is nobody's
 * (Dynamo 1.6.1: dynamo-runtime, src/discovery/kube/daemon/state.rs).
 */

import type { KubernetesObject } from "../../../net/kubernetes/list-watch.ts";
import { isObject, type JsonObject } from "../../record-json.ts";

/** A worker in Kubernetes: the name of its metadata object, which its instance id is made of, and its pod's uid. */
export interface ReadyWorker {
  readonly name: string;
  readonly podUid: string;
}

/** Container that registers under its pod's name. */
const mainContainer = "main";

/** The name of the metadata object of a worker, from which comes its instance id. */
export function workerName(pod: string, container: string): string {
  return container === mainContainer ? pod : `${pod}-${container}`;
}

/** Endpoints of an EndpointSlice that are ready. One without its pod's uid is passed over: the name alone may be another pod's by now. */
export function readyInSlice(slice: KubernetesObject): readonly ReadyWorker[] {
  const ready: ReadyWorker[] = [];
  for (const endpoint of listOf(slice, "endpoints")) {
    const { conditions, targetRef } = endpoint;
    if (!isObject(conditions) || conditions["ready"] !== true || !isObject(targetRef)) continue;
    const { name, uid } = targetRef;
    if (isName(name) && isName(uid)) ready.push({ name, podUid: uid });
  }
  return ready;
}

/** Containers of a pod that are ready, each a worker of its own. */
export function readyInPod(pod: KubernetesObject): readonly ReadyWorker[] {
  const { name, uid } = pod.metadata;
  const { status } = pod as { readonly status?: unknown };
  if (!isName(uid) || !isObject(status)) return [];
  return listOf(status, "containerStatuses")
    .filter((container) => container["ready"] === true && isName(container["name"]))
    .map((container) => ({ name: workerName(name, String(container["name"])), podUid: uid }));
}

function listOf(holder: object, key: string): readonly JsonObject[] {
  const list = (holder as JsonObject)[key];
  return Array.isArray(list) ? list.filter(isObject) : [];
}

function isName(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

export class ReadinessIndex {
  readonly #byObject = new Map<string, readonly ReadyWorker[]>();
  /** Worker → pod uid → objects that say so. */
  readonly #byWorker = new Map<string, Map<string, number>>();

  /** Names of the workers this may have changed. */
  put(object: string, ready: readonly ReadyWorker[]): ReadonlySet<string> {
    const touched = new Set(this.remove(object));
    const own = withoutRepeats(ready);
    for (const { name, podUid } of own) {
      touched.add(name);
      const uids = this.#byWorker.get(name) ?? new Map<string, number>();
      uids.set(podUid, (uids.get(podUid) ?? 0) + 1);
      this.#byWorker.set(name, uids);
    }
    if (own.length > 0) this.#byObject.set(object, own);
    return touched;
  }

  remove(object: string): ReadonlySet<string> {
    const touched = new Set<string>();
    for (const { name, podUid } of this.#byObject.get(object) ?? []) {
      touched.add(name);
      const uids = this.#byWorker.get(name);
      const left = (uids?.get(podUid) ?? 0) - 1;
      if (left > 0) uids?.set(podUid, left);
      else uids?.delete(podUid);
      if (uids?.size === 0) this.#byWorker.delete(name);
    }
    this.#byObject.delete(object);
    return touched;
  }

  replace(objects: ReadonlyMap<string, readonly ReadyWorker[]>): ReadonlySet<string> {
    const touched = new Set<string>();
    for (const object of this.#byObject.keys()) {
      if (!objects.has(object)) for (const name of this.remove(object)) touched.add(name);
    }
    for (const [object, ready] of objects) for (const name of this.put(object, ready)) touched.add(name);
    return touched;
  }

  /** Undefined: not ready, or two pods at once. */
  podUidOf(worker: string): string | undefined {
    const uids = this.#byWorker.get(worker);
    if (uids?.size !== 1) return undefined;
    const [uid] = uids.keys();
    return uid;
  }
}

function withoutRepeats(ready: readonly ReadyWorker[]): readonly ReadyWorker[] {
  const seen = new Set<string>();
  return ready.filter(({ name, podUid }) => {
    const id = `${name}/${podUid}`;
    if (seen.has(id)) return false;
    seen.add(id);
    return true;
  });
}
