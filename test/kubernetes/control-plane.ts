/**
 * A real control plane for tests: etcd and kube-apiserver on loopback, with RBAC, without controllers or nodes, so that pods are what the test
 * says they are. Ports and folder are its own: several run side by side. A restart keeps address, keys and data.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKubernetesApi, type KubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { type ApiCredentials, accountCredentials } from "../../src/net/kubernetes/credentials.ts";
import { type RunningEtcd, startEtcd } from "../etcd.ts";
import { eventually } from "../stack.ts";
import { type ClusterCertificates, writeCertificates } from "./certificates.ts";
import { toolBinary } from "./tools.ts";

export interface ControlPlane {
  /** "https://127.0.0.1:<port>"; the same after a restart. */
  readonly url: string;
  readonly port: number;
  readonly etcd: RunningEtcd;
  /** Of the administrator. */
  readonly api: KubernetesApi;
  readonly kubeconfig: string;
  readonly certificates: ClusterCertificates;
  /** As the administrator, at another port, such as a proxy's. */
  adminAt(port: number): ApiCredentials;
  /** A folder as a pod has it mounted, with a fresh token of the account. */
  accountFolder(namespace: string, account: string): Promise<string>;
  /** What an account ("system:serviceaccount:namespace:name") has asked for so far; needs the option `audit`. */
  audited(username: string): Promise<readonly AuditEvent[]>;
  /** The token in such a folder. */
  tokenIn(folder: string): Promise<string>;
  /** Data stay. */
  stopApiServer(): Promise<void>;
  startApiServer(): Promise<void>;
  signalApiServer(signal: NodeJS.Signals): void;
  close(): Promise<void>;
}

const startTimeoutMs = 60_000;

export interface ControlPlaneOptions {
  /** Another address of this machine at which it is reached, besides loopback. */
  readonly address?: string;
  /** Keeps a record of what service accounts ask for, for `audited`. */
  readonly audit?: boolean;
}

/** One answered request, or a watch that has begun. */
export interface AuditEvent {
  readonly verb: string;
  readonly requestURI: string;
  readonly user: { readonly username: string };
  readonly objectRef?: {
    readonly apiGroup?: string;
    readonly resource?: string;
    readonly subresource?: string;
    readonly namespace?: string;
    readonly name?: string;
  };
  readonly responseStatus?: { readonly code?: number };
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Of service accounts alone, and nothing of what they send. */
const auditPolicy = {
  apiVersion: "audit.k8s.io/v1",
  kind: "Policy",
  omitStages: ["RequestReceived"],
  rules: [{ level: "Metadata", userGroups: ["system:serviceaccounts"] }, { level: "None" }],
};

export async function startControlPlane({ address, audit = false }: ControlPlaneOptions = {}): Promise<ControlPlane> {
  toolBinary("kube-apiserver");
  const open: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last();
  };
  try {
    const folder = await mkdtemp(join(tmpdir(), "signalbox-kubernetes-"));
    open.push(() => rm(folder, { recursive: true, force: true }));
    const certificates = await writeCertificates(folder, address === undefined ? [] : [address]);
    const etcd = await startEtcd();
    open.push(() => etcd.close());
    const port = await freePort();
    const url = `https://127.0.0.1:${port}`;
    const auditLog = join(folder, "audit.log");
    const auditPolicyFile = join(folder, "audit-policy.json");
    await writeFile(auditPolicyFile, JSON.stringify(auditPolicy));
    const server = new ApiServer([
      ...argumentsOf(port, etcd.url, certificates, address),
      ...(audit ? [`--audit-policy-file=${auditPolicyFile}`, `--audit-log-path=${auditLog}`] : []),
    ]);
    open.push(() => server.stop());
    const admin = await adminAccess(certificates);
    const adminAt = (at: number): ApiCredentials => ({
      access: async () => await Promise.resolve({ server: `https://127.0.0.1:${at}`, ...admin }),
    });
    const api = createKubernetesApi(adminAt(port));
    open.push(() => api.close());
    const isReady = async (): Promise<boolean> => {
      server.check();
      return (await api.request({ path: "/readyz", timeoutMs: 1000 }).catch(() => "")) === "ok";
    };
    const startApiServer = async (): Promise<void> => {
      server.start();
      await eventually("the API server is ready", isReady, startTimeoutMs);
    };
    await startApiServer();
    await eventually("there is a default namespace", () => exists(api, "/api/v1/namespaces/default"), startTimeoutMs);
    const kubeconfig = join(folder, "kubeconfig");
    await writeFile(kubeconfig, JSON.stringify(kubeconfigOf(url, certificates)), { mode: 0o600 });
    return {
      url,
      port,
      etcd,
      api,
      kubeconfig,
      certificates,
      adminAt,
      async accountFolder(namespace, account) {
        const answer = await api.request({
          method: "POST",
          path: `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`,
          body: JSON.stringify({ spec: { expirationSeconds: 600 } }),
        });
        const { status } = JSON.parse(answer) as { readonly status: { readonly token: string } };
        const account_ = join(folder, "accounts", namespace, account);
        await mkdir(account_, { recursive: true });
        await writeFile(join(account_, "ca.crt"), await readFile(certificates.ca));
        await writeFile(join(account_, "token"), status.token);
        return account_;
      },
      async audited(username) {
        const lines = (await readFile(auditLog, "utf8")).split("\n").filter((line) => line !== "");
        return lines.map((line) => JSON.parse(line) as AuditEvent).filter(({ user }) => user.username === username);
      },
      tokenIn: (account) => readFile(join(account, "token"), "utf8"),
      stopApiServer: () => server.stop(),
      startApiServer,
      signalApiServer: (signal) => server.signal(signal),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Requests as the service account whose files are in the folder. */
export function accountApi({ port }: ControlPlane, folder: string): KubernetesApi {
  return createKubernetesApi(accountCredentials("127.0.0.1", String(port), folder));
}

class ApiServer {
  readonly #args: readonly string[];
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #output = "";

  constructor(args: readonly string[]) {
    this.#args = args;
  }

  start(): void {
    const child = spawn(toolBinary("kube-apiserver"), this.#args, { stdio: ["ignore", "ignore", "pipe"] });
    this.#child = child;
    this.#output = "";
    child.stderr.on("data", (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString("utf8")).slice(-4000);
    });
    this.#exited = new Promise((resolve) => {
      child.once("error", () => resolve());
      child.once("exit", () => resolve());
    });
  }

  /** Throws when it has ended by itself. */
  check(): void {
    const child = this.#child;
    if (child === undefined || child.pid === undefined || child.exitCode !== null) {
      throw new Error(`the API server ended: ${this.#output}`);
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** At once: asked to end it waits for watches up to a minute. */
  async stop(): Promise<void> {
    this.#child?.kill("SIGKILL");
    this.#child = undefined;
    await this.#exited;
  }
}

function argumentsOf(
  port: number,
  etcdUrl: string,
  { ca, server, accountKey }: ClusterCertificates,
  address: string | undefined,
): readonly string[] {
  return [
    `--bind-address=${address === undefined ? "127.0.0.1" : "0.0.0.0"}`,
    `--advertise-address=${address ?? "127.0.0.1"}`,
    `--secure-port=${port}`,
    `--etcd-servers=${etcdUrl}`,
    `--client-ca-file=${ca}`,
    `--tls-cert-file=${server.cert}`,
    `--tls-private-key-file=${server.key}`,
    "--authorization-mode=RBAC",
    "--service-account-issuer=https://kubernetes.default.svc",
    `--service-account-key-file=${accountKey}`,
    `--service-account-signing-key-file=${accountKey}`,
    "--service-cluster-ip-range=10.0.0.0/16",
    "--endpoint-reconciler-type=none",
    // It would refuse pods: no controller makes their default account.
    "--disable-admission-plugins=ServiceAccount",
    "--enable-priority-and-fairness=false",
    "--profiling=false",
  ];
}

async function adminAccess({ ca, admin }: ClusterCertificates) {
  const [trusted, cert, key] = await Promise.all([ca, admin.cert, admin.key].map((file) => readFile(file, "utf8")));
  return { headers: {}, tls: { ca: trusted, cert, key, serverName: undefined, verifies: true } };
}

function kubeconfigOf(server: string, { ca, admin }: ClusterCertificates): object {
  return {
    apiVersion: "v1",
    kind: "Config",
    "current-context": "test",
    clusters: [{ name: "test", cluster: { server, "certificate-authority": ca } }],
    users: [{ name: "admin", user: { "client-certificate": admin.cert, "client-key": admin.key } }],
    contexts: [{ name: "test", context: { cluster: "test", user: "admin", namespace: "default" } }],
  };
}

async function exists(api: KubernetesApi, path: string): Promise<boolean> {
  return await api.request({ path }).then(
    () => true,
    () => false,
  );
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() =>
        typeof address === "object" && address !== null ? resolve(address.port) : reject(new Error("no port")),
      );
    });
  });
}
