/**
 * A real etcd for tests, on free ports with a data folder of its own: from ETCD=, else the PATH, else Debian's etcd-server unpacked without
 * root into .cache/etcd/. Nothing to be had is an error that says what to install.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

export interface RunningEtcd {
  /** "http(s)://127.0.0.1:<port>"; the same after a restart. */
  readonly url: string;
  readonly pid: number;
  /** Graceful; the data stay. */
  stop(): Promise<void>;
  /** SIGKILL; the data stay. */
  kill(): Promise<void>;
  /** Stops it when it runs and starts it again on the same ports; `keepData: false` begins empty. */
  restart(options?: { readonly keepData?: boolean }): Promise<void>;
  close(): Promise<void>;
}

const startTimeoutMs = 15_000;

export interface EtcdTls {
  /** Clients must show a certificate that this one signed, such as itself. */
  readonly certFile: string;
  readonly keyFile: string;
}

export async function startEtcd(args: readonly string[] = [], tls?: EtcdTls): Promise<RunningEtcd> {
  const binary = await findEtcd();
  const folder = await mkdtemp(join(tmpdir(), "signalbox-etcd-"));
  const etcd = new Etcd(binary, folder, await freePort(), await freePort(), await freePort(), args, tls);
  try {
    await etcd.start();
    return etcd;
  } catch (error) {
    await etcd.close();
    throw error;
  }
}

class Etcd implements RunningEtcd {
  readonly url: string;
  readonly #binary: string;
  readonly #folder: string;
  readonly #peerUrl: string;
  readonly #args: readonly string[];
  /** Plain HTTP, whatever the clients' port speaks. */
  readonly #metricsUrl: string;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #output = "";

  constructor(
    binary: string,
    folder: string,
    port: number,
    peerPort: number,
    metricsPort: number,
    args: readonly string[],
    tls: EtcdTls | undefined,
  ) {
    this.#binary = binary;
    this.#folder = folder;
    this.#args =
      tls === undefined
        ? args
        : [
            ...args,
            `--cert-file=${tls.certFile}`,
            `--key-file=${tls.keyFile}`,
            `--trusted-ca-file=${tls.certFile}`,
            "--client-cert-auth",
          ];
    this.url = `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`;
    this.#metricsUrl = `http://127.0.0.1:${metricsPort}`;
    this.#peerUrl = `http://127.0.0.1:${peerPort}`;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  async start(): Promise<void> {
    const { url } = this;
    const peerUrl = this.#peerUrl;
    const child = spawn(
      this.#binary,
      [
        `--data-dir=${join(this.#folder, "data")}`,
        `--listen-client-urls=${url}`,
        `--advertise-client-urls=${url}`,
        `--listen-peer-urls=${peerUrl}`,
        `--initial-advertise-peer-urls=${peerUrl}`,
        `--initial-cluster=default=${peerUrl}`,
        `--listen-metrics-urls=${this.#metricsUrl}`,
        "--unsafe-no-fsync",
        ...this.#args,
      ],
      { stdio: ["ignore", "pipe", "pipe"] },
    );
    this.#child = child;
    this.#output = "";
    const keep = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString("utf8")).slice(-4000);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    this.#exited = new Promise((resolve) => {
      child.once("error", () => resolve());
      child.once("exit", () => resolve());
    });
    const deadline = Date.now() + startTimeoutMs;
    while (!(await isHealthy(this.#metricsUrl))) {
      if (child.exitCode !== null || child.pid === undefined || Date.now() > deadline) {
        throw new Error(`etcd did not start: ${this.#output}`);
      }
      await new Promise((resolve) => {
        setTimeout(resolve, 30);
      });
    }
  }

  async stop(): Promise<void> {
    await this.#end("SIGTERM");
  }

  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  async restart(options: { readonly keepData?: boolean } = {}): Promise<void> {
    await this.kill();
    if (options.keepData === false) await rm(join(this.#folder, "data"), { recursive: true, force: true });
    await this.start();
  }

  async close(): Promise<void> {
    await this.kill();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined) return;
    if (child.exitCode === null && child.signalCode === null) {
      // A stopped process does not hear SIGTERM.
      child.kill("SIGCONT");
      child.kill(signal);
    }
    await this.#exited;
  }
}

async function isHealthy(url: string): Promise<boolean> {
  try {
    const answer = await fetch(`${url}/health`, { signal: AbortSignal.timeout(1000) });
    return answer.ok && (await answer.text()).includes("true");
  } catch {
    return false;
  }
}

const run = promisify(execFile);

/** Where etcd is; unpacked before where it has to be. */
export async function findEtcd(): Promise<string> {
  const named = process.env["ETCD"];
  if (named !== undefined && named !== "") return named;
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    if (folder !== "" && existsSync(join(folder, "etcd"))) return join(folder, "etcd");
  }
  const unpacked = join(process.cwd(), ".cache/etcd/usr/bin/etcd");
  if (!existsSync(unpacked)) await unpackDebianPackage(join(process.cwd(), ".cache"));
  return unpacked;
}

/** Unpacks beside the place and renames: test files that run at once do not see half of it. */
async function unpackDebianPackage(cache: string): Promise<void> {
  await mkdir(cache, { recursive: true });
  const folder = await mkdtemp(join(cache, "etcd-"));
  try {
    await run("apt-get", ["download", "etcd-server"], { cwd: folder });
    const name = (await readdir(folder)).find((file) => file.endsWith(".deb")) ?? "";
    await run("dpkg", ["-x", join(folder, name), join(folder, "root")]);
    await rename(join(folder, "root"), join(cache, "etcd")).catch((error: unknown) => {
      if (!existsSync(join(cache, "etcd"))) throw error;
    });
  } catch (cause) {
    throw new Error("no etcd: install etcd (Debian: etcd-server), put it into the PATH, or name its binary in ETCD=", {
      cause,
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function freePort(): Promise<number> {
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
