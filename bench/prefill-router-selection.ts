/**
 * CPU time of choosing among 256 loaded Dynamo workers, and of the books of a request: the stage alone, in this process. With DYNAMO_PYTHON, an
 * interpreter that has the wheels, Dynamo's own selection service beside it.
 */
import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { defaultRouterConfig, stageSettings } from "../src/prefill-router/config.ts";
import { createWorkerStage, type PrefillLoadEstimator } from "../src/prefill-router/stage/worker-stage.ts";
import type { Selected, StageRequest, WorkerStage } from "../src/prefill-router/stage.ts";
import { cpuOf, seeded, workerOf } from "./dynamo-fleet.ts";
import { interpreterWithWheels } from "./dynamo-wheels.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";

const workers = 256;
const blockSize = 32;
const promptBlocks = 128;
/** Of system prompts, half a prompt long, that requests start with. */
const prefixes = 4;
const requestsPerWorker = 8;
const calls = 4000;

/** Random hashes, the first half those of a system prompt: what chains of hashes look like to the books. */
function promptOf(random: () => number, starts: readonly Uint32Array[]): Uint32Array {
  const hashes = Uint32Array.from({ length: promptBlocks * 2 }, () => random() * 0x1_0000_0000);
  hashes.set(starts[Math.floor(random() * starts.length)] ?? []);
  return hashes;
}

function requestOf(random: () => number, starts: readonly Uint32Array[]): StageRequest {
  const column = (below: number): Int32Array => Int32Array.from({ length: workers }, () => random() * below);
  return {
    isl: promptBlocks * blockSize + 7,
    sequenceHashes: promptOf(random, starts),
    matches: { device: column(promptBlocks / 2), host: column(4), disk: column(2) },
    loraName: undefined,
    expectedOutputTokens: undefined,
    allowedWorkerIds: undefined,
    pinned: undefined,
    preferred: undefined,
    constraints: undefined,
    settings: { ...stageSettings(defaultRouterConfig), overlapScoreCreditDecay: 0.5, decodeActiveRequestWeight: 1 },
  };
}

function selected(stage: WorkerStage, request: StageRequest, random: () => number, nowMs = 0): Selected {
  const selection = stage.select(request, nowMs, random);
  if (selection.kind === "none") throw new Error(selection.message);
  return selection;
}

/** With every worker, and nothing that runs. */
function stageOf(random: () => number, prefillLoad?: PrefillLoadEstimator): WorkerStage {
  const stage = createWorkerStage({ stage: "decode", blockSize, prefillLoad, now: () => 0, random });
  for (let id = 0; id < workers; id++) {
    const worker = workerOf(id, "aggregated");
    stage.upsertWorker(worker);
    stage.setHolder({ workerId: worker.id, dpRank: 0 }, id);
  }
  return stage;
}

function measureOnce(seed: number): Run {
  const random = seeded(seed);
  const stage = stageOf(random);
  const starts = Array.from({ length: prefixes }, () =>
    Uint32Array.from({ length: promptBlocks }, () => random() * 0x1_0000_0000),
  );
  const requests = Array.from({ length: 64 }, () => requestOf(random, starts));
  const pick = (index: number): StageRequest => requests[index % requests.length] ?? requestOf(random, starts);
  const shrinking = stageOf(random, { predictMs: (tokens) => 100 * tokens });
  for (let booked = 0; booked < workers * requestsPerWorker; booked++) {
    const request = requestOf(random, starts);
    stage.book(`load-${booked}`, selected(stage, request, random), request, 0);
    shrinking.book(`load-${booked}`, selected(shrinking, request, random), request, 0);
  }
  const select = cpuOf(calls, (index) => {
    selected(stage, pick(index), random);
  });
  const allowed = new Set(stage.workers.keys());
  const selectAllowed = cpuOf(calls, (index) => {
    selected(stage, { ...pick(index), allowedWorkerIds: allowed }, random);
  });
  const selectShrinking = cpuOf(calls, (index) => {
    selected(shrinking, pick(index), random, index);
  });
  let next = 0;
  const whole = cpuOf(calls, (index) => {
    const request = pick(index);
    const booking = stage.book(`b${next++}`, selected(stage, request, random), request, 0);
    booking.prefillCompleted();
    booking.free();
  });
  return {
    "selection-256-cpu": select,
    "selection-256-allowed-cpu": selectAllowed,
    "selection-256-shrinking-cpu": selectShrinking,
    "booking-cpu": Math.max(0, whole - select),
    "books-size": stage.sizeBytes / 2 ** 20,
  };
}

/** Dynamo's service does more in a call: it hashes the prompt and asks its index, and is called through Python. */
async function measureDynamo(): Promise<Run> {
  const python = interpreterWithWheels();
  if (python === undefined) return {};
  const script = join(import.meta.dirname, "../test/dynamo/oracles/time_selection.py");
  const shape = [workers, requestsPerWorker, promptBlocks, blockSize].map(String);
  const { stdout } = await promisify(execFile)(python, ["-P", script, ...shape]);
  const { prompt, bare } = JSON.parse(stdout) as { readonly prompt: number; readonly bare: number };
  return { "dynamo-selection-256-cpu": prompt, "dynamo-selection-256-bare-cpu": bare };
}

export const prefillRouterSelection: Measurement = {
  name: "prefill-router-selection",
  what: `Choosing among ${workers} Dynamo workers, each with ${requestsPerWorker} requests, for a prompt of ${promptBlocks} blocks; and the books of one request.`,
  figures: [
    {
      name: "selection-256-cpu",
      title: "Selection over 256 workers, CPU",
      unit: "µs",
      digits: 1,
      dynamo: "dynamo-selection-256-bare-cpu",
    },
    { name: "selection-256-allowed-cpu", title: "… with a set of allowed ids", unit: "µs", digits: 1 },
    { name: "selection-256-shrinking-cpu", title: "… where prefill load shrinks with time", unit: "µs", digits: 1 },
    { name: "booking-cpu", title: "Booking, prefill complete and freeing", unit: "µs", digits: 1 },
    { name: "books-size", title: `Books of ${workers * requestsPerWorker} requests`, unit: "MiB", digits: 1 },
  ],
  isLatency: false,
  measure: (context: Context) =>
    repeat(context, async (index) => ({ ...measureOnce(index + 1), ...(await measureDynamo()) })),
};

if (import.meta.main) {
  for (let run = 1; run <= 3; run++) console.log({ ...measureOnce(run), ...(await measureDynamo()) });
}
