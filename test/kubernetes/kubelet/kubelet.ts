/**
 * A node of one's own for tests: takes every pod of the cluster, runs it as local processes (real addresses, probes, volumes, accounts; no image is
 * pulled and nothing is limited) and writes its status. Must run inside `unshare -rn`.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { KubernetesApi } from "../../../src/net/kubernetes/api-client.ts";
import { KubernetesApiError } from "../../../src/net/kubernetes/api-client.ts";
import { type KubernetesObject, ListWatch } from "../../../src/net/kubernetes/list-watch.ts";
import type { Image } from "./container.ts";
import { createPodNetwork } from "./pod-network.ts";
import type { Pod } from "./pod-objects.ts";
import { RunningPod } from "./running-pod.ts";

export interface KubeletOptions {
  /** Of an administrator. */
  readonly api: KubernetesApi;
  /** Exists; the kubelet's own. */
  readonly folder: string;
  readonly caFile: Buffer;
  readonly apiServer: { readonly host: string; readonly port: number };
  /** By a part of the image's name. */
  readonly images: Readonly<Record<string, Image>>;
}

export interface Kubelet {
  /** What it did, newest last; bounded. */
  readonly lines: readonly string[];
  /** Log files of a pod's containers are in it. */
  podFolder(uid: string): string;
  /** Undefined: no such container runs. */
  pidOf(namespace: string, pod: string, container: string): number | undefined;
  close(): Promise<void>;
}

const nodeName = "node";
const keptLines = 500;

export async function startKubelet(options: KubeletOptions): Promise<Kubelet> {
  const { api, images } = options;
  const folder = join(options.folder, "pods");
  await mkdir(folder, { recursive: true });
  const network = await createPodNetwork(options.folder);
  const lines: string[] = [];
  const log = (text: string): void => {
    lines.push(`${new Date().toISOString()} ${text}`);
    if (lines.length > keptLines) lines.shift();
  };
  const imageOf = (name: string): Image => {
    const found = Object.entries(images).find(([part]) => name.includes(part))?.[1];
    if (found === undefined) throw new Error(`nothing stands for the image ${name}`);
    return found;
  };
  const running = new Map<string, RunningPod>();
  const ending = new Map<string, Promise<void>>();

  const send = async (method: "POST" | "DELETE", path: string, body: object): Promise<void> => {
    await api.request({ method, path, body: JSON.stringify(body) }).catch((error: unknown) => {
      // Done before, or gone meanwhile.
      if (!(error instanceof KubernetesApiError) || (error.status !== 409 && error.status !== 404)) {
        log(error instanceof Error ? error.message : String(error));
      }
    });
  };
  const end = (uid: string, graceMs: number, after: () => Promise<void>): void => {
    const pod = running.get(uid);
    if (ending.has(uid)) return;
    running.delete(uid);
    const done = (async () => {
      await pod?.stop(graceMs);
      await after();
    })().finally(() => ending.delete(uid));
    ending.set(uid, done);
  };
  const take = (pod: Pod): void => {
    const { name, namespace, uid, deletionTimestamp, deletionGracePeriodSeconds = 0 } = pod.metadata;
    const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
    if (deletionTimestamp !== undefined) {
      end(uid, deletionGracePeriodSeconds * 1000, () =>
        send("DELETE", path, { gracePeriodSeconds: 0, preconditions: { uid } }),
      );
      return;
    }
    if (running.has(uid) || ending.has(uid)) return;
    if (pod.spec.nodeName === undefined) {
      void send("POST", `${path}/binding`, { metadata: { name }, target: { kind: "Node", name: nodeName } });
      return;
    }
    const started = new RunningPod(pod, { ...options, folder, network, imageOf, log });
    running.set(uid, started);
    started.start();
  };

  await send("POST", "/api/v1/nodes", { metadata: { name: nodeName } });
  const keys = new Map<string, string>();
  const gone = (uid: string): void => end(uid, 0, () => Promise.resolve());
  const watch = new ListWatch<Pod>({
    api,
    path: "/api/v1/pods",
    read: (object: KubernetesObject) => object as Pod,
    listener: {
      replaced(pods) {
        const present = new Set([...pods.values()].map(({ metadata: { uid } }) => uid));
        for (const uid of running.keys()) if (!present.has(uid)) gone(uid);
        keys.clear();
        for (const [key, pod] of pods) {
          keys.set(key, pod.metadata.uid);
          take(pod);
        }
      },
      put(key, pod) {
        const known = keys.get(key);
        if (known !== undefined && known !== pod.metadata.uid) gone(known);
        keys.set(key, pod.metadata.uid);
        take(pod);
      },
      removed(key) {
        const uid = keys.get(key);
        keys.delete(key);
        if (uid !== undefined) gone(uid);
      },
    },
  });
  await watch.start();
  return {
    lines,
    podFolder: (uid) => join(folder, uid),
    pidOf: (namespace, name, container) =>
      [...running.values()]
        .find(({ pod: { metadata } }) => metadata.namespace === namespace && metadata.name === name)
        ?.pidOf(container),
    async close() {
      await watch.close();
      await Promise.all([...running.values()].map((pod) => pod.stop(0)));
      await Promise.all(ending.values());
      await network.close();
    },
  };
}
