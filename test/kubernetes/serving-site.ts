/** A namespace that serves: engines at many addresses, a pool over them, the picker as a process that follows the API server, and a real Envoy before it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { findEnvoy, type RunningEnvoy, startEnvoy } from "../../src/app/envoy.ts";
import { type Load, startLoad } from "../e2e/load.ts";
import { defaultModel, eventually } from "../stack.ts";
import { type ControlPlane, freePort } from "./control-plane.ts";
import { createPoolNamespace, type PoolNamespace, poolSpec } from "./pool-namespace.ts";
import { podAddress, storePods } from "./stored-pods.ts";

export const engineLabels = { app: "engine" };
export const poolName = "pool";

export interface SiteOptions {
  readonly namespace: string;
  /** Pods, which are ready: engine-<index> at podAddress(index). */
  readonly pods: number;
  /** Engines, at the addresses of as many pods; default: as many. */
  readonly engines?: number;
  /** Of the API server as the picker sees it, such as a proxy's. */
  readonly apiPort?: number;
  /** Where the picker reads its token; default: it is the administrator. */
  readonly tokenFile?: string;
  readonly args?: readonly string[];
}

export interface ServingSite {
  readonly place: PoolNamespace;
  readonly picker: Child<EppPorts>;
  readonly envoy: RunningEnvoy;
  readonly enginePort: number;
  debug<Answer>(path: string): Promise<Answer>;
  /** Addresses of the picker's endpoints, sorted. */
  addresses(): Promise<readonly string[]>;
  /** Waits until these are its endpoints' addresses. */
  sees(addresses: Iterable<string>): Promise<void>;
  /** Chat requests until it is stopped. */
  traffic(concurrency: number): Load;
  close(): Promise<void>;
}

export async function startServingSite(plane: ControlPlane, options: SiteOptions): Promise<ServingSite> {
  const open: (() => Promise<unknown>)[] = [];
  const close = async (): Promise<void> => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last();
  };
  try {
    const place = await createPoolNamespace(plane, options.namespace);
    const folder = await mkdtemp(join(tmpdir(), "signalbox-site-"));
    open.push(() => rm(folder, { recursive: true, force: true }));
    const enginePort = await freePort();
    const engines = await startEngines(enginePort, options.engines ?? options.pods);
    open.push(() => endEngines(engines));
    await place.putPool(poolName, poolSpec(engineLabels, enginePort));
    const pods = Array.from({ length: options.pods }, (_, index) => ({
      name: `engine-${index}`,
      ip: podAddress(index),
      ready: true,
      labels: engineLabels,
    }));
    await storePods(plane.etcd.url, options.namespace, pods);
    const kubeconfig = join(folder, "kubeconfig");
    await writeFile(kubeconfig, JSON.stringify(kubeconfigOf(plane, options)));
    const picker = await startEppChild(
      [
        `--pool-name=${poolName}`,
        `--pool-namespace=${options.namespace}`,
        "--secure-serving=false",
        "--metrics-endpoint-auth=false",
        // A thousand engines in one process are not scraped twenty times a second each.
        "--refresh-metrics-interval=5s",
        "--drain-timeout=0s",
        "--drain-grace=1s",
        ...(options.args ?? []),
      ],
      { environment: { KUBECONFIG: kubeconfig }, timeoutMs: 60_000 },
    );
    open.push(() => picker.close());
    const envoy = await startEnvoy({
      mode: "full-duplex",
      binary: findEnvoy(process.env),
      picker: { port: picker.ready.grpcPort, tls: false },
      listenPort: 0,
    });
    open.push(() => envoy.close());
    const base = `http://127.0.0.1:${picker.ready.metricsPort}`;
    const debug = async <Answer>(path: string): Promise<Answer> =>
      (await (await fetch(`${base}${path}`)).json()) as Answer;
    const addresses = async (): Promise<readonly string[]> =>
      (await debug<readonly { readonly address: string }[]>("/debug/endpoints"))
        .map(({ address }) => address.slice(0, address.lastIndexOf(":")))
        .sort();
    const sees = async (wanted: Iterable<string>): Promise<void> => {
      const expected = [...wanted].sort().join();
      await eventually(
        "the endpoints are those of the pods",
        async () => (await addresses()).join() === expected,
        90_000,
      );
    };
    await sees(pods.map(({ ip }) => ip));
    return {
      place,
      picker,
      envoy,
      enginePort,
      debug,
      addresses,
      sees,
      traffic: (concurrency) => startLoad({ url: `${envoy.url}/v1/chat/completions`, concurrency, body: chatBody }),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function chatBody(i: number): string {
  return JSON.stringify({ model: defaultModel, messages: [{ role: "user", content: `conversation ${i}` }] });
}

function kubeconfigOf(plane: ControlPlane, { namespace, apiPort = plane.port, tokenFile }: SiteOptions): object {
  const { ca, admin } = plane.certificates;
  const user = tokenFile === undefined ? { "client-certificate": admin.cert, "client-key": admin.key } : { tokenFile };
  return {
    "current-context": "test",
    clusters: [{ name: "test", cluster: { server: `https://127.0.0.1:${apiPort}`, "certificate-authority": ca } }],
    users: [{ name: "picker", user }],
    contexts: [{ name: "test", context: { cluster: "test", user: "picker", namespace } }],
  };
}

async function startEngines(port: number, count: number): Promise<ChildProcess> {
  const script = join(import.meta.dirname, "answering-addresses.ts");
  const child = spawn(process.execPath, [script, String(port), String(count)], { stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(child, "exit").then(() => {
    throw new Error("the engines ended before they listened");
  });
  await Promise.race([once(child.stdout, "data"), ended]);
  // From here on its end is expected.
  ended.catch(() => {});
  return child;
}

async function endEngines(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}
