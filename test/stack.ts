/** The whole thing for end-to-end tests: simulated workers, a picker and a real Envoy, each a process of its own on free ports; always cleaned up. */
import { type Child, type EppPorts, startEppChild, startWorkersChild, type WorkerAddress } from "../src/app/child.ts";
import { type EnvoyMode, findEnvoy, type RunningEnvoy, startEnvoy } from "../src/app/envoy.ts";

export interface StackOptions {
  readonly mode?: EnvoyMode;
  readonly workers?: number;
  readonly workerArgs?: readonly string[];
  /** Arguments of the picker besides its endpoints. */
  readonly eppArgs?: readonly string[];
  /** False: the arguments bring their own discovery. */
  readonly listEndpoints?: boolean;
  /** Model servers besides the workers. */
  readonly endpoints?: readonly string[];
  /** HTTP filters of Envoy before the picker's. */
  readonly httpFilters?: readonly object[];
  readonly failureModeAllow?: boolean;
  readonly tls?: boolean;
}

export interface Stack {
  /** Base URL of Envoy. */
  readonly url: string;
  readonly envoy: RunningEnvoy;
  /** One process for all of them; with `workers: 0` there is none. */
  readonly workers: Child<readonly WorkerAddress[]>;
  /** The picker that runs now; `restartPicker` replaces it on the same ports. */
  picker: Child<EppPorts>;
  restartPicker(): Promise<void>;
  /** JSON of the picker's metrics port. */
  debug<Answer>(path: string): Promise<Answer>;
  /** Value of a sample of the picker's /metrics by its full name with labels; 0 when absent. */
  metric(sample: string): Promise<number>;
  close(): Promise<void>;
}

const noWorkers: Child<readonly WorkerAddress[]> = {
  pid: 0,
  ready: [],
  lines: [],
  exited: Promise.resolve(0),
  signal: () => {},
  close: () => Promise.resolve(),
};

export const defaultModel = "signalbox-sim";

export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const open: { close(): Promise<void> }[] = [];
  const close = async (): Promise<void> => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last.close();
  };
  try {
    const workers =
      options.workers === 0 ? noWorkers : await startWorkersChild(options.workers ?? 4, options.workerArgs);
    open.push(workers);
    const endpoints = [...workers.ready.map((worker) => worker.hostPort), ...(options.endpoints ?? [])];
    const tls = options.tls ?? true;
    const args = [
      ...(options.listEndpoints === false ? [] : [`--endpoints=${endpoints.join(",")}`]),
      "--drain-timeout=0s",
      "--drain-grace=5s",
      `--secure-serving=${tls}`,
      ...(options.eppArgs ?? []),
    ];
    let picker = await startEppChild(args);
    open.push({ close: () => picker.close() });
    const ports = picker.ready;
    const envoy = await startEnvoy({
      mode: options.mode ?? "full-duplex",
      binary: findEnvoy(process.env),
      picker: { port: ports.grpcPort, tls },
      listenPort: 0,
      fallbackPorts: endpoints.map((endpoint) => Number(new URL(`http://${endpoint}`).port)),
      ...(options.httpFilters === undefined ? {} : { httpFilters: options.httpFilters }),
      ...(options.failureModeAllow === undefined ? {} : { failureModeAllow: options.failureModeAllow }),
    });
    open.push(envoy);
    const admin = `http://127.0.0.1:${ports.metricsPort}`;
    const stack: Stack = {
      url: envoy.url,
      envoy,
      workers,
      get picker() {
        return picker;
      },
      set picker(next) {
        picker = next;
      },
      async restartPicker() {
        await picker.close();
        picker = await startEppChild([
          ...args,
          `--grpc-port=${ports.grpcPort}`,
          `--grpc-health-port=${ports.healthPort}`,
          `--metrics-port=${ports.metricsPort}`,
        ]);
      },
      async debug<Answer>(path: string) {
        return (await (await fetch(`${admin}${path}`)).json()) as Answer;
      },
      async metric(sample) {
        const page = await (await fetch(`${admin}/metrics`)).text();
        const line = page.split("\n").find((text) => text.startsWith(`${sample} `));
        return line === undefined ? 0 : Number(line.slice(sample.length + 1));
      },
      close,
    };
    return stack;
  } catch (error) {
    await close();
    throw error;
  }
}

/** Waits until check returns something other than undefined and false; fails with what was waited for. */
export async function eventually<Value>(
  what: string,
  check: () => Promise<Value | undefined | false>,
  deadlineMs = 10_000,
): Promise<Value> {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const value = await check();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export function chat(content: string, extra: Readonly<Record<string, unknown>> = {}): RequestInit {
  return {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: defaultModel, max_tokens: 5, messages: [{ role: "user", content }], ...extra }),
  };
}
