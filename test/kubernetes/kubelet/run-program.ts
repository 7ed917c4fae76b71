/** Short programs and long ones that the kubelet starts: none outlives the process that started it, and what they print is kept, bounded. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { createWriteStream } from "node:fs";
import { promisify } from "node:util";

const runFile = promisify(execFile);

/** What it printed; an error with the end of what it complained of. */
export async function runProgram(program: string, ...args: readonly string[]): Promise<string> {
  try {
    const { stdout } = await runFile(program, args, { timeout: 30_000 });
    return stdout;
  } catch (cause) {
    const { stderr = "" } = cause as { readonly stderr?: string };
    throw new Error(`${program} ${args.join(" ")}: ${stderr.slice(-1000)}`, { cause });
  }
}

export interface RunningProgram {
  readonly pid: number;
  /** Exit code or signal, once it has ended. */
  readonly ended: () => number | string | undefined;
  readonly exited: Promise<number | string>;
  signal(signal: NodeJS.Signals): void;
  /** SIGTERM, and SIGKILL after the grace. */
  stop(graceMs: number): Promise<void>;
}

export interface ProgramOptions {
  readonly command: readonly string[];
  /** Everything; nothing is inherited. */
  readonly environment: Readonly<Record<string, string>>;
  readonly folder?: string;
  /** Both streams are appended to it. */
  readonly logFile: string;
}

/** Rejects when the program cannot be started at all. */
export async function startProgram(options: ProgramOptions): Promise<RunningProgram> {
  const [program = "", ...args] = options.command;
  const child: ChildProcess = spawn("setpriv", ["--pdeathsig", "KILL", program, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...options.environment },
    ...(options.folder === undefined ? {} : { cwd: options.folder }),
  });
  const log = createWriteStream(options.logFile, { flags: "a" });
  child.stdout?.pipe(log, { end: false });
  child.stderr?.pipe(log, { end: false });
  let ended: number | string | undefined;
  const exited = new Promise<number | string>((resolve) => {
    child.once("close", (code, signal) => {
      ended = code ?? signal ?? 1;
      log.end(() => resolve(ended ?? 1));
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once("error", (cause) => reject(new Error("setpriv (util-linux) cannot be started", { cause })));
    child.once("spawn", () => resolve());
  });
  return {
    pid: child.pid ?? 0,
    ended: () => ended,
    exited,
    signal: (signal) => child.kill(signal),
    async stop(graceMs) {
      child.kill("SIGTERM");
      const stuck = setTimeout(() => child.kill("SIGKILL"), graceMs);
      await exited;
      clearTimeout(stuck);
    },
  };
}
