/** The loads of a partition's ranks and what they hold of a prompt, as the routes answer them. */
import type { StageSettings } from "../config.ts";
import type { RankLoad } from "../contracts.ts";
import type { StageRequest } from "../stage.ts";
import type { Partition, RankOverlap } from "./partition.ts";
import { blocksOf, hashPrompt } from "./prompt.ts";
import type { PartitionRequest } from "./requests.ts";

type Answer = Readonly<Record<string, unknown>>;

export function loadsAnswer(partition: Partition): Answer {
  const { queue } = partition.router.snapshot();
  return {
    model_name: partition.modelName,
    routing_group: partition.routingGroup,
    loads: [...partition.decode.loads(), ...partition.prefill.loads()].map(shownLoad),
    pending_count: queue.reduce((sum, { requests }) => sum + requests, 0),
    pending_isl_tokens: queue.reduce((sum, { rawTokens }) => sum + rawTokens, 0),
  };
}

export function potentialLoads(partition: Partition, request: PartitionRequest, settings: StageSettings): Answer[] {
  const { isl, tracking, chain } = hashPrompt(request.prompt, partition.scope);
  const stageRequest: StageRequest = {
    isl,
    sequenceHashes: tracking,
    matches: partition.match(chain).matches,
    loraName: undefined,
    expectedOutputTokens: undefined,
    allowedWorkerIds: undefined,
    pinned: undefined,
    preferred: undefined,
    constraints: undefined,
    settings,
  };
  const { decode, prefill } = partition;
  return [...decode.potentialLoads(stageRequest), ...prefill.potentialLoads(stageRequest)].map(shownLoad);
}

export function overlapScores(partition: Partition, { prompt }: PartitionRequest): Answer {
  const { matches } = partition.match(hashPrompt(prompt, partition.scope).chain);
  const workers = [...partition.decode.workers.values(), ...partition.prefill.workers.values()];
  return {
    block_size: partition.blockSize,
    num_blocks: blocksOf(prompt, partition.scope),
    workers: partition
      .overlaps(workers, matches)
      .sort((a, b) => (a.workerId < b.workerId ? -1 : a.workerId > b.workerId ? 1 : a.dpRank - b.dpRank))
      .map(shownOverlap),
    shared_cache: { enabled: false, total_hit_blocks: 0, ranges: [], error: null },
  };
}

function shownLoad(load: RankLoad): Answer {
  return {
    worker_id: load.workerId,
    dp_rank: load.dpRank,
    potential_prefill_tokens: load.activePrefillTokens,
    potential_decode_blocks: Math.round(load.activeDecodeBlocks),
    active_requests: load.activeRequests,
  };
}

function shownOverlap({ workerId, dpRank, device, host, disk }: RankOverlap): Answer {
  return {
    worker_id: workerId,
    dp_rank: dpRank,
    device_blocks: device,
    host_pinned_blocks: host,
    disk_blocks: disk,
    host_pinned_extension_blocks: host - device,
    disk_extension_blocks: disk - host,
    shared_beyond_device_blocks: null,
  };
}
