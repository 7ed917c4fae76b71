/** CPU time of PrefillRouter.plan() over real stages and the exact index, its books included: all that comes after tokens and hashes. */
import { createKvIndex } from "../src/data/prefix-index/exact-kv-index.ts";
import { createSettingsOf, defaultRouterConfig } from "../src/prefill-router/config.ts";
import type { PlanRequest, PrefillRouter } from "../src/prefill-router/contracts.ts";
import { planDefaults, type RouterIndex } from "../src/prefill-router/plan/contracts.ts";
import { createPrefillRouter } from "../src/prefill-router/plan/prefill-router.ts";
import { syntheticProfile } from "../src/prefill-router/policy/policy-class.ts";
import { createWorkerStage } from "../src/prefill-router/stage/worker-stage.ts";
import { createTokenHasher } from "../src/tokens/block-hash.ts";
import { booked, cpuOf, seeded, workerOf } from "./dynamo-fleet.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const workers = 64;
const blockSize = 32;
const promptBlocks = 128;
const requestsPerWorker = 8;
const calls = 4000;
const waiting = 10_000;

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
