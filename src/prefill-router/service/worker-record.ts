/**
 * A worker as the service's catalogue has it: what its registration said, member for member as Dynamo's select service shows it, and what is still
 * missing before it can be chosen. `worker_type` is ours; without it a worker does both stages.
 */
import type { RouterWorker } from "../contracts.ts";
import {
  BadRequest,
  membersOf,
  readBoolean,
  readChoice,
  readCount,
  readNumber,
  readRankMap,
  readString,
  readStringMap,
  readStrings,
  readU32,
  readU64,
  required,
} from "./body.ts";

export type WorkerLifecycle = "incomplete" | "schedulable" | "draining" | "unschedulable";

/** What a registration says and a patch may change. Undefined: not said. */
export interface WorkerFacts {
  readonly endpoint: string | undefined;
  readonly kvEventsEndpoint: string | undefined;
  readonly kvEventsEndpoints: ReadonlyMap<number, string> | undefined;
  readonly replayEndpoint: string | undefined;
  readonly blockSize: number | undefined;
  readonly dataParallelStartRank: number | undefined;
  readonly dataParallelSize: number | undefined;
  readonly maxNumBatchedTokens: number | undefined;
  readonly totalKvBlocks: number | undefined;
  readonly stableRoutingId: string | undefined;
  readonly isEagle: boolean | undefined;
  readonly taints: readonly string[] | undefined;
  readonly topologyDomains: ReadonlyMap<string, string> | undefined;
  readonly kvTransferDomain: string | undefined;
  readonly kvTransferEnforcement: "required" | "preferred" | undefined;
  readonly kvTransferPreferredWeight: number | undefined;
  readonly routerHintWorkerType: string | undefined;
  readonly routerHintSourceControlEndpoints: ReadonlyMap<number, string> | undefined;
  readonly kvEventSourceMode: string | undefined;
  readonly workerType: RouterWorker["role"] | undefined;
}

export interface WorkerRecord extends WorkerFacts {
  readonly workerId: bigint;
  readonly modelName: string;
  readonly routingGroup: string;
  readonly lifecycle: WorkerLifecycle;
  /** Why it cannot be chosen. */
  readonly reasons: readonly string[];
}

/** Dynamo's name of the model or group that is not named. */
export const unnamed = "default";
const maxRanks = 4096;

export function readWorker(body: unknown): WorkerRecord {
  const members = membersOf(body, "", "struct WorkerRequest");
  return {
    workerId: required(readU64(members["worker_id"], "worker_id"), "", "worker_id"),
    modelName: readString(members["model_name"], "model_name") ?? unnamed,
    routingGroup: readString(members["routing_group"], "routing_group") ?? unnamed,
    lifecycle: "incomplete",
    reasons: [],
    ...readFacts(body, "struct WorkerRequest"),
  };
}

export function readFacts(body: unknown, expected = "struct WorkerPatchRequest"): WorkerFacts {
  const members = membersOf(body, "", expected);
  const enforcements = ["required", "preferred"] as const;
  return {
    endpoint: readString(members["endpoint"], "endpoint"),
    kvEventsEndpoint: readString(members["kv_events_endpoint"], "kv_events_endpoint"),
    kvEventsEndpoints: readRankMap(members["kv_events_endpoints"], "kv_events_endpoints"),
    replayEndpoint: readString(members["replay_endpoint"], "replay_endpoint"),
    blockSize: readU32(members["block_size"], "block_size"),
    dataParallelStartRank: readU32(members["data_parallel_start_rank"], "data_parallel_start_rank"),
    dataParallelSize: readU32(members["data_parallel_size"], "data_parallel_size"),
    maxNumBatchedTokens: readCount(members["max_num_batched_tokens"], "max_num_batched_tokens"),
    totalKvBlocks: readCount(members["total_kv_blocks"], "total_kv_blocks"),
    stableRoutingId: readString(members["stable_routing_id"], "stable_routing_id"),
    isEagle: readBoolean(members["is_eagle"], "is_eagle"),
    taints: readStrings(members["taints"], "taints"),
    topologyDomains: readStringMap(members["topology_domains"], "topology_domains"),
    kvTransferDomain: readString(members["kv_transfer_domain"], "kv_transfer_domain"),
    kvTransferEnforcement: readChoice(members["kv_transfer_enforcement"], "kv_transfer_enforcement", enforcements),
    kvTransferPreferredWeight: readNumber(members["kv_transfer_preferred_weight"], "kv_transfer_preferred_weight"),
    routerHintWorkerType: readString(members["router_hint_worker_type"], "router_hint_worker_type"),
    routerHintSourceControlEndpoints: readRankMap(
      members["router_hint_source_control_endpoints"],
      "router_hint_source_control_endpoints",
    ),
    kvEventSourceMode: readString(members["kv_event_source_mode"], "kv_event_source_mode"),
    workerType: readChoice(members["worker_type"], "worker_type", ["aggregated", "prefill", "decode"]),
  };
}

/** What the patch leaves unsaid stays. */
export function patched(record: WorkerRecord, patch: WorkerFacts): WorkerRecord {
  const said = Object.entries(patch).filter(([, value]) => value !== undefined);
  return { ...record, ...Object.fromEntries(said) };
}

export function ranksOf(record: WorkerFacts): { readonly first: number; readonly size: number } {
  return { first: record.dataParallelStartRank ?? 0, size: record.dataParallelSize ?? 1 };
}

export function hasRank(record: WorkerFacts, dpRank: number): boolean {
  const { first, size } = ranksOf(record);
  return dpRank >= first && dpRank < first + size;
}

/** Where each rank publishes its events; the single endpoint is that of the only rank. */
export function eventEndpointsOf(record: WorkerFacts): ReadonlyMap<number, string> {
  const { kvEventsEndpoints, kvEventsEndpoint } = record;
  if (kvEventsEndpoints !== undefined && kvEventsEndpoints.size > 0) return kvEventsEndpoints;
  const { first, size } = ranksOf(record);
  return size === 1 && kvEventsEndpoint !== undefined ? new Map([[first, kvEventsEndpoint]]) : new Map();
}

/** Throws BadRequest for what no worker can be. */
export function missingFacts(record: WorkerRecord, hasQueue: boolean, hearsEvents: boolean): string[] {
  const { first, size } = ranksOf(record);
  if (size > maxRanks) throw new BadRequest(400, `data_parallel_size ${size} exceeds the maximum ${maxRanks}`);
  const missing: string[] = [];
  if (record.endpoint === undefined || record.endpoint === "") missing.push("endpoint is required");
  if (record.blockSize === undefined || record.blockSize === 0) missing.push("block_size must be greater than 0");
  if (size === 0) missing.push("data_parallel_size must be greater than 0");
  if (hasQueue && record.maxNumBatchedTokens === undefined) {
    missing.push("max_num_batched_tokens is required while queueing is enabled");
  }
  if (!hearsEvents) return missing;
  const endpoints = eventEndpointsOf(record);
  for (let rank = first; rank < first + size; rank++) {
    if ((endpoints.get(rank) ?? "") === "") missing.push(`kv_events endpoint is required for dp_rank ${rank}`);
  }
  // A replay says nothing of ranks, and each rank has a socket of its own.
  if (size > 1 && record.replayEndpoint !== undefined) {
    missing.push("replay_endpoint is supported only for data_parallel_size 1");
  }
  return missing;
}

export function routerWorkerOf(record: WorkerRecord): RouterWorker {
  const { first, size } = ranksOf(record);
  return {
    id: record.workerId,
    role: record.workerType ?? "aggregated",
    dataParallelStartRank: first,
    dataParallelSize: size,
    totalKvBlocks: record.totalKvBlocks,
    maxNumBatchedTokens: record.maxNumBatchedTokens,
    taints: record.taints ?? [],
    stableRoutingId: record.stableRoutingId,
    topologyDomains: record.topologyDomains ?? new Map(),
    kvTransferDomain: record.kvTransferDomain,
    kvTransferEnforcement: record.kvTransferEnforcement,
    kvTransferPreferredWeight: record.kvTransferPreferredWeight,
    loras: new Set(),
  };
}

/** As the routes show it. */
export function shownWorker(record: WorkerRecord): Readonly<Record<string, unknown>> {
  const { kvEventsEndpoints, routerHintWorkerType, routerHintSourceControlEndpoints: controls } = record;
  return {
    worker_id: record.workerId,
    model_name: record.modelName,
    routing_group: record.routingGroup,
    lifecycle: record.lifecycle,
    endpoint: record.endpoint ?? null,
    kv_events_endpoint: record.kvEventsEndpoint ?? null,
    ...(isEmpty(kvEventsEndpoints) ? {} : { kv_events_endpoints: Object.fromEntries(kvEventsEndpoints ?? []) }),
    replay_endpoint: record.replayEndpoint ?? null,
    block_size: record.blockSize ?? null,
    data_parallel_start_rank: record.dataParallelStartRank ?? null,
    data_parallel_size: record.dataParallelSize ?? null,
    max_num_batched_tokens: record.maxNumBatchedTokens ?? null,
    total_kv_blocks: record.totalKvBlocks ?? null,
    stable_routing_id: record.stableRoutingId ?? null,
    is_eagle: record.isEagle ?? null,
    taints: record.taints ?? [],
    topology_domains: Object.fromEntries(record.topologyDomains ?? []),
    kv_transfer_domain: record.kvTransferDomain ?? null,
    kv_transfer_enforcement: record.kvTransferEnforcement ?? null,
    kv_transfer_preferred_weight: record.kvTransferPreferredWeight ?? null,
    ...(routerHintWorkerType === undefined ? {} : { router_hint_worker_type: routerHintWorkerType }),
    ...(isEmpty(controls) ? {} : { router_hint_source_control_endpoints: Object.fromEntries(controls ?? []) }),
    ...(record.kvEventSourceMode === undefined ? {} : { kv_event_source_mode: record.kvEventSourceMode }),
    ...(record.workerType === undefined ? {} : { worker_type: record.workerType }),
    ...(record.reasons.length === 0 ? {} : { not_schedulable_reasons: record.reasons }),
  };
}

function isEmpty(map: ReadonlyMap<number, string> | undefined): boolean {
  return map === undefined || map.size === 0;
}
