/** Workers, requests and hash chains as literals, for the tests of a stage. */
import type { KvMatches } from "../../../../src/data/prefix-index/kv-index.ts";
import { defaultRouterConfig, type StageSettings, stageSettings } from "../../../../src/prefill-router/config.ts";
import type { RouterWorker } from "../../../../src/prefill-router/contracts.ts";
import type { PrefillLoad, Selected, StageRequest, WorkerStage } from "../../../../src/prefill-router/stage.ts";

export function worker(id: number, members: Partial<RouterWorker> = {}): RouterWorker {
  return {
    id: BigInt(id),
    role: "aggregated",
    dataParallelStartRank: 0,
    dataParallelSize: 1,
    totalKvBlocks: 1000,
    maxNumBatchedTokens: 8192,
    taints: [],
    stableRoutingId: undefined,
    topologyDomains: new Map(),
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
    loras: new Set(),
    ...members,
  };
}

export const plainSettings: StageSettings = stageSettings(defaultRouterConfig);

/** Hashes of a chain: `seeds` name its blocks, and each hash stands for all before it, as a rolling hash does. */
export function chain(...seeds: readonly number[]): Uint32Array {
  const hashes = new Uint32Array(seeds.length * 2);
  let rolling = 7;
  for (const [block, seed] of seeds.entries()) {
    rolling = (Math.imul(rolling ^ seed, 0x9e3779b1) ^ (rolling >>> 15)) >>> 0;
    hashes[block * 2] = rolling;
    hashes[block * 2 + 1] = (Math.imul(rolling, 0x85ebca77) ^ block) >>> 0;
  }
  return hashes;
}

export function request(members: Partial<StageRequest> = {}): StageRequest {
  const sequenceHashes = members.sequenceHashes ?? new Uint32Array(0);
  return {
    isl: sequenceHashes.length * 8,
    sequenceHashes,
    matches: undefined,
    loraName: undefined,
    expectedOutputTokens: undefined,
    allowedWorkerIds: undefined,
    pinned: undefined,
    preferred: undefined,
    constraints: undefined,
    settings: plainSettings,
    ...members,
  };
}

/** Prompt tokens of which nobody says how long they take. */
export function unmodeled(prefillTokens: number): PrefillLoad {
  return { prefillTokens, expectedPrefillMs: undefined };
}

/** Matches by holder, in the order of the ranks. */
export function matches(...device: readonly number[]): KvMatches {
  return { device: Int32Array.from(device), host: new Int32Array(device.length), disk: new Int32Array(device.length) };
}

export const first = () => 0;

/** What is chosen; fails where nothing is. */
export function select(stage: WorkerStage, of: StageRequest, random: () => number = first, nowMs = 0): Selected {
  const selection = stage.select(of, nowMs, random);
  if (selection.kind === "none") throw new Error(selection.message);
  return selection;
}

export function only(...ids: readonly number[]): ReadonlySet<bigint> {
  return new Set(ids.map(BigInt));
}
