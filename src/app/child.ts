/** Runs a command of this program as a child process, for the demo and for tests: waits until it is ready, ends it by its id, never leaves it behind. */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { packageRoot } from "./envoy.ts";

export interface Child<Ready> {
  readonly pid: number;
  readonly ready: Ready;
  /** What it has printed, both streams, newest last; bounded. */
  readonly lines: readonly string[];
  /** Exit code, or the signal's name. Resolves when the process is gone. */
  readonly exited: Promise<number | NodeJS.Signals>;
  signal(signal: NodeJS.Signals): void;
  /** SIGTERM, then SIGKILL after graceMs. */
  close(graceMs?: number): Promise<void>;
}

export interface ChildOptions<Ready> {
  readonly command: string;
  readonly args: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Looks at each line of either stream; returns what the caller waits for, once it is all there. */
  readonly readyWhen: (line: string) => Ready | undefined;
  readonly timeoutMs?: number;
  readonly onLine?: (line: string) => void;
  /** Runs the process on these processors (taskset), e.g. "0". */
  readonly cpus?: string;
}

const keptLines = 200;

export async function startChild<Ready>(options: ChildOptions<Ready>): Promise<Child<Ready>> {
  const program = [join(packageRoot, "bin/signalbox"), options.command, ...options.args];
  const [file = "", ...args] = options.cpus === undefined ? program : ["taskset", "-c", options.cpus, ...program];
  const child: ChildProcess = spawn(file, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...options.environment },
  });
  const lines: string[] = [];
  const exited = new Promise<number | NodeJS.Signals>((resolve) => {
    child.once("exit", (code, signal) => resolve(code ?? signal ?? 1));
    child.once("error", () => resolve(127));
  });
  const close = async (graceMs = 5_000): Promise<void> => {
    child.kill("SIGTERM");
    const stuck = setTimeout(() => child.kill("SIGKILL"), graceMs);
    await exited;
    clearTimeout(stuck);
  };
  const ready = await new Promise<Ready | undefined>((resolve) => {
    const timer = setTimeout(() => resolve(undefined), options.timeoutMs ?? 20_000);
    const settle = (value: Ready | undefined): void => {
      clearTimeout(timer);
      resolve(value);
    };
    for (const stream of [child.stdout, child.stderr]) {
      if (stream === null) continue;
      createInterface({ input: stream }).on("line", (line) => {
        lines.push(line);
        if (lines.length > keptLines) lines.shift();
        options.onLine?.(line);
        const value = options.readyWhen(line);
        if (value !== undefined) settle(value);
      });
    }
    void exited.then(() => settle(undefined));
  });
  if (ready === undefined || child.pid === undefined) {
    await close();
    throw new Error(`signalbox ${options.command} did not become ready:\n${lines.join("\n")}`);
  }
  return { pid: child.pid, ready, lines, exited, signal: (signal) => child.kill(signal), close };
}

export interface EppPorts {
  readonly grpcPort: number;
  readonly healthPort: number;
  readonly metricsPort: number;
}

/** A picker on loopback with free ports and JSON logs, unless the arguments say otherwise. */
export function startEppChild(
  args: readonly string[],
  options: Omit<ChildOptions<EppPorts>, "command" | "args" | "readyWhen"> = {},
): Promise<Child<EppPorts>> {
  return startChild({
    ...options,
    command: "epp",
    args: [
      "--bind-address=127.0.0.1",
      "--grpc-port=0",
      "--grpc-health-port=0",
      "--metrics-port=0",
      "--log-format=json",
      ...args,
    ],
    readyWhen: (line) => {
      if (!line.includes('"the endpoint picker serves"')) return undefined;
      return JSON.parse(line) as EppPorts;
    },
  });
}

export interface WorkerAddress {
  readonly name: string;
  readonly url: string;
  /** ip:port */
  readonly hostPort: string;
}

/** `count` simulated workers in one process, on free loopback ports. */
export function startWorkersChild(
  count: number,
  args: readonly string[] = [],
  options: Omit<ChildOptions<readonly WorkerAddress[]>, "command" | "args" | "readyWhen"> = {},
): Promise<Child<readonly WorkerAddress[]>> {
  const workers: WorkerAddress[] = [];
  return startChild({
    ...options,
    command: "worker",
    args: ["--host=127.0.0.1", "--port=0", `--count=${count}`, ...args],
    readyWhen: (line) => {
      const match = /^(\S+) listens on (http:\/\/(\S+))$/.exec(line);
      if (match !== null) workers.push({ name: match[1] ?? "", url: match[2] ?? "", hostPort: match[3] ?? "" });
      return workers.length === count ? workers : undefined;
    },
  });
}
