/** CPU time of PrefillRouter.plan() over real stages and the exact index, its books included: all that comes after tokens and hashes. */
import { createKvIndex } from "../src/data/prefix-index/exact-kv-index.ts";
import { createSettingsOf, defaultRouterConfig } from "../src/prefill-router/config.ts";
import type {
  Booking,
  PlanOutcome,
  PlanRequest,
  PrefillRouter,
  RouterWorker,
} from "../src/prefill-router/contracts.ts";
import { planDefaults, type RouterIndex } from "../src/prefill-router/plan/contracts.ts";
import { createPrefillRouter } from "../src/prefill-router/plan/prefill-router.ts";
import { syntheticProfile } from "../src/prefill-router/policy/policy-class.ts";
import { createWorkerStage } from "../src/prefill-router/stage/worker-stage.ts";
import { createTokenHasher } from "../src/tokens/block-hash.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const workers = 64;
const blockSize = 32;
const promptBlocks = 128;
const requestsPerWorker = 8;
const calls = 4000;
const waiting = 10_000;

function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

function workerOf(id: number, role: RouterWorker["role"]): RouterWorker {
  return {
    id: BigInt(id + 1) * 0x1_0000_0001n,
    role,
    dataParallelStartRank: 0,
    dataParallelSize: 1,
    totalKvBlocks: 20_000,
    maxNumBatchedTokens: 8192,
    taints: [],
    stableRoutingId: undefined,
    topologyDomains: new Map(),
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
    loras: new Set(),
  };
}

interface Fleet {
  readonly router: PrefillRouter;
  readonly requests: readonly PlanRequest[];
}

function fleetOf(
  mode: "aggregated" | "disaggregated",
  random: () => number,
  threshold?: number,
): Fleet & { readonly match: (request: PlanRequest) => void } {
  const index = createKvIndex({ random });
  const router = createPrefillRouter({
    config: {
      ...planDefaults,
      profile: syntheticProfile(threshold, "fcfs"),
      conditional: undefined,
      affinity: undefined,
    },
    settingsOf: createSettingsOf(defaultRouterConfig),
    prefill: createWorkerStage({ stage: "prefill", blockSize, random }),
    decode: createWorkerStage({ stage: "decode", blockSize, random }),
    index: index as RouterIndex,
    random,
  });
  const requests = Array.from({ length: 64 }, (_, request) => requestOf(request, random));
  for (let id = 0; id < workers; id++) {
    const role = mode === "aggregated" ? mode : id % 2 === 0 ? "prefill" : "decode";
    const worker = workerOf(id, role);
    const holder = index.attach();
    router.upsertWorker(worker);
    router.setHolder({ workerId: worker.id, dpRank: 0 }, holder);
    for (const { sequenceHashes, blockHashes } of requests) {
      index.stored(holder, 0, 0, 0, false, sequenceHashes, blockHashes, 0, Math.floor(random() * promptBlocks));
    }
  }
  const matches = index.createMatches();
  return { router, requests, match: (request) => index.match(request.sequenceHashes, matches) };
}

const hasher = createTokenHasher();

function requestOf(id: number, random: () => number): PlanRequest {
  const isl = promptBlocks * blockSize + 7;
  const tokens = Uint32Array.from({ length: isl }, () => random() * 100_000);
  return { requestId: `r${id}`, isl, ...hasher.hash(tokens, { blockSize }) };
}

function booked(router: PrefillRouter, request: PlanRequest): Booking {
  let booking: Booking | undefined;
  router.plan(request, (outcome: PlanOutcome) => {
    if (outcome.kind === "planned") booking = outcome.plan.booking;
  });
  if (booking === undefined) throw new Error("the request was not planned");
  return booking;
}

/** Microseconds of CPU a call, the process's own collections included. */
function cpuOf(count: number, call: (index: number) => void): number {
  for (let index = 0; index < count / 4; index++) call(index);
  const before = process.cpuUsage();
  for (let index = 0; index < count; index++) call(index);
  const { user, system } = process.cpuUsage(before);
  return (user + system) / count;
}

function planCpu(mode: "aggregated" | "disaggregated", random: () => number) {
  const { router, requests, match } = fleetOf(mode, random);
  const pick = (index: number): PlanRequest => requests[index % requests.length] ?? requestOf(index, random);
  for (let index = 0; index < workers * requestsPerWorker; index++) booked(router, pick(index));
  const plan = cpuOf(calls, (index) => {
    const booking = booked(router, pick(index));
    booking.prefillCompleted();
    booking.free();
  });
  const matched = cpuOf(calls, (index) => match(pick(index)));
  router.close();
  return { plan, matched };
}

/** Every request waits, then goes when the one before it has ended. */
function queueCpu(random: () => number): number {
  const { router, requests } = fleetOf("aggregated", random, 0);
  const pick = (index: number): PlanRequest => requests[index % requests.length] ?? requestOf(index, random);
  const open = Array.from({ length: workers }, (_, index) => booked(router, pick(index)));
  const before = process.cpuUsage();
  for (let index = 0; index < waiting; index++) {
    router.plan(pick(index), (outcome) => {
      if (outcome.kind === "planned") open.push(outcome.plan.booking);
    });
  }
  for (let index = 0; index < open.length; index++) open[index]?.free();
  const { user, system } = process.cpuUsage(before);
  router.close();
  if (open.length < waiting) throw new Error(`only ${open.length} requests went`);
  return (user + system) / waiting;
}

function measureOnce(seed: number): Run {
  const random = seeded(seed);
  const aggregated = planCpu("aggregated", random);
  const disaggregated = planCpu("disaggregated", random);
  return {
    "plan-aggregated-cpu": aggregated.plan,
    "plan-disaggregated-cpu": disaggregated.plan,
    "plan-match-cpu": aggregated.matched,
    "plan-queued-cpu": queueCpu(random),
  };
}

export const prefillRouterPlan: Measurement = {
  name: "prefill-router-plan",
  what: `Planning, first byte and end of a request of ${promptBlocks} blocks over ${workers} Dynamo workers, each with ${requestsPerWorker} requests; and with ${waiting} requests that wait.`,
  figures: [
    { name: "plan-aggregated-cpu", title: "plan() and its books, aggregated, CPU", unit: "µs", digits: 1 },
    { name: "plan-disaggregated-cpu", title: "plan() and its books, disaggregated, CPU", unit: "µs", digits: 1 },
    { name: "plan-match-cpu", title: "… of which the index match", unit: "µs", digits: 1 },
    { name: "plan-queued-cpu", title: `plan() of one of ${waiting} that wait, CPU`, unit: "µs", digits: 1 },
  ],
  isLatency: false,
  measure: (context: Context) => repeat(context, (index) => Promise.resolve(measureOnce(index + 1))),
};

if (import.meta.main) {
  for (let run = 1; run <= 3; run++) console.log(measureOnce(run));
}
