/** A Python process of the Dynamo wheels: its output in a file of the stack, ended by its id, and by the kernel should this process die first. */
import { spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "../..");
const startPollMs = 20;

export interface DynamoProcess {
  readonly name: string;
  readonly pid: number;
  /** Exit code, or the signal's name. Resolves when the process is gone. */
  readonly exited: Promise<number | NodeJS.Signals>;
  /** Everything it has printed. */
  log(): string;
  signal(signal: NodeJS.Signals): void;
  /** SIGTERM, then SIGKILL after graceMs. */
  close(graceMs?: number): Promise<void>;
  /** Polls until check answers something other than undefined; fails with the end of the log when the process ends or time runs out. */
  until<Value>(what: string, check: () => Promise<Value | undefined>, timeoutMs?: number): Promise<Value>;
}

/** The interpreter with the wheels: DYNAMO_PYTHON, or what scripts/install-dynamo.ts made. */
export function dynamoPython(): string {
  const configured = process.env["DYNAMO_PYTHON"];
  const python =
    configured === undefined || configured === "" ? join(root, ".cache/dynamo/venv/bin/python") : configured;
  if (!existsSync(python)) throw new Error(`${python} does not exist; "make dynamo" installs it`);
  return python;
}

/** This process's environment without settings of a Dynamo around it, and what keeps Dynamo on this machine and off the network. */
export function isolatedEnvironment(home: string): Record<string, string> {
  const inherited: Record<string, string> = {};
  for (const [name, value] of Object.entries(process.env)) {
    if (value !== undefined && !/^(DYN|ETCD|NATS|OTEL|PYTHON)_?/.test(name)) inherited[name] = value;
  }
  return {
    ...inherited,
    HOME: home,
    DYN_TCP_RPC_HOST: "127.0.0.1",
    DYN_TCP_RESPONSE_STREAM_HOST: "127.0.0.1",
    DYN_EVENT_PLANE_HOST: "127.0.0.1",
    DYN_HTTP_RPC_HOST: "127.0.0.1",
    // Cards name files by path, alike on every worker: those that differ are refused as conflicting.
    DYN_SELF_HOST_METADATA: "0",
    DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS: "0",
    DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS: "2",
    DYN_LOGGING_JSONL: "1",
    DYN_LOGGING_CONSOLE_FORMAT: "jsonl",
    HF_HUB_OFFLINE: "1",
    TRANSFORMERS_OFFLINE: "1",
  };
}

/** The last lines of a log, its JSON lines as time, level, message and error, each cut to what fits a screen. */
export function tail(log: string, lines = 12): string {
  const last = log.trimEnd().split("\n").slice(-lines);
  return last.map((line) => `  ${brief(line).slice(0, 250)}`).join("\n");
}

function brief(line: string): string {
  if (!line.startsWith("{")) return line;
  try {
    const { time = "", level = "", message = "", error = "" } = JSON.parse(line) as Readonly<Record<string, string>>;
    return `${time.slice(11, 23)} ${level} ${message} ${error}`.trimEnd();
  } catch {
    return line;
  }
}

/** A module of the wheels, e.g. "dynamo.mocker", or a Python file as the main program, with its log in `directory`/`name`.log. */
export function startPython(
  name: string,
  directory: string,
  command: readonly [program: string, ...args: string[]],
  environment: Readonly<Record<string, string>>,
): DynamoProcess {
  const file = join(directory, `${name}.log`);
  const output = openSync(file, "a");
  const tied = join(import.meta.dirname, "tied.py");
  const child = spawn(dynamoPython(), [tied, String(process.pid), ...command], {
    stdio: ["ignore", output, output],
    env: environment,
    cwd: directory,
  });
  closeSync(output);
  let isGone = false;
  const exited = new Promise<number | NodeJS.Signals>((resolve) => {
    child.once("exit", (code, signal) => resolve(code ?? signal ?? 1));
    child.once("error", () => resolve(127));
  }).finally(() => {
    isGone = true;
  });
  const log = (): string => readFileSync(file, "utf8");
  return {
    name,
    pid: child.pid ?? 0,
    exited,
    log,
    signal: (signal) => child.kill(signal),
    async close(graceMs = 5_000) {
      if (isGone) return;
      child.kill("SIGTERM");
      const stuck = setTimeout(() => child.kill("SIGKILL"), graceMs);
      await exited;
      clearTimeout(stuck);
    },
    async until(what, check, timeoutMs = 20_000) {
      const end = performance.now() + timeoutMs;
      for (;;) {
        const value = await check();
        if (value !== undefined) return value;
        const fault = isGone ? `ended (${await exited})` : `took more than ${timeoutMs} ms`;
        if (isGone || performance.now() > end) throw new Error(`${name} ${fault}: ${what}\n${tail(log())}`);
        await new Promise((resolve) => setTimeout(resolve, startPollMs));
      }
    },
  };
}
