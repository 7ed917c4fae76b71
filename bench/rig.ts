/** The processes of a measurement: model servers, a picker pinned to one core, the load client on the other. Whoever starts one closes it. */
import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { packageRoot } from "../src/app/envoy.ts";
import type { LoadOptions, LoadResult } from "./load/options.ts";
import type { Shape } from "./load/script.ts";
import { clientCpu, pickerCpu } from "./processors.ts";

export interface Process {
  readonly pid: number;
  readonly child: ChildProcess;
  /** Resolves with the first line, past or to come, that the check turns into something. */
  line<Value>(check: (line: string) => Value | undefined, timeoutMs?: number): Promise<Value>;
  /** Returns what ends it. */
  onLine(listener: (line: string) => void): () => void;
  close(): Promise<void>;
}

const keptLines = 400;
const running = new Set<ChildProcess>();
// A benchmark that fails leaves nothing running.
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** Runs a program on the given processors; node itself stands for `program` undefined. */
export function startProcess(
  cpus: string,
  program: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Process {
  const child = spawn("taskset", ["-c", cpus, ...program], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...environment },
  });
  running.add(child);
  child.once("exit", () => running.delete(child));
  const lines: string[] = [];
  const listeners = new Set<(line: string) => void>();
  const lastLines = (): string =>
    lines
      .slice(-10)
      .map((line) => line.slice(0, 300))
      .join("\n");
  const exited = new Promise<void>((resolve) => {
    child.once("close", () => resolve());
    child.once("error", () => resolve());
  });
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (line) => {
      lines.push(line);
      if (lines.length > keptLines) lines.shift();
      for (const listener of listeners) listener(line);
    });
  }
  return {
    pid: child.pid ?? 0,
    child,
    onLine(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    line: (check, timeoutMs = 30_000) =>
      new Promise((resolve, reject) => {
        const settle = (finish: () => void): void => {
          listeners.delete(look);
          clearTimeout(timer);
          finish();
        };
        const look = (line: string): void => {
          const value = check(line);
          if (value !== undefined) settle(() => resolve(value));
        };
        const fail = (why: string): void =>
          settle(() => reject(new Error(`${program.join(" ")} ${why}:\n${lastLines()}`)));
        const timer = setTimeout(() => fail(`said nothing for ${timeoutMs} ms`), timeoutMs);
        void exited.then(() => fail("ended"));
        listeners.add(look);
        lines.slice().forEach(look);
      }),
    async close() {
      child.kill("SIGTERM");
      const stuck = setTimeout(() => child.kill("SIGKILL"), 5_000);
      await exited;
      clearTimeout(stuck);
    },
  };
}

function script(path: string): string {
  return fileURLToPath(new URL(path, import.meta.url));
}

export interface Upstream {
  readonly ports: readonly number[];
  /** Metrics pages served so far. */
  pagesServed(): Promise<number>;
  close(): Promise<void>;
}

export async function startUpstream(count: number): Promise<Upstream> {
  const upstream = startProcess(clientCpu, [process.execPath, script("upstream.ts"), String(count)]);
  const ports = await upstream.line((line) => (line.startsWith("[") ? (JSON.parse(line) as number[]) : undefined));
  return {
    ports,
    pagesServed: async () => Number(await (await fetch(`http://127.0.0.1:${ports[0]}/count`)).text()),
    close: () => upstream.close(),
  };
}

export interface Picker {
  /** Heads its column. */
  readonly name: string;
  readonly pid: number;
  readonly port: number;
  readonly process: Process;
  close(): Promise<void>;
}

export interface PickerOptions {
  readonly endpoints: readonly number[];
  readonly args?: readonly string[];
  readonly nodeOptions?: readonly string[];
}

export type PickerStart = (options: PickerOptions) => Promise<Picker>;

const flags = [
  "--bind-address=127.0.0.1",
  "--grpc-port=0",
  "--grpc-health-port=0",
  "--metrics-port=0",
  "--secure-serving=false",
  "--log-format=json",
  "--drain-timeout=0s",
  "--drain-grace=0s",
];

/** Signalbox on its own launcher, plaintext, otherwise with its defaults. */
export async function startSignalbox({ endpoints, args = [], nodeOptions = [] }: PickerOptions): Promise<Picker> {
  const picker = startProcess(
    pickerCpu,
    [
      `${packageRoot}bin/signalbox`,
      "epp",
      ...flags,
      `--endpoints=${endpoints.map((port) => `127.0.0.1:${port}`).join(",")}`,
      ...args,
    ],
    { SIGNALBOX_NODE_OPTIONS: nodeOptions.join(" ") },
  );
  const port = await picker.line((line) =>
    line.includes('"the endpoint picker serves"') ? (JSON.parse(line) as { grpcPort: number }).grpcPort : undefined,
  );
  return { name: "Signalbox", pid: picker.pid, port, process: picker, close: () => picker.close() };
}

export const defaultShape: Shape = {
  mode: "full-duplex",
  bodyBytes: 4096,
  authority: "signalbox",
  responseChunks: 2,
  model: "base-model",
  distinct: false,
  hold: false,
};

export type LoadRequest = Omit<Partial<LoadOptions>, "shape" | "port" | "pid"> & { readonly shape?: Partial<Shape> };

const defaultLoad = { connections: 2, concurrency: 32, ratePerSecond: 0, warmupMs: 1_000, measureMs: 1_500 };

function loadOptions(picker: Picker, request: LoadRequest): LoadOptions {
  return {
    ...defaultLoad,
    ...request,
    shape: { ...defaultShape, ...request.shape },
    port: picker.port,
    pid: picker.pid,
  };
}

function startLoad(options: LoadOptions): Process {
  return startProcess(clientCpu, [process.execPath, script("load/main.ts"), JSON.stringify(options)]);
}

/** One run of the load client. Throws when a stream failed: such a figure would mean nothing. */
export async function runLoad(picker: Picker, request: LoadRequest, onMeasuring?: () => void): Promise<LoadResult> {
  const options = loadOptions(picker, request);
  const load = startLoad(options);
  if (onMeasuring !== undefined) load.onLine((line) => (line.includes('"measuring"') ? onMeasuring() : undefined));
  try {
    const result = await load.line(
      (line) => (line.startsWith('{"streams"') ? (JSON.parse(line) as LoadResult) : undefined),
      options.warmupMs + options.measureMs + 30_000,
    );
    if (result.streams === 0) throw new Error("no stream came to its end");
    if (result.failures > 0) throw new Error(`${result.failures} streams failed: ${result.firstFailure}`);
    return result;
  } finally {
    await load.close();
  }
}

/** Holds streams open until closed. */
export async function holdStreams(
  picker: Picker,
  count: number,
  shape: Partial<Shape>,
): Promise<{ close(): Promise<void> }> {
  const load = startLoad(loadOptions(picker, { concurrency: count, shape: { ...shape, hold: true } }));
  try {
    const held = await load.line(
      (line) =>
        line.includes('"held"') ? (JSON.parse(line) as { failures: number; firstFailure: string }) : undefined,
      60_000,
    );
    if (held.failures > 0) throw new Error(`${held.failures} held streams failed: ${held.firstFailure}`);
  } catch (error) {
    await load.close();
    throw error;
  }
  return { close: () => load.close() };
}

/** A picker with `endpoints` cheap model servers, for as long as `use` runs. */
export async function withPicker<Result>(
  start: PickerStart,
  options: Omit<PickerOptions, "endpoints"> & { readonly endpoints?: number },
  use: (picker: Picker, upstream: Upstream) => Promise<Result>,
): Promise<Result> {
  const upstream = await startUpstream(options.endpoints ?? 4);
  try {
    const picker = await start({ ...options, endpoints: upstream.ports });
    try {
      return await use(picker, upstream);
    } finally {
      await picker.close();
    }
  } finally {
    await upstream.close();
  }
}
