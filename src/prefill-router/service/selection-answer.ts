/** A selection as the routes answer it: Dynamo's SelectResponse, with counts of cached tokens by tier, cumulative, as Mooncake has them. */
import type { Leg, Plan, PlanRequest } from "../contracts.ts";
import { assumedMaxBatchedTokens } from "../stage/overload.ts";
import type { RankOverlap } from "./partition.ts";

export interface AnswerScope {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
  readonly prefillBusyThreshold: number | undefined;
  readonly decodeBusyThreshold: number | undefined;
  endpointOf(workerId: bigint): string;
}

export interface AnsweredSelection {
  readonly plan: Plan;
  readonly request: PlanRequest;
  /** Of the chosen workers' ranks. */
  readonly overlaps: readonly RankOverlap[];
  readonly selectionId: string | undefined;
  readonly isBooked: boolean;
  readonly tracksPrefillTokens: boolean;
  readonly isAdvisory: boolean;
}

export function selectionAnswer(selection: AnsweredSelection, scope: AnswerScope): Readonly<Record<string, unknown>> {
  const { plan, request, selectionId, isBooked, isAdvisory, tracksPrefillTokens } = selection;
  const { totalKvBlocks } = plan.decode.worker;
  const { decodeBusyThreshold } = scope;
  const blocks = plan.decode.potentialDecodeBlocks;
  return {
    ...(selectionId === undefined ? {} : { selection_id: selectionId }),
    ...(isBooked
      ? {
          sequence_hashes: signedHashes(request.trackingHashes ?? request.sequenceHashes),
          isl_tokens: request.isl,
          track_prefill_tokens: tracksPrefillTokens,
        }
      : {}),
    model_name: scope.modelName,
    routing_group: scope.routingGroup,
    ...legAnswer(plan.decode, selection, scope),
    potential_decode_blocks: blocks,
    ...(decodeBusyThreshold === undefined || totalKvBlocks === undefined
      ? {}
      : { decode_busy: blocks > decodeBusyThreshold * totalKvBlocks }),
    ...(isAdvisory ? { worker_load: workerLoad(plan.decode, scope) } : {}),
    // Ours: where workers say which stage they do, the leg that computes the prompt.
    ...(plan.prefill === undefined ? {} : { prefill: legAnswer(plan.prefill, selection, scope) }),
  };
}

function legAnswer(leg: Leg, { request, overlaps }: AnsweredSelection, scope: AnswerScope) {
  return {
    worker_id: leg.worker.id,
    dp_rank: leg.dpRank,
    endpoint: scope.endpointOf(leg.worker.id),
    block_size: scope.blockSize,
    overlap: overlapSummary(
      overlaps.filter((overlap) => overlap.workerId === leg.worker.id),
      scope.blockSize,
    ),
    effective_prefill_tokens: effectivePrefillTokens(request.isl, leg),
  };
}

export function effectivePrefillTokens(isl: number, { cachedTokens }: Leg): number {
  return isl - Math.min(cachedTokens, isl);
}

/** The best of the worker's ranks on each tier. */
function overlapSummary(overlaps: readonly RankOverlap[], blockSize: number) {
  let [device, host, disk] = [0, 0, 0];
  const dp: Record<string, number> = {};
  for (const overlap of overlaps) {
    dp[overlap.dpRank] = overlap.device * blockSize;
    device = Math.max(device, overlap.device);
    host = Math.max(host, overlap.host);
    disk = Math.max(disk, overlap.disk);
  }
  return {
    longest_matched: Math.max(device, host, disk) * blockSize,
    gpu: device * blockSize,
    dp,
    cpu: host * blockSize,
    disk: disk * blockSize,
  };
}

function workerLoad({ worker, activePrefillTokens }: Leg, { prefillBusyThreshold }: AnswerScope) {
  const capacity = worker.maxNumBatchedTokens ?? assumedMaxBatchedTokens;
  return {
    active_prefill_tokens: activePrefillTokens,
    prefill_token_capacity: capacity,
    ...(worker.totalKvBlocks === undefined ? {} : { total_kv_blocks: worker.totalKvBlocks }),
    ...(prefillBusyThreshold === undefined
      ? {}
      : { prefill_busy: activePrefillTokens > prefillBusyThreshold * capacity }),
  };
}

/** Hashes are signed in these answers, and unsigned in dumps. */
function signedHashes(words: Uint32Array): bigint[] {
  return Array.from({ length: words.length / 2 }, (_, index) =>
    BigInt.asIntN(64, (BigInt(words[2 * index + 1] ?? 0) << 32n) | BigInt(words[2 * index] ?? 0)),
  );
}
