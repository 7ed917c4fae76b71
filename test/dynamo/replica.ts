/** One of our routers beside a stack's own frontend: discovery, planes and a runtime for each worker set, with replica sync, and no gateway. */
import { createFileDiscovery } from "../../src/dynamo/discovery/file/file-discovery.ts";
import { createFileRegistration } from "../../src/dynamo/discovery/file/file-registration.ts";
import { createEventPlane } from "../../src/dynamo/event-plane/create-event-plane.ts";
import { createRequestPlane } from "../../src/dynamo/request-plane/request-plane.ts";
import type { SetWorker, WorkerSet } from "../../src/dynamo/worker-sets/worker-set.ts";
import { WorkerSets } from "../../src/dynamo/worker-sets/worker-sets.ts";
import type { Plan, PlanRequest, RankLoad } from "../../src/prefill-router/contracts.ts";
import { readFleetSettings } from "../../src/prefill-router/fleet/fleet-settings.ts";
import { SetRuntime } from "../../src/prefill-router/fleet/set-runtime.ts";
import { createRecoveryQuery } from "../../src/prefill-router/indexer/recovery-query.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { createTokenHasher } from "../../src/tokens/block-hash.ts";
import { until } from "../unit/dynamo/until.ts";
import type { DynamoStack } from "./stack.ts";

export interface Replica {
  readonly runtime: SetRuntime;
  readonly routerId: bigint;
  /** What runs on a worker's rank 0. */
  load(workerId: bigint, stage?: "prefill" | "decode"): Omit<RankLoad, "workerId" | "dpRank"> | undefined;
  /** Plans and books at once; only on this worker where one is given. */
  plan(tokens: readonly number[], workerId?: bigint): Plan;
  readonly request: (tokens: readonly number[]) => PlanRequest;
  /** Ends without a word, as a process that is killed; its records go at once instead of expiring. */
  die(): Promise<void>;
  close(): Promise<void>;
}

const hasher = createTokenHasher();

/** Resolves once every worker of the stack is known, what it cached is known, and the channel to the other routers is open. */
export async function startReplica(
  stack: DynamoStack,
  blockSize = 16,
  own: Readonly<Record<string, string>> = {},
): Promise<Replica> {
  const joining = { DYN_EVENT_PLANE_HOST: "127.0.0.1", DYN_ROUTER_REPLICA_SYNC: "true" };
  const environment = { ...stack.environment, ...joining, ...own };
  const plane = createEventPlane(environment, silentLogger);
  const requests = await createRequestPlane({ host: "127.0.0.1" });
  const registration = createFileRegistration({ root: stack.storePath, log: silentLogger });
  const { settings, faults } = readFleetSettings(environment, {});
  if (faults.length > 0) throw new Error(faults.join("; "));
  let runtime: SetRuntime | undefined;
  const follow = (set: WorkerSet): void => {
    if (set.card === undefined || runtime !== undefined) return;
    runtime = new SetRuntime({
      set,
      card: set.card,
      settings,
      isDisaggEnforced: false,
      plane,
      channels: (scope, topic) => sets.channels(scope, topic),
      query: createRecoveryQuery(requests, 10_000),
      requests,
      servedIndices: (endpoint) => sets.servedIndices(endpoint),
      hasher,
      log: silentLogger,
      now: () => performance.now(),
      random: Math.random,
      observers: [],
      registration,
    });
    for (const worker of set.workers.values()) runtime.workerAdded(worker);
  };
  const sets: WorkerSets = new WorkerSets({
    log: silentLogger,
    filter: { kind: "exact", namespace: stack.namespace },
    enforceDisagg: false,
    listener: {
      setAdded: follow,
      setRemoved: () => undefined,
      setChanged: follow,
      workerAdded: (set: WorkerSet, worker: SetWorker) =>
        runtime === undefined ? follow(set) : runtime.workerAdded(worker),
      workerChanged: (_set, worker) => runtime?.workerChanged(worker),
      workerRemoved: (_set, worker) => runtime?.workerRemoved(worker.id),
      channelOpened: (channel) => runtime?.channelOpened(channel),
      channelClosed: (channel) => runtime?.channelClosed(channel),
    },
  });
  const discovery = createFileDiscovery({ root: stack.storePath, log: silentLogger, pollMs: 100 });
  await discovery.start(sets);
  const known = (): number => {
    const snapshot = runtime?.router.snapshot();
    return snapshot?.workers.length ?? 0;
  };
  const roles = new Set(stack.workers.map(({ role }) => role));
  await until(() => {
    const state = runtime?.replicas?.state()["channels"] ?? {};
    const open = Object.values(state).filter((isOpen) => isOpen === true).length;
    return known() >= stack.workers.length && open === roles.size && runtime?.ingest?.isSettled === true;
  }, 15_000);
  const started = runtime;
  if (started === undefined) throw new Error("no worker set");
  const request = (tokens: readonly number[]): PlanRequest => {
    const { blockHashes, sequenceHashes } = hasher.hash(Uint32Array.from(tokens), { blockSize });
    return { requestId: "", isl: tokens.length, blockHashes, sequenceHashes };
  };
  const end = async (): Promise<void> => {
    await discovery.close();
    await plane.close();
    await requests.close();
  };
  return {
    runtime: started,
    routerId: registration.instanceId,
    load: (id, stage = "decode") => {
      const found = started.stages[stage].loads().find(({ workerId, dpRank }) => workerId === id && dpRank === 0);
      if (found === undefined) return undefined;
      const { activeDecodeBlocks, activePrefillTokens, activeRequests } = found;
      return { activeDecodeBlocks, activePrefillTokens, activeRequests };
    },
    plan(tokens, workerId) {
      let plan: Plan | undefined;
      const allowed = workerId === undefined ? {} : { allowed: { decode: new Set([workerId]) } };
      started.router.plan({ ...request(tokens), ...allowed }, (outcome) => {
        if (outcome.kind === "refused") throw new Error(outcome.refusal.message);
        plan = outcome.plan;
      });
      if (plan === undefined) throw new Error("the request waits");
      return plan;
    },
    request,
    async die() {
      await end();
      await registration.close();
      await started.close();
    },
    async close() {
      await started.close();
      await registration.close();
      await end();
    },
  };
}
