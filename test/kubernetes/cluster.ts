/**
 * A whole cluster for tests: API server, etcd, the controllers that make pods and endpoint slices out of what is applied, and a node that runs the
 * pods. Everything is real but the node (kubelet/). Must run inside `unshare -rn` (in-namespace.ts).
 */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { type BundleName, installDefinitions } from "./definitions.ts";
import type { Image } from "./kubelet/container.ts";
import { type Kubelet, startKubelet } from "./kubelet/kubelet.ts";
import { nodeAddress } from "./kubelet/pod-network.ts";
import { type ProgramOptions, type RunningProgram, startProgram } from "./kubelet/run-program.ts";
import { toolBinary } from "./tools.ts";

export interface ClusterObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly [key: string]: unknown };
  readonly [key: string]: unknown;
}

export interface Cluster {
  readonly plane: ControlPlane;
  readonly kubelet: Kubelet;
  /** Scratch of the test; goes with the cluster. */
  readonly folder: string;
  apply(...objects: readonly ClusterObject[]): Promise<void>;
  /** Of an object that is there. */
  read<Answer>(kind: ObjectKey): Promise<Answer>;
  list<Item>(path: string): Promise<readonly Item[]>;
  patch(kind: ObjectKey, change: object): Promise<void>;
  remove(kind: ObjectKey): Promise<void>;
  /** Resolves when as many pods with the label are ready, and no others have it. */
  podsReady(namespace: string, label: string, count: number): Promise<readonly ReadyPod[]>;
  /** Runs beside the cluster and ends with it. */
  run(name: string, options: Omit<ProgramOptions, "logFile" | "environment"> & Environment): Promise<RunningProgram>;
  /** What the cluster's programs said last, for the message of a failure. */
  story(): Promise<string>;
  close(): Promise<void>;
}

interface Environment {
  readonly environment?: Readonly<Record<string, string>>;
}

export type ObjectKey = Pick<ClusterObject, "apiVersion" | "kind"> & {
  readonly name: string;
  readonly namespace?: string;
};

export interface ReadyPod {
  readonly name: string;
  readonly uid: string;
  readonly address: string;
}

interface PodItem {
  readonly metadata: { readonly name: string; readonly uid: string; readonly deletionTimestamp?: string };
  readonly status?: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

export interface ClusterOptions {
  readonly images: Readonly<Record<string, Image>>;
  readonly definitions: readonly BundleName[];
}

const controllers = [
  "deployment-controller",
  "replicaset-controller",
  "endpointslice-controller",
  "garbage-collector-controller",
  "namespace-controller",
  "serviceaccount-controller",
];
const readyWithinMs = 120_000;

export async function startCluster({ images, definitions }: ClusterOptions): Promise<Cluster> {
  const open: (() => Promise<unknown>)[] = [];
  const close = async (): Promise<void> => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last();
  };
  try {
    const folder = await mkdtemp(join(tmpdir(), "signalbox-cluster-"));
    open.push(() => rm(folder, { recursive: true, force: true }));
    const plane = await startControlPlane({ address: nodeAddress });
    open.push(() => plane.close());
    const { api, certificates, kubeconfig } = plane;
    await installDefinitions(api, ...definitions);
    const kubelet = await startKubelet({
      api,
      folder,
      caFile: await readFile(certificates.ca),
      apiServer: { host: nodeAddress, port: plane.port },
      images,
    });
    open.push(() => kubelet.close());
    const logs: string[] = [];
    const run: Cluster["run"] = async (name, { environment = {}, ...options }) => {
      const logFile = join(folder, `${name}.log`);
      logs.push(logFile);
      const program = await startProgram({
        ...options,
        environment: { PATH: process.env["PATH"] ?? "", HOME: folder, ...environment },
        logFile,
      });
      open.push(() => program.stop(1000));
      return program;
    };
    await run("kube-controller-manager", {
      command: [
        toolBinary("kube-controller-manager"),
        `--kubeconfig=${kubeconfig}`,
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        `--controllers=${controllers.join(",")}`,
        `--service-account-private-key-file=${certificates.accountKey}`,
        `--root-ca-file=${certificates.ca}`,
      ],
    });
    const list: Cluster["list"] = async <Item>(path: string) =>
      (JSON.parse(await api.request({ path })) as { readonly items: readonly Item[] }).items;
    return {
      plane,
      kubelet,
      folder,
      list,
      run,
      async apply(...objects) {
        for (const object of objects) {
          const { name, namespace } = object.metadata;
          await api.request({
            method: "PATCH",
            path: `${pathOf({ ...object, name, ...(namespace === undefined ? {} : { namespace }) })}?fieldManager=tests&force=true`,
            contentType: "application/apply-patch+yaml",
            body: JSON.stringify(object),
          });
        }
      },
      read: async <Answer>(key: ObjectKey) => JSON.parse(await api.request({ path: pathOf(key) })) as Answer,
      async patch(key, change) {
        const contentType = "application/merge-patch+json";
        await api.request({ method: "PATCH", path: pathOf(key), contentType, body: JSON.stringify(change) });
      },
      async remove(key) {
        await api.request({ method: "DELETE", path: pathOf(key) });
      },
      podsReady: (namespace, label, count) =>
        eventually(
          `${count} pods with ${label} are ready`,
          async () => {
            const query = new URLSearchParams({ labelSelector: label });
            const pods = (await list<PodItem>(`/api/v1/namespaces/${namespace}/pods?${query.toString()}`)).map(
              readyPod,
            );
            const ready = pods.filter((pod) => pod !== undefined);
            return ready.length === count && pods.length === count ? ready : undefined;
          },
          readyWithinMs,
        ),
      async story() {
        const said = await Promise.all(
          logs.map(async (file) => `${file}:\n${(await readFile(file, "utf8")).slice(-3000)}`),
        );
        return [...said, `kubelet:\n${kubelet.lines.slice(-60).join("\n")}`].join("\n\n");
      },
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function readyPod({ metadata, status = {} }: PodItem): ReadyPod | undefined {
  const { podIP, conditions = [] } = status;
  const isReady = conditions.some(({ type, status: value }) => type === "Ready" && value === "True");
  if (!isReady || podIP === undefined || metadata.deletionTimestamp !== undefined) return undefined;
  return { name: metadata.name, uid: metadata.uid, address: podIP };
}

const withoutNamespace = new Set(["Namespace", "Node", "GatewayClass", "ClusterRole", "ClusterRoleBinding"]);

function pathOf({ apiVersion, kind, name, namespace = "default" }: ObjectKey): string {
  const root = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const plural = `${kind.toLowerCase()}${kind.endsWith("s") ? "es" : "s"}`;
  return `${root}${withoutNamespace.has(kind) ? "" : `/namespaces/${namespace}`}/${plural}/${name}`;
}
