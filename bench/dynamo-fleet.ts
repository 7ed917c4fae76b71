/** Dynamo workers and requests as benchmarks of the PrefillRouter need them: the same in every run of the same seed. */
import type {
  Booking,
  PlanOutcome,
  PlanRequest,
  PrefillRouter,
  RouterWorker,
} from "../src/prefill-router/contracts.ts";

/** Uniform in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

export function workerIdOf(number: number): bigint {
  return BigInt(number + 1) * 0x1_0000_0001n;
}

export function workerOf(number: number, role: RouterWorker["role"]): RouterWorker {
  return {
    id: workerIdOf(number),
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

/** The booking of a request that is planned at once. */
export function booked(router: PrefillRouter, request: PlanRequest): Booking {
  let booking: Booking | undefined;
  router.plan(request, (outcome: PlanOutcome) => {
    if (outcome.kind === "planned") booking = outcome.plan.booking;
  });
  if (booking === undefined) throw new Error("the request was not planned");
  return booking;
}

/** Microseconds of CPU a call, the process's own collections included; a quarter as many calls go before. */
export function cpuOf(count: number, call: (index: number) => void): number {
  for (let index = 0; index < count / 4; index++) call(index);
  const before = process.cpuUsage();
  for (let index = 0; index < count; index++) call(index);
  const { user, system } = process.cpuUsage(before);
  return (user + system) / count;
}
