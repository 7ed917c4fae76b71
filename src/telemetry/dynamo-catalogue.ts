/**
 * Metric families of a picker before Dynamo workers: Dynamo's own, with the names, labels and buckets of its 1.6.1 (router, queue, frontend gauges and its
 * picker), and ours under `llm_d_epp_dynamo_`. Shown once they hold something: a picker without Dynamo has none of them on its page.
 */
import { Family, type FamilyType } from "./families.ts";

/** Dynamo's buckets: 0, then `count - 1` bounds at even distances of the logarithm, in two significant digits. */
export function logBuckets(least: number, most: number, count: number): readonly number[] {
  const bounds = [0];
  for (let index = 1; index < count; index++) {
    const bound = least * (most / least) ** (index / (count - 1));
    const rounded = Number(bound.toPrecision(2));
    if (rounded !== bounds.at(-1)) bounds.push(rounded);
  }
  return bounds;
}

function doublingBuckets(first: number, count: number): readonly number[] {
  return Array.from({ length: count }, (_, power) => first * 2 ** power);
}

/** By repeated multiplication, as Dynamo's: the last digits are part of a bound's name. */
function triplingBuckets(first: number, count: number): readonly number[] {
  const bounds = [first];
  while (bounds.length < count) bounds.push((bounds.at(-1) ?? first) * 3);
  return bounds;
}

const twentieths = Array.from({ length: 21 }, (_, index) => index * 0.05);

function named(
  type: FamilyType,
  name: string,
  help: string,
  labels: readonly string[],
  buckets?: readonly number[],
): Family {
  const shown = labels.map((label, from) => ({ name: label, from }));
  return new Family({
    type,
    help,
    labels,
    exposures: [{ name, labels: shown }],
    ...(buckets === undefined ? {} : { buckets }),
  });
}

/** Labels that Dynamo's runtime puts on every metric of a component. */
const component = ["dynamo_namespace", "dynamo_component"] as const;
const phase = [...component, "phase", "model"] as const;
const queue = ["model", "worker_type", "policy_class"] as const;
const rank = ["worker_id", "dp_rank", "worker_type"] as const;
const set = ["model", "dynamo_namespace"] as const;

/** Fresh families, all at zero. Every label is from discovery or the configuration, none from a request. */
export function createDynamoFamilies() {
  const router = "dynamo_component_router_";
  const frontend = "dynamo_frontend_";
  const ours = "llm_d_epp_dynamo_";
  return {
    cachedTokens: named(
      "histogram",
      "dynamo_epp_cached_tokens",
      "Prompt tokens that the engine says it took from its cache.",
      ["model"],
      logBuckets(50, 128_000, 12),
    ),
    endpointMismatch: named(
      "counter",
      "dynamo_epp_endpoint_mismatch_total",
      "Answers that the gateway says came from another endpoint than the picked one.",
      ["model"],
    ),
    rejections: named("counter", "dynamo_epp_rejections_total", "Requests that the router refused, by reason.", [
      "model",
      "reason",
    ]),
    modelRejections: named(
      "counter",
      `${frontend}model_rejection_total`,
      "Requests refused because the workers are overloaded.",
      ["model", "endpoint"],
    ),

    requestsStarted: named("counter", `${router}requests_started_total`, "Requests admitted by the router.", component),
    requests: named("counter", `${router}requests_total`, "Requests that were routed and have ended.", component),
    firstToken: named(
      "histogram",
      `${router}time_to_first_token_seconds`,
      "Time to the first byte of the answer.",
      component,
      logBuckets(0.001, 480, 18),
    ),
    interToken: named(
      "histogram",
      `${router}inter_token_latency_seconds`,
      "Time of the answer after its first byte, divided by its tokens after the first.",
      component,
      logBuckets(0.001, 2, 13),
    ),
    inputTokens: named(
      "histogram",
      `${router}input_sequence_tokens`,
      "Prompt tokens.",
      phase,
      logBuckets(50, 128_000, 12),
    ),
    outputTokens: named(
      "histogram",
      `${router}output_sequence_tokens`,
      "Answer tokens as the engine counted them.",
      component,
      logBuckets(50, 32_000, 10),
    ),
    hitRate: named(
      "histogram",
      `${router}kv_hit_rate`,
      "Share of the prompt that the router believes to be cached where it is computed.",
      component,
      twentieths,
    ),
    sharedHitRate: named(
      "histogram",
      `${router}shared_cache_hit_rate`,
      "Share of the prompt's blocks that a cache shared by the workers has.",
      component,
      twentieths,
    ),
    sharedBeyond: named(
      "histogram",
      `${router}shared_cache_beyond_blocks`,
      "Blocks in a shared cache beyond those that the chosen rank holds itself.",
      component,
      doublingBuckets(1, 12),
    ),
    bestCachedTokens: named(
      "counter",
      `${router}kv_best_eligible_cached_prefix_tokens_total`,
      "Cached prompt tokens on the rank that has most of them.",
      phase,
    ),
    selectedCachedTokens: named(
      "counter",
      `${router}kv_selected_cached_prefix_tokens_total`,
      "Cached prompt tokens on the chosen rank.",
      phase,
    ),
    reusedTokens: named(
      "counter",
      `${router}kv_worker_reused_tokens_total`,
      "Prompt tokens that workers say they took from their cache.",
      phase,
    ),
    nonMaxOverlap: named(
      "counter",
      `${router}non_max_overlap_selections_total`,
      "Prefill workers chosen although another one has more of the prompt cached.",
      [...component, "worker_type"],
    ),
    overlapLost: named(
      "histogram",
      `${router}overlap_blocks_lost`,
      "Cached blocks that such a choice gave up.",
      [...component, "worker_type"],
      doublingBuckets(0.25, 16),
    ),
    registered: named("gauge", `${router}worker_registered`, "1 for each rank that the router knows.", [
      ...component,
      "router_worker_id",
      "dp_rank",
      "worker_type",
    ]),
    sourceMismatch: named(
      "gauge",
      `${router}kv_event_source_mismatch_workers`,
      "Workers that are served from but do not publish KV events for each of their ranks.",
      ["model", "worker_type", "target_namespace", "target_component", "target_endpoint"],
    ),
    remoteQueryFailures: named(
      "counter",
      `${router}remote_indexer_query_failures_total`,
      "Questions to another process's index that failed.",
      component,
    ),
    remoteWriteFailures: named(
      "counter",
      `${router}remote_indexer_write_failures_total`,
      "Decisions that could not be written into another process's index.",
      component,
    ),
    eventsApplied: named(
      "counter",
      "dynamo_component_kv_cache_events_applied",
      "KV events by kind and by what became of them.",
      [...component, "event_type", "status"],
    ),

    hashing: named(
      "histogram",
      "dynamo_router_overhead_block_hashing_ms",
      "Time of a prompt's block and sequence hashes, in milliseconds.",
      [],
      doublingBuckets(0.001, 15),
    ),
    total: named(
      "histogram",
      "dynamo_router_overhead_total_ms",
      "Time from a prompt's tokens to its plan or refusal, waiting included, in milliseconds.",
      [],
      triplingBuckets(0.01, 17),
    ),

    sharedQuery: named(
      "histogram",
      "dynamo_router_overhead_shared_cache_query_ms",
      "Time of a prompt's look-up in a shared cache, in milliseconds.",
      [],
      triplingBuckets(0.01, 17),
    ),
    sharedErrors: named(
      "counter",
      "dynamo_router_shared_cache_errors_total",
      "Events of a shared cache that cannot be read, and lost connections to their publisher.",
      [],
    ),

    pendingRequests: named("gauge", `${frontend}router_queue_pending_requests`, "Requests that wait.", queue),
    pendingTokens: named(
      "gauge",
      `${frontend}router_queue_pending_isl_tokens`,
      "Prompt tokens of requests that wait.",
      queue,
    ),
    pendingCachedTokens: named(
      "gauge",
      `${frontend}router_queue_pending_cached_tokens`,
      "Cached prompt tokens of requests that wait.",
      queue,
    ),
    backpressure: named(
      "counter",
      `${frontend}router_queue_backpressure_total`,
      "Requests refused because a limit of their queue was reached.",
      [...queue, "reason"],
    ),
    received: named(
      "counter",
      `${frontend}router_admission_received_total`,
      "Requests that came to be admitted.",
      queue,
    ),
    activeDecodeBlocks: named(
      "gauge",
      `${frontend}worker_active_decode_blocks`,
      "KV blocks of running requests on a rank.",
      rank,
    ),
    activePrefillTokens: named(
      "gauge",
      `${frontend}worker_active_prefill_tokens`,
      "Prompt tokens that a rank still has to compute, by now where it is known how long that takes.",
      rank,
    ),

    workerSets: named("gauge", `${ours}worker_sets`, "Worker sets by state.", ["state"]),
    discoveryStale: named("gauge", `${ours}discovery_stale`, "1 while discovery cannot be reached.", ["plugin_name"]),
    malformedRecords: named(
      "gauge",
      `${ours}discovery_malformed_records`,
      "Texts in discovery that could not be read since the start.",
      ["plugin_name"],
    ),
    indexBlocks: named("gauge", `${ours}index_blocks`, "Distinct KV blocks in the index.", set),
    indexHeldBlocks: named("gauge", `${ours}index_held_blocks`, "KV blocks in the index, once for each holder.", set),
    indexSize: named("gauge", `${ours}index_size_bytes`, "Memory of the index.", set),
    recoveries: named(
      "counter",
      `${ours}recoveries_total`,
      "Recoveries of a rank's blocks from its worker, by outcome.",
      [...set, "outcome"],
    ),
    eventsDropped: named("counter", `${ours}events_dropped_total`, "KV events that were not applied, by reason.", [
      ...set,
      "reason",
    ]),
    skippedEvents: named(
      "counter",
      `${ours}events_skipped_total`,
      "KV events that were lost and that no recovery could supply.",
      set,
    ),
    sharedState: named(
      "gauge",
      `${ours}shared_cache_state`,
      "1 for what a stage's shared cache is: following, disconnected from its events, degraded since its workers cannot be read together, silent since none has one.",
      [...set, "stage", "state"],
    ),
    sharedPages: named("gauge", `${ours}shared_cache_pages`, "KV pages that shared caches are known to have.", set),
    sharedEvents: named(
      "counter",
      `${ours}shared_cache_events_total`,
      "Events of shared caches by what became of them; gap and overflow are times that all was forgotten.",
      [...set, "what"],
    ),
    bookings: named("gauge", `${ours}bookings`, "Requests that are booked on workers now.", set),
    reaped: named(
      "counter",
      `${ours}bookings_reaped_total`,
      "Bookings that nobody ended, of this picker or of another replica.",
      [...set, "origin"],
    ),
    replicaEvents: named(
      "counter",
      `${ours}replica_events_total`,
      "Bookings told to other routers and heard from them, by what became of them.",
      [...set, "what"],
    ),
    remoteQueries: named(
      "counter",
      `${ours}remote_index_queries_total`,
      "Prompts that another process's index was asked about, by outcome: answered, cancelled, or why it was planned without.",
      [...set, "outcome"],
    ),
    remoteRecords: named(
      "counter",
      `${ours}remote_index_records_total`,
      "Decisions to be written into another process's index, by outcome: recorded, or why not.",
      [...set, "outcome"],
    ),
    servedRequests: named(
      "counter",
      `${ours}served_index_requests_total`,
      "What other routers asked of this one's index, by what became of it.",
      [...set, "what"],
    ),
    untokenized: named(
      "counter",
      `${ours}untokenized_total`,
      "Requests routed by load alone, since their tokens could not be had.",
      ["model"],
    ),
    suspects: named("gauge", `${ours}suspect_workers`, "Workers out of the choice because they do not answer.", set),
    queueWait: named(
      "histogram",
      `${ours}queue_wait_seconds`,
      "Time that a request waited in the router's queue.",
      ["model", "policy_class"],
      [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100],
    ),
  } as const;
}

export type DynamoFamilies = ReturnType<typeof createDynamoFamilies>;
