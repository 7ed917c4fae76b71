/** Our fleet beside a stack, as the picker runs it and without a gateway: discovery, planes, a router for each worker set. */

import { DynamoWorkers } from "../../src/data/discovery/dynamo/dynamo-discovery.ts";
import { createEndpointStore } from "../../src/data/endpoint-store.ts";
import type { PlanPreview, PlanRequest } from "../../src/prefill-router/contracts.ts";
import { Fleet } from "../../src/prefill-router/fleet/fleet.ts";
import { readFleetSettings } from "../../src/prefill-router/fleet/fleet-settings.ts";
import type { SetRoute } from "../../src/prefill-router/fleet/route-table.ts";
import type { SetRuntime } from "../../src/prefill-router/fleet/set-runtime.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { eventually } from "../stack.ts";
import type { DynamoStack } from "./stack.ts";

export interface RunningFleet {
  readonly runtime: SetRuntime;
  readonly route: SetRoute;
  /** Blocks of these tokens on each worker's rank 0, by id, as the router counts them; another process's index is asked where ours is its. */
  overlaps(tokens: readonly number[], workerIds: readonly bigint[]): Promise<ReadonlyMap<bigint, number>>;
  /** Plans and books. Resolves with the worker that computes the prompt; what was booked is freed. */
  plan(tokens: readonly number[]): Promise<bigint>;
  close(): Promise<void>;
}

const log = silentLogger;

/** Ready, and of one set with every worker of the stack, when it resolves. */
export async function startFleet(
  stack: DynamoStack,
  changes: Readonly<Record<string, string>> = {},
): Promise<RunningFleet> {
  const environment = {
    ...stack.environment,
    DYN_EVENT_PLANE_HOST: "127.0.0.1",
    DYN_TCP_RESPONSE_STREAM_HOST: "127.0.0.1",
    DYN_TCP_RPC_HOST: "127.0.0.1",
    ...changes,
  };
  const { settings, faults } = readFleetSettings(environment, {});
  if (faults.length > 0) throw new Error(faults.join("; "));
  const workers = new DynamoWorkers(
    {},
    {
      name: "dynamo-discovery",
      log,
      endpoints: createEndpointStore(),
      environment,
      plugin: () => undefined,
      now: () => performance.now(),
      random: Math.random,
    },
  );
  workers.activate();
  const fleet = new Fleet({
    workers,
    settings,
    isDisaggEnforced: false,
    environment,
    tokenizerTimeoutMs: 10_000,
    log,
    now: () => performance.now(),
    random: Math.random,
    observersOf: () => [],
  });
  const close = async (): Promise<void> => {
    await fleet.close();
    await workers.close();
  };
  try {
    await fleet.start();
    const route = await eventually("the fleet serves every worker", () => {
      const found = fleet.find(stack.model, Math.random);
      const count = found.kind === "found" ? found.route.router.snapshot().workers.length : 0;
      const isWhole = fleet.isSettled && count === stack.workers.length;
      return Promise.resolve(isWhole && found.kind === "found" ? found.route : undefined);
    });
    const runtime = fleet.runtimes.get(route.key);
    if (runtime === undefined) throw new Error("no runtime");
    return { runtime, route, close, overlaps: (...of) => overlapsOf(route, ...of), plan: (of) => planOf(route, of) };
  } catch (error) {
    await close();
    throw error;
  }
}

async function requestOf(route: SetRoute, tokens: readonly number[]): Promise<PlanRequest> {
  const hashes = route.hash(Uint32Array.from(tokens), undefined, undefined);
  const { askIndex } = route;
  const overlaps =
    askIndex === undefined
      ? undefined
      : await new Promise<PlanRequest["overlaps"]>((resolve) => void askIndex(hashes.blockHashes, resolve));
  return { requestId: "", isl: tokens.length, ...hashes, overlaps };
}

async function overlapsOf(
  route: SetRoute,
  tokens: readonly number[],
  workerIds: readonly bigint[],
): Promise<ReadonlyMap<bigint, number>> {
  const request = await requestOf(route, tokens);
  return new Map(
    workerIds.map((workerId) => {
      const pin = { workerId, dpRank: undefined };
      const isPrefill = route.isPrefillWorker(workerId);
      const pinned = isPrefill ? { prefill: pin } : { decode: pin };
      return [workerId, blocksOf(route.router.preview({ ...request, pinned }), isPrefill)];
    }),
  );
}

function blocksOf(preview: PlanPreview, isPrefill: boolean): number {
  if (preview.kind === "refused") throw new Error(preview.refusal.message);
  return (isPrefill ? preview.prefill : preview.decode)?.deviceBlocks ?? -1;
}

async function planOf(route: SetRoute, tokens: readonly number[]): Promise<bigint> {
  const request = await requestOf(route, tokens);
  return await new Promise((resolve, reject) => {
    route.router.plan(request, (outcome) => {
      if (outcome.kind === "refused") return reject(new Error(outcome.refusal.message));
      const { prefill, decode, booking } = outcome.plan;
      booking.free();
      resolve((prefill ?? decode).worker.id);
    });
  });
}
