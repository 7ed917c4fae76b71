/** `signalbox epp` as a process with fake engines behind it, and what a test may ask of it: replies, debug pages, metric samples. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { eventually } from "../stack.ts";
import { connectExtProc, type ExtProc } from "./ext-proc-client.ts";
import { type EngineState, type FakeEngine, type FakeEngines, startFakeEngines } from "./fake-engines.ts";
import { hermeticConfig, hermeticManifests } from "./hermetic-objects.ts";

export interface PickerOptions {
  readonly transport: "http2" | "grpc-js";
  readonly tls: boolean;
  readonly engines: number;
  readonly args?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
}

export interface Picker {
  readonly child: Child<EppPorts>;
  readonly extProc: ExtProc;
  readonly engines: readonly FakeEngine[];
  /** Sets the engines' metrics and waits until the picker has scraped them. */
  observe(states: readonly EngineState[]): Promise<void>;
  debug<Answer>(path: string): Promise<Answer>;
  /** Value of a sample by name and labels in any order; 0 when absent. */
  sample(name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
  close(): Promise<void>;
}

interface ShownEndpoint {
  readonly address: string;
  readonly metrics: {
    readonly waitingRequests: number;
    readonly kvCacheUsage: number;
    readonly activeAdapters: readonly string[];
    readonly ageMs: number | null;
  };
}

export async function startPicker(options: PickerOptions): Promise<Picker> {
  const fakes = await startFakeEngines(options.engines);
  const folder = await mkdtemp(join(tmpdir(), "signalbox-hermetic-"));
  const removeFolder = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    const endpointsFile = join(folder, "endpoints.yaml");
    const endpoints = fakes.engines.map(({ port }, i) => ({
      name: `pod-${i + 1}`,
      address: "127.0.0.1",
      port: `${port}`,
    }));
    await writeFile(endpointsFile, JSON.stringify({ endpoints }));
    await writeFile(join(folder, "config.yaml"), hermeticConfig(endpointsFile));
    await mkdir(join(folder, "objects"));
    await writeFile(join(folder, "objects", "pool.yaml"), hermeticManifests);
    const child = await startEppChild(
      [
        `--transport=${options.transport}`,
        `--secure-serving=${options.tls}`,
        `--config-file=${join(folder, "config.yaml")}`,
        `--manifests=${join(folder, "objects")}`,
        "--pool-name=vllm-qwen3-32b-pool",
        "--refresh-metrics-interval=10ms",
        "--drain-timeout=0s",
        "--drain-grace=1s",
        ...(options.args ?? []),
      ],
      options.environment === undefined ? {} : { environment: options.environment },
    );
    return createPicker(child, fakes, { tls: options.tls, close: removeFolder });
  } catch (error) {
    await fakes.close();
    await removeFolder();
    throw error;
  }
}

/** Over a process that runs; closing it closes the engines as well, and then what else is given. */
export function createPicker(
  child: Child<EppPorts>,
  fakes: FakeEngines,
  { tls, close }: { readonly tls: boolean; readonly close: () => Promise<void> },
): Picker {
  const extProc = connectExtProc(child.ready.grpcPort, tls);
  const base = `http://127.0.0.1:${child.ready.metricsPort}`;
  const debug = async <Answer>(path: string): Promise<Answer> =>
    (await (await fetch(`${base}${path}`)).json()) as Answer;
  return {
    child,
    extProc,
    engines: fakes.engines,
    debug,
    async observe(states) {
      fakes.set(states);
      await eventually(
        "the scraped values",
        async () => {
          const shown = await debug<ShownEndpoint[]>("/debug/endpoints");
          return states.every((state, i) => shows(shown, fakes.engines[i]?.address, state));
        },
        4_000,
      );
    },
    async sample(name, labels = {}) {
      const page = await (await fetch(`${base}/metrics`)).text();
      return sampleOf(page, name, labels);
    },
    async close() {
      extProc.close();
      await child.close();
      await fakes.close();
      await close();
    },
  };
}

function shows(shown: readonly ShownEndpoint[], address: string | undefined, state: EngineState): boolean {
  const endpoint = shown.find((one) => one.address === address);
  if (endpoint === undefined || endpoint.metrics.ageMs === null) return false;
  const { waitingRequests, kvCacheUsage, activeAdapters } = endpoint.metrics;
  const adapters = [...activeAdapters].sort().join(",");
  return (
    waitingRequests === state.queue &&
    kvCacheUsage === state.kv &&
    adapters === [...(state.adapters ?? [])].sort().join(",")
  );
}

function sampleOf(page: string, name: string, labels: Readonly<Record<string, string>>): number {
  for (const line of page.split("\n")) {
    const match = /^([\w:]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (match === null || match[1] !== name) continue;
    const found = new Map(
      [...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]),
    );
    if (Object.entries(labels).every(([key, value]) => found.get(key) === value)) return Number(match[3]);
  }
  return 0;
}
