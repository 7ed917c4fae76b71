/**
 * A real Dynamo for tests: mocker workers and a frontend of the published wheels on loopback, with free ports, their own discovery store and
 * home, and nothing left behind. Several stacks can run at once.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DynamoFrontend, startFrontend } from "./frontend.ts";
import { type DynamoProcess, isolatedEnvironment, tail } from "./process.ts";
import { type DynamoWorker, startWorkers, type WorkerPlan, type WorkerRole } from "./worker.ts";

export type { DynamoFrontend } from "./frontend.ts";
export type { DynamoWorker, WorkerRole } from "./worker.ts";

/** The weightless model that the workers serve. */
export const modelPath = join(import.meta.dirname, "../fixtures/dynamo/model");

export interface DynamoOptions {
  readonly layout?: "aggregated" | "disaggregated";
  /** Aggregated workers; 2 unless given. */
  readonly workers?: number;
  /** Workers of a disaggregated layout; 1 and 2 unless given. */
  readonly prefill?: number;
  readonly decode?: number;
  /** Where workers register: files of this stack, or an etcd. */
  readonly backend?: "file" | { readonly etcd: string };
  /** How workers publish events: ZMQ, or a NATS server. */
  readonly eventPlane?: "zmq" | { readonly nats: string };
  /** How workers take requests; "nats" needs an event plane over NATS, whose server it uses. */
  readonly requestPlane?: "tcp" | "nats";
  /** Of the frontend; "none" starts none. */
  readonly routerMode?: "direct" | "kv" | "round-robin" | "random" | "none";
  readonly blockSize?: number;
  /** How many times faster than a real engine; the default answers in milliseconds. */
  readonly speedup?: number;
  /** Prefill workers hand over through a bootstrap port instead of in the answer. */
  readonly bootstrap?: boolean;
  /** Data-parallel ranks of each worker. */
  readonly dataParallel?: number;
  /** Workers also publish the raw events of an engine on ZMQ ports of their own. */
  readonly rawKvEvents?: boolean;
  /** Workers of a role share a process: cheaper, but they die together. */
  readonly shareProcess?: boolean;
  /** "ns" unless given; stacks that share an etcd need one each. */
  readonly namespace?: string;
  readonly model?: string;
  readonly modelPath?: string;
  /** LoRA adapters that every worker has loaded; the mocker keeps one cache for all of them. */
  readonly adapters?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly workerArgs?: readonly string[];
  readonly workerEnvironment?: Readonly<Record<string, string>>;
  readonly frontendArgs?: readonly string[];
  readonly frontendEnvironment?: Readonly<Record<string, string>>;
}

export interface DynamoStack {
  readonly namespace: string;
  readonly model: string;
  readonly modelPath: string;
  /** DYN_* (and ETCD_ENDPOINTS, NATS_SERVER) with which a picker or another router finds these workers. */
  readonly environment: Readonly<Record<string, string>>;
  /** Root of the file store (DYN_FILE_KV); empty with etcd. */
  readonly storePath: string;
  /** The frontend that runs now; `restartFrontend` replaces it on the same port. Throws with routerMode "none". */
  readonly frontend: DynamoFrontend;
  /** Those that live, in order of start. */
  readonly workers: readonly DynamoWorker[];
  workersOf(role: WorkerRole): readonly DynamoWorker[];
  /** One more process with one worker; the frontend knows it when this resolves. */
  addWorker(role?: WorkerRole, plan?: Partial<WorkerPlan>): Promise<DynamoWorker>;
  /** SIGKILL: its records stay for 9 to 10 s (30 s in etcd). Resolves when the process is gone, and those that share it. */
  killWorker(worker: DynamoWorker): Promise<void>;
  /** SIGTERM: it takes its records back. Resolves when the process is gone. */
  stopWorker(worker: DynamoWorker): Promise<void>;
  restartFrontend(): Promise<void>;
  /** Requests each living worker has taken, by instance id. */
  served(): Promise<ReadonlyMap<bigint, number>>;
  close(): Promise<void>;
}

const frontendKnowsMs = 20_000;

export async function startDynamo(options: DynamoOptions = {}): Promise<DynamoStack> {
  const directory = mkdtempSync(join(tmpdir(), "signalbox-dynamo-"));
  const namespace = options.namespace ?? "ns";
  const model = options.model ?? "tiny";
  const adapters = options.adapters ?? [];
  const etcd = typeof options.backend === "object" ? options.backend.etcd : undefined;
  const nats = typeof options.eventPlane === "object" ? options.eventPlane.nats : undefined;
  const storePath = etcd === undefined ? join(directory, "store") : "";
  const home = join(directory, "home");
  mkdirSync(home);
  if (storePath !== "") mkdirSync(storePath);
  const joining: Readonly<Record<string, string>> = {
    DYN_NAMESPACE: namespace,
    DYN_REQUEST_PLANE: options.requestPlane ?? "tcp",
    ...(etcd === undefined
      ? { DYN_DISCOVERY_BACKEND: "file", DYN_FILE_KV: storePath }
      : { DYN_DISCOVERY_BACKEND: "etcd", ETCD_ENDPOINTS: etcd }),
    ...(nats === undefined ? { DYN_EVENT_PLANE: "zmq" } : { DYN_EVENT_PLANE: "nats", NATS_SERVER: nats }),
  };
  const environment = { ...isolatedEnvironment(home), ...joining, ...options.environment };
  const plan = (role: WorkerRole, count: number): WorkerPlan => ({
    role,
    count,
    blockSize: options.blockSize ?? 16,
    speedup: options.speedup ?? 1e9,
    dataParallel: options.dataParallel ?? 1,
    bootstrap: options.bootstrap ?? false,
    rawKvEvents: options.rawKvEvents ?? false,
    model,
    modelPath: options.modelPath ?? modelPath,
    adapters,
    namespace,
    args: options.workerArgs ?? [],
  });
  const counts: readonly [WorkerRole, number][] =
    options.layout === "disaggregated"
      ? [
          ["prefill", options.prefill ?? 1],
          ["decode", options.decode ?? 2],
        ]
      : [["aggregated", options.workers ?? 2]];
  const plans = counts.flatMap(([role, count]) => {
    if (count === 0) return [];
    return options.shareProcess === true ? [plan(role, count)] : Array.from({ length: count }, () => plan(role, 1));
  });

  let workers: DynamoWorker[] = [];
  let frontend: DynamoFrontend | undefined;
  let started = 0;
  let frontends = 0;
  /** What is being started: a failed test may end its stack meanwhile, and a process that nobody ends keeps the tests from ending. */
  const starting = new Set<Promise<{ readonly process: DynamoProcess } | readonly DynamoWorker[]>>();
  let isClosed = false;
  const tracked = async <Started extends { readonly process: DynamoProcess } | readonly DynamoWorker[]>(
    start: () => Promise<Started>,
  ): Promise<Started> => {
    if (isClosed) throw new Error("the stack is closed");
    const promise = start();
    starting.add(promise);
    try {
      return await promise;
    } finally {
      starting.delete(promise);
    }
  };
  const launch = (next: WorkerPlan): Promise<readonly DynamoWorker[]> => {
    started += 1;
    const name = `${next.role}-${started}`;
    return tracked(() => startWorkers(name, directory, next, { ...environment, ...options.workerEnvironment }));
  };
  const launchFrontend = (port?: number): Promise<DynamoFrontend> =>
    tracked(() =>
      startFrontend(
        `frontend-${++frontends}`,
        directory,
        {
          routerMode: options.routerMode ?? "direct",
          namespace,
          model,
          args: options.frontendArgs ?? [],
          ...(port === undefined ? {} : { port }),
        },
        { ...environment, ...options.frontendEnvironment },
      ),
    );
  /** Waits until the frontend sees every worker that lives and would route to as many as it sees (one that was killed may be among them). */
  const frontendKnowsAll = async (): Promise<void> => {
    const knowing = frontend;
    if (knowing === undefined || workers.length === 0) return;
    const knowsAll = async (): Promise<true | undefined> => {
      const seen = await knowing.instances();
      if (!workers.every(({ instanceId }) => seen.has(instanceId))) return undefined;
      for (const name of [model, ...adapters]) {
        const routable = Object.values(await knowing.workers(name)).reduce((sum, count) => sum + count, 0);
        if (routable < seen.size) return undefined;
      }
      // Told by the log alone: the model is "ready" some milliseconds before its prefill workers can be chosen (503 until then).
      const isDisaggregated = new Set(workers.map(({ role }) => role)).size > 1;
      return !isDisaggregated || knowing.process.log().includes("Prefill router target activated") || undefined;
    };
    await knowing.process.until(`${workers.length} workers known`, knowsAll, frontendKnowsMs);
  };
  const remove = async (worker: DynamoWorker, end: () => Promise<unknown>): Promise<void> => {
    workers = workers.filter((other) => other.process !== worker.process);
    await end();
  };
  const close = async (): Promise<void> => {
    isClosed = true;
    const lateComers = (await Promise.allSettled(starting)).flatMap((result) => {
      if (result.status === "rejected") return [];
      return "process" in result.value ? [result.value.process] : result.value.map((worker) => worker.process);
    });
    const processes = [...new Set([...workers.map((worker) => worker.process), ...lateComers])];
    if (frontend !== undefined && !processes.includes(frontend.process)) processes.unshift(frontend.process);
    if (hasFailures()) {
      for (const each of processes) process.stderr.write(`end of the log of ${each.name}:\n${tail(each.log())}\n`);
    }
    await Promise.all(processes.map((each) => each.close()));
    workers = [];
    frontend = undefined;
    rmSync(directory, { recursive: true, force: true });
  };

  try {
    // All have started or failed before the first failure closes those that started.
    const [frontendResult, ...results] = await Promise.allSettled([
      options.routerMode === "none" ? undefined : launchFrontend(),
      ...plans.map(launch),
    ]);
    if (frontendResult.status === "fulfilled") frontend = frontendResult.value;
    workers = results.flatMap((result) => (result.status === "fulfilled" ? result.value : []));
    for (const result of [frontendResult, ...results]) if (result.status === "rejected") throw result.reason;
    await frontendKnowsAll();
  } catch (error) {
    await close();
    throw error;
  }
  return {
    namespace,
    model,
    modelPath: options.modelPath ?? modelPath,
    environment: joining,
    storePath,
    get frontend() {
      if (frontend === undefined) throw new Error("this stack has no frontend");
      return frontend;
    },
    get workers() {
      return workers;
    },
    workersOf: (role) => workers.filter((worker) => worker.role === role),
    async addWorker(role = counts[0]?.[0] ?? "aggregated", changes = {}) {
      const [worker] = await launch({ ...plan(role, 1), ...changes });
      if (worker === undefined) throw new Error("no worker was started");
      workers = [...workers, worker];
      await frontendKnowsAll();
      return worker;
    },
    killWorker: (worker) =>
      remove(worker, () => {
        worker.process.signal("SIGKILL");
        return worker.process.exited;
      }),
    stopWorker: (worker) => remove(worker, () => worker.process.close()),
    async restartFrontend() {
      if (frontend === undefined) throw new Error("this stack has no frontend");
      const port = Number(new URL(frontend.url).port);
      await frontend.process.close();
      frontend = await launchFrontend(port);
      await frontendKnowsAll();
    },
    async served() {
      return new Map(
        await Promise.all(workers.map(async (worker) => [worker.instanceId, await worker.served()] as const)),
      );
    },
    close,
  };
}

/** Set by the test environment (environment.mjs) when a test of this file has failed. */
function hasFailures(): boolean {
  return (globalThis as { dynamoTestFailed?: boolean }).dynamoTestFailed === true;
}
