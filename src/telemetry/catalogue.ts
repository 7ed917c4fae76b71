/**
 * Every metric family of the picker with the reference's names, labels and buckets, in both generations: `llm_d_epp_*` and the older
 * `inference_*` (reference: pkg/epp/metrics; the bucket 32778 is the reference's own).
 */
import { Family, type FamilySpec, type FamilyType } from "./families.ts";

const scheduling = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];
const hitBytes = [0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
const ratio = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];
const responseSize = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778, 65536];
const inputTokens = [...responseSize, 131072, 262144, 524288, 1048576];
const perToken = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];
const outputTokens = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
const firstToken = [
  0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120,
];
const duration = [...firstToken, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600];
const requestSize = Array.from({ length: 25 }, (_, power) => 64 * 2 ** power);
const requestProcessing = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const responseProcessing = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5,
];
const interToken = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2];
const streamingPerToken = [
  0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 2,
];
const streamDuration = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600];

const M = ["model_name", "target_model_name", "fairness_id", "priority"] as const;

interface LegacyName {
  readonly name: string;
  /** Labels it shows, "legacy=canonical" where renamed. Default: all. */
  readonly labels?: readonly string[];
}

function family(
  type: FamilyType,
  name: string,
  help: string,
  labels: readonly string[],
  legacy?: LegacyName,
  buckets?: readonly number[],
): Family {
  const shown = (wanted: readonly string[]) =>
    wanted.map((label) => {
      const [shownAs = "", canonical = shownAs] = label.split("=");
      return { name: shownAs, from: labels.indexOf(canonical) };
    });
  const exposures = [{ name: `llm_d_epp_${name}`, labels: shown(labels) }];
  if (legacy !== undefined) exposures.push({ name: legacy.name, labels: shown(legacy.labels ?? labels) });
  const spec: FamilySpec = { type, help, labels, exposures, ...(buckets === undefined ? {} : { buckets }) };
  return new Family(spec);
}

/** Fresh families, all at zero. Series appear when they are first written. */
export function createFamilies() {
  const models = ["model_name", "target_model_name"];
  return {
    requestTotal: family("counter", "request_total", "Requests by model and priority.", M, {
      name: "inference_objective_request_total",
      labels: [...models, "priority"],
    }),
    requestErrors: family(
      "counter",
      "request_error_total",
      "Requests that failed, by the picker's error code.",
      [...M, "error_code"],
      { name: "inference_objective_request_error_total", labels: [...models, "error_code"] },
    ),
    requestDuration: family(
      "histogram",
      "request_duration_seconds",
      "Time from the request's headers to the end of its answer.",
      M,
      { name: "inference_objective_request_duration_seconds", labels: models },
      duration,
    ),
    requestSize: family(
      "histogram",
      "request_size_bytes",
      "Size of request bodies.",
      M,
      { name: "inference_objective_request_sizes", labels: models },
      requestSize,
    ),
    responseSize: family(
      "histogram",
      "response_size_bytes",
      "Size of answers.",
      M,
      { name: "inference_objective_response_sizes", labels: models },
      responseSize,
    ),
    inputTokens: family(
      "histogram",
      "request_input_tokens",
      "Prompt tokens as the engine counted them.",
      M,
      { name: "inference_objective_input_tokens", labels: models },
      inputTokens,
    ),
    cachedTokens: family(
      "histogram",
      "request_cached_tokens",
      "Prompt tokens the engine took from its prefix cache.",
      M,
      { name: "inference_objective_prompt_cached_tokens", labels: models },
      inputTokens,
    ),
    outputTokens: family(
      "histogram",
      "request_output_tokens",
      "Answer tokens as the engine counted them.",
      M,
      { name: "inference_objective_output_tokens", labels: models },
      outputTokens,
    ),
    running: family("gauge", "request_running", "Requests routed and not ended.", M, {
      name: "inference_objective_running_requests",
      labels: ["model_name"],
    }),
    perToken: family(
      "histogram",
      "request_ntpot_seconds",
      "Request duration divided by its answer tokens.",
      M,
      { name: "inference_objective_normalized_time_per_output_token_seconds", labels: models },
      perToken,
    ),
    firstToken: family(
      "histogram",
      "request_ttft_seconds",
      "Time to the first byte of the answer.",
      [...M, "streaming"],
      undefined,
      firstToken,
    ),
    streamingPerToken: family(
      "histogram",
      "request_streaming_tpot_seconds",
      "Time per answer token after the first, of streaming answers.",
      M,
      undefined,
      streamingPerToken,
    ),
    interToken: family(
      "histogram",
      "request_streaming_itl_seconds",
      "Time between content messages of streaming answers.",
      M,
      undefined,
      interToken,
    ),
    averageKvCache: family("gauge", "average_kv_cache_utilization", "Mean KV cache use of fresh endpoints.", ["name"], {
      name: "inference_pool_average_kv_cache_utilization",
    }),
    averageQueue: family("gauge", "average_queue_size", "Mean waiting requests of fresh endpoints.", ["name"], {
      name: "inference_pool_average_queue_size",
    }),
    averageRunning: family("gauge", "average_running_requests", "Mean running requests of fresh endpoints.", ["name"], {
      name: "inference_pool_average_running_requests",
    }),
    deviationKvCache: family("gauge", "std_dev_kv_cache_utilization", "Standard deviation of KV cache use.", ["name"]),
    deviationQueue: family("gauge", "std_dev_queue_size", "Standard deviation of waiting requests.", ["name"]),
    deviationRunning: family("gauge", "std_dev_running_requests", "Standard deviation of running requests.", ["name"]),
    readyEndpoints: family("gauge", "ready_endpoints", "Endpoints with fresh metrics.", ["name"], {
      name: "inference_pool_ready_pods",
    }),
    endpointQueue: family(
      "gauge",
      "per_endpoint_queue_size",
      "Waiting requests of an endpoint.",
      ["name", "model_server_endpoint"],
      { name: "inference_pool_per_pod_queue_size", labels: ["name", "model_server_pod=model_server_endpoint"] },
    ),
    schedulerDuration: family(
      "histogram",
      "scheduler_e2e_duration_seconds",
      "Time of one scheduling decision.",
      [],
      { name: "inference_extension_scheduler_e2e_duration_seconds" },
      scheduling,
    ),
    schedulerAttempts: family(
      "counter",
      "scheduler_attempts_total",
      "Scheduling decisions by outcome and endpoint.",
      ["status", "target_model_name", "endpoint_name", "namespace", "port"],
      {
        name: "inference_extension_scheduler_attempts_total",
        labels: ["status", "target_model_name", "pod_name=endpoint_name", "namespace", "port"],
      },
    ),
    pluginDuration: family(
      "histogram",
      "plugin_duration_seconds",
      "Time of one plugin at one extension point.",
      ["extension_point", "plugin_type", "plugin_name"],
      { name: "inference_extension_plugin_duration_seconds" },
      scheduling,
    ),
    pluginErrors: family("counter", "plugin_errors_total", "Exceptions of a plugin; the request went on without it.", [
      "extension_point",
      "plugin_type",
      "plugin_name",
    ]),
    requestProcessing: family(
      "histogram",
      "request_processing_duration_seconds",
      "Time from the end of the request's body to its routing decision.",
      [],
      undefined,
      requestProcessing,
    ),
    responseProcessing: family(
      "histogram",
      "response_processing_duration_seconds",
      "The picker's own time on one answer.",
      [],
      undefined,
      responseProcessing,
    ),
    info: family("gauge", "info", "The running build.", ["commit", "build_ref"], { name: "inference_extension_info" }),
    modelRewrites: family(
      "counter",
      "model_rewrite_decisions_total",
      "Requests whose model was rewritten.",
      ["model_rewrite_name", "model_name", "target_model"],
      { name: "inference_extension_model_rewrite_decisions_total" },
    ),
    pollErrors: family("counter", "datalayer_poll_errors_total", "Scrapes that failed.", ["source_type"], {
      name: "llm_d_inference_scheduler_datalayer_poll_errors_total",
    }),
    extractErrors: family(
      "counter",
      "datalayer_extract_errors_total",
      "Scrapes that answered but held nothing usable.",
      ["source_type", "extractor_type"],
      { name: "llm_d_inference_scheduler_datalayer_extract_errors_total" },
    ),
    prefixSize: family("gauge", "prefix_indexer_size", "Blocks in the prefix index.", ["plugin_name", "plugin_type"], {
      name: "inference_extension_prefix_indexer_size",
      labels: [],
    }),
    prefixHitRatio: family(
      "histogram",
      "prefix_indexer_hit_ratio",
      "Longest matched share of a prompt.",
      ["plugin_name", "plugin_type"],
      { name: "inference_extension_prefix_indexer_hit_ratio", labels: [] },
      ratio,
    ),
    prefixHitBytes: family(
      "histogram",
      "prefix_indexer_hit_bytes",
      "Longest matched prefix of a prompt.",
      ["plugin_name", "plugin_type"],
      { name: "inference_extension_prefix_indexer_hit_bytes", labels: [] },
      hitBytes,
    ),
    preciseMaxHitRatio: family(
      "histogram",
      "precise_prefix_indexer_max_hit_ratio",
      "Share of a prompt's blocks that the best endpoint holds.",
      ["plugin_name", "plugin_type"],
      undefined,
      ratio,
    ),
    preciseAvgHitRatio: family(
      "histogram",
      "precise_prefix_indexer_avg_hit_ratio",
      "Share of a prompt's blocks that endpoints hold, on average over the candidates.",
      ["plugin_name", "plugin_type"],
      undefined,
      ratio,
    ),
    preciseStdDevHitRatio: family(
      "histogram",
      "precise_prefix_indexer_std_dev_hit_ratio",
      "Standard deviation of that share over the candidates.",
      ["plugin_name", "plugin_type"],
      undefined,
      ratio,
    ),
    kvEvents: family("counter", "kv_events_total", "What became of the engines' KV events.", [
      "plugin_name",
      "plugin_type",
      "what",
    ]),
    inflightRequests: family("gauge", "inflight_requests", "Requests sent to an endpoint and not ended.", [
      "endpoint_name",
      "namespace",
      "producer_name",
      "fairness_id",
      "priority",
    ]),
    inflightTokens: family("gauge", "inflight_tokens", "Tokens of requests sent to an endpoint and not released.", [
      "endpoint_name",
      "namespace",
      "producer_name",
      "fairness_id",
      "priority",
    ]),
    streamsInflight: family("gauge", "extproc_streams_inflight", "Open ext-proc streams.", []),
    streamDuration: family(
      "histogram",
      "extproc_stream_duration_seconds",
      "Life of an ext-proc stream.",
      [],
      undefined,
      streamDuration,
    ),
    streams: family("counter", "extproc_streams_total", "Ended ext-proc streams by gRPC code.", ["code"]),
    modeLacks: family(
      "counter",
      "gateway_mode_lacks_total",
      "Requests that needed what the gateway's processing mode cannot give.",
      ["what"],
    ),
    configReloads: family("counter", "config_reloads_total", "Configuration reloads by outcome.", ["outcome"]),
    peersConnected: family("gauge", "peers", "Other replicas: heard by this one, and listening to it.", ["direction"]),
    peerLag: family("gauge", "peer_lag_bytes", "What the slowest listening replica has yet to be sent.", []),
    peerBytes: family("counter", "peer_bytes_total", "Bytes between replicas.", ["direction"]),
    peerEvents: family("counter", "peer_events_total", "What went between replicas, and what went wrong.", ["what"]),
    discoveryAge: family(
      "gauge",
      "discovery_age_seconds",
      "How long the Kubernetes API has been silent about the pool; 0 while what is known is current, +Inf before it spoke.",
      ["name"],
    ),
    unexpectedErrors: family("counter", "unexpected_errors_total", "Errors that nobody caught.", ["kind"]),
    /** As the reference's library names it, without a prefix. */
    leaderStatus: new Family({
      type: "gauge",
      help: "Whether this replica leads (1) or follows (0), by lease.",
      labels: ["name"],
      exposures: [{ name: "leader_election_master_status", labels: [{ name: "name", from: 0 }] }],
    }),
  } as const;
}

export type Families = ReturnType<typeof createFamilies>;
