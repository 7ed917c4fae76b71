/** Real Dynamo workers: the mocker of the wheels, one or several in a process, each with its own instance id and its own counts of what it served. */

import { join } from "node:path";
import { freePorts } from "./ports.ts";
import { type DynamoProcess, startPython } from "./process.ts";

export type WorkerRole = "aggregated" | "prefill" | "decode";

export interface DynamoWorker {
  readonly role: WorkerRole;
  /** Exact u64, as discovery and the headers have it. */
  readonly instanceId: bigint;
  /** Of the process, which workers started together share. */
  readonly pid: number;
  readonly process: DynamoProcess;
  /** Base URL of its metrics. */
  readonly systemUrl: string;
  /** Port where a decode worker meets this prefill worker, with `bootstrap`. */
  readonly bootstrapPort?: number;
  /** ZMQ ports of the raw engine events and their replay with `rawKvEvents`: rank r is at port + r. */
  readonly kvEventsPort?: number;
  readonly replayPort?: number;
  /** Requests its generate endpoint has taken. */
  served(): Promise<number>;
  /** Value of a sample of its /metrics whose line starts so; the sum of several. */
  metric(prefix: string): Promise<number>;
}

export interface WorkerPlan {
  readonly role: WorkerRole;
  /** Workers in this one process. */
  readonly count: number;
  readonly blockSize: number;
  readonly speedup: number;
  readonly dataParallel: number;
  readonly bootstrap: boolean;
  readonly rawKvEvents: boolean;
  readonly model: string;
  readonly modelPath: string;
  /** LoRA adapters it has loaded, each a model of its own to clients. */
  readonly adapters: readonly string[];
  readonly namespace: string;
  readonly args: readonly string[];
}

const systemServer = /system status server bound to: (127\.0\.0\.1:\d+)/g;
const generateSample =
  /^dynamo_component_inflight_requests\{[^}]*dynamo_endpoint="generate"[^}]*worker_id="([0-9a-f]+)"/m;

/** Starts a process of workers; they are registered with discovery when this resolves. */
export async function startWorkers(
  name: string,
  directory: string,
  plan: WorkerPlan,
  environment: Readonly<Record<string, string>>,
): Promise<readonly DynamoWorker[]> {
  const { role, count } = plan;
  const bootstrapPorts = plan.bootstrap && role === "prefill" ? await portsEach(count, 1) : [];
  const publishes = plan.rawKvEvents && role !== "decode";
  const kvEventsPorts = publishes ? await portsEach(count, plan.dataParallel) : [];
  const replayPorts = publishes ? await portsEach(count, plan.dataParallel) : [];
  const program: readonly [string, ...string[]] =
    plan.adapters.length === 0
      ? ["dynamo.mocker"]
      : [join(import.meta.dirname, "adapters.py"), plan.adapters.join(",")];
  const process = startPython(
    name,
    directory,
    [
      ...program,
      `--model-path=${plan.modelPath}`,
      `--model-name=${plan.model}`,
      `--endpoint=dyn://${plan.namespace}.${role === "prefill" ? "prefill" : "backend"}.generate`,
      `--disaggregation-mode=${role === "aggregated" ? "agg" : role}`,
      `--num-workers=${count}`,
      `--block-size=${plan.blockSize}`,
      `--speedup-ratio=${plan.speedup}`,
      `--data-parallel-size=${plan.dataParallel}`,
      ...listFlag("--bootstrap-ports", bootstrapPorts),
      ...listFlag("--zmq-kv-events-ports", kvEventsPorts),
      ...listFlag("--zmq-replay-ports", replayPorts),
      ...plan.args,
    ],
    { ...environment, DYN_SYSTEM_PORT: "0", DYN_SYSTEM_HOST: "127.0.0.1" },
  );
  try {
    const systemUrls = await process.until("system servers", async () => {
      const found = [...process.log().matchAll(systemServer)].map((match) => `http://${match[1]}`);
      return found.length === count ? found : undefined;
    });
    return await Promise.all(
      systemUrls.map(async (systemUrl, index): Promise<DynamoWorker> => {
        const metric = async (prefix: string): Promise<number> => sumOf(await metricsOf(systemUrl), prefix);
        const instanceId = await process.until("an instance id", async () => {
          const id = generateSample.exec(await metricsOf(systemUrl))?.[1];
          return id === undefined ? undefined : BigInt(`0x${id}`);
        });
        const bootstrapPort = bootstrapPorts[index];
        const kvEventsPort = kvEventsPorts[index];
        const replayPort = replayPorts[index];
        return {
          role,
          instanceId,
          pid: process.pid,
          process,
          systemUrl,
          ...(bootstrapPort === undefined ? {} : { bootstrapPort }),
          ...(kvEventsPort === undefined ? {} : { kvEventsPort }),
          ...(replayPort === undefined ? {} : { replayPort }),
          served: () =>
            metric(
              `dynamo_component_requests_total{dynamo_component="${componentOf(role)}",dynamo_endpoint="generate"`,
            ),
          metric,
        };
      }),
    );
  } catch (error) {
    await process.close();
    throw error;
  }
}

function componentOf(role: WorkerRole): string {
  return role === "prefill" ? "prefill" : "backend";
}

function listFlag(flag: string, ports: readonly number[]): readonly string[] {
  return ports.length === 0 ? [] : [`${flag}=${ports.join(",")}`];
}

function portsEach(count: number, consecutive: number): Promise<number[]> {
  return Promise.all(Array.from({ length: count }, () => freePorts(consecutive)));
}

async function metricsOf(systemUrl: string): Promise<string> {
  const answer = await fetch(`${systemUrl}/metrics`, { signal: AbortSignal.timeout(5_000) });
  return answer.text();
}

function sumOf(page: string, prefix: string): number {
  let sum = 0;
  for (const line of page.split("\n")) {
    if (line.startsWith(prefix)) sum += Number(line.slice(line.lastIndexOf(" ") + 1));
  }
  return sum;
}
