/**
 * Where the API server is and who asks. Everything is read anew for each request, since tokens, certificates and authorities rotate under a
 * running process. In a pod the service account's files are read here; a kubeconfig (logins by command, proxies) is the library's, which is
 * loaded only then: it costs about 90 MB.
 */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import type { Agent } from "node:http";
import type { RequestOptions } from "node:https";
import { isIPv6 } from "node:net";
import { homedir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";

export interface ApiTls {
  readonly ca: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  readonly serverName: string | undefined;
  readonly verifies: boolean;
}

export interface ApiAccess {
  /** "https://host:port", without a slash at its end. */
  readonly server: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly tls: ApiTls;
  /** Set where requests go through a proxy. */
  readonly agent?: Agent;
}

export interface ApiCredentials {
  /** Rejects when a file cannot be read. */
  access(): Promise<ApiAccess>;
}

type Environment = Readonly<Record<string, string | undefined>>;

const serviceAccountFolder = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Where the pod's service account is mounted: SIGNALBOX_SERVICE_ACCOUNT_FOLDER, else where Kubernetes mounts it. */
export function accountFolderOf(environment: Environment): string {
  return environment["SIGNALBOX_SERVICE_ACCOUNT_FOLDER"] || serviceAccountFolder;
}

/** KUBECONFIG, else the pod's service account, else ~/.kube/config. Undefined where there is none of them. */
export function findCredentials(
  environment: Environment,
  accountFolder: string = accountFolderOf(environment),
): ApiCredentials | undefined {
  const files = (environment["KUBECONFIG"] ?? "").split(delimiter).filter((file) => file !== "");
  if (files.length > 0) return kubeconfigCredentials(files);
  const host = environment["KUBERNETES_SERVICE_HOST"];
  if (host !== undefined && host !== "" && existsSync(join(accountFolder, "token"))) {
    return accountCredentials(host, environment["KUBERNETES_SERVICE_PORT"] ?? "443", accountFolder);
  }
  const own = join(environment["HOME"] ?? homedir(), ".kube/config");
  return existsSync(own) ? kubeconfigCredentials([own]) : undefined;
}

/** Of the service account whose files are in the folder. */
export function accountCredentials(host: string, port: string, folder: string): ApiCredentials {
  const server = `https://${isIPv6(host) ? `[${host}]` : host}:${port}`;
  return {
    async access() {
      const [token, ca] = await Promise.all([
        readFile(join(folder, "token"), "utf8"),
        readFile(join(folder, "ca.crt"), "utf8"),
      ]);
      return {
        server,
        headers: { authorization: `Bearer ${token.trim()}` },
        tls: { ca, cert: undefined, key: undefined, serverName: undefined, verifies: true },
      };
    },
  };
}

/** Of the current context; the first of several files wins where they disagree. */
export function kubeconfigCredentials(files: readonly string[]): ApiCredentials {
  return {
    async access() {
      const { KubeConfig } = await import("@kubernetes/client-node");
      const [first = "", ...others] = files;
      const config = new KubeConfig();
      config.loadFromFile(first);
      for (const file of others) {
        const more = new KubeConfig();
        more.loadFromFile(file);
        config.mergeConfig(more);
      }
      const cluster = config.getCurrentCluster();
      if (cluster === null) throw new Error(`${files.join(delimiter)}: the current context names no cluster`);
      const options: RequestOptions = {};
      await config.applyToHTTPSOptions(options);
      const token = await tokenOfFile(files, config.getCurrentUser()?.name);
      return {
        server: cluster.server.replace(/\/+$/, ""),
        headers: { ...headersOf(options), ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) },
        tls: {
          ca: pemOf(options.ca),
          cert: pemOf(options.cert),
          key: pemOf(options.key),
          serverName: options.servername,
          verifies: options.rejectUnauthorized !== false,
        },
        ...(cluster.proxyUrl !== undefined && options.agent instanceof Object ? { agent: options.agent } : {}),
      };
    },
  };
}

/** A user's `tokenFile`, which the library does not know and which stands before a token; of the first file that has the user. */
async function tokenOfFile(files: readonly string[], userName: string | undefined): Promise<string | undefined> {
  const { parse } = await import("yaml");
  for (const file of files) {
    const config = parse(await readFile(file, "utf8")) as {
      readonly users?: readonly { readonly name?: string; readonly user?: { readonly tokenFile?: string } }[];
    } | null;
    const named = config?.users?.find(({ name }) => name === userName);
    if (named === undefined) continue;
    const path = named.user?.tokenFile;
    return path === undefined ? undefined : (await readFile(resolve(dirname(file), path), "utf8")).trim();
  }
  return undefined;
}

function headersOf({ headers, auth }: RequestOptions): Record<string, string> {
  const given: Record<string, string> = {};
  for (const [name, value] of Object.entries(headers ?? {})) {
    if (value !== undefined) given[name.toLowerCase()] = Array.isArray(value) ? value.join(", ") : String(value);
  }
  if (typeof auth === "string") given["authorization"] = `Basic ${Buffer.from(auth).toString("base64")}`;
  return given;
}

function pemOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  return Buffer.isBuffer(value) ? value.toString("utf8") : undefined;
}
