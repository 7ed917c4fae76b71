/** A vLLM metrics page of about 42 KB, the size that a real engine serves: every histogram it has, with values that change. */

const labels = 'engine="0",model_name="base-model"';
const latencyBounds = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const tokenBounds = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
];
const gauges = [
  ["num_requests_running", "Number of requests in model execution batches."],
  ["num_requests_waiting", "Number of requests waiting to be processed."],
  ["kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."],
] as const;
const counters = [
  ["num_preemptions", "Cumulative number of preemption from the engine."],
  ["prompt_tokens", "Number of prefill tokens processed."],
  ["generation_tokens", "Number of generation tokens processed."],
  ["prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens."],
  ["prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens."],
] as const;
const tokenHistograms = [
  "request_prompt_tokens",
  "request_generation_tokens",
  "iteration_tokens_total",
  "request_max_num_generation_tokens",
  "request_params_max_tokens",
];
const latencyHistograms = [
  "time_to_first_token_seconds",
  "inter_token_latency_seconds",
  "time_per_output_token_seconds",
  "request_time_per_output_token_seconds",
  "e2e_request_latency_seconds",
  "request_queue_time_seconds",
  "request_inference_time_seconds",
  "request_prefill_time_seconds",
  "request_decode_time_seconds",
];
const finishReasons = ["stop", "length", "abort", "error"];
const pythonFamilies = 3;

function described(name: string, help: string, type: string, samples: readonly string[]): string {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...samples, ""].join("\n");
}

function histogram(name: string, bounds: readonly number[], turn: number): string {
  const buckets = bounds.map((le, i) => `vllm:${name}_bucket{${labels},le="${le}"} ${(i * 37 + turn).toFixed(1)}`);
  const count = (bounds.length * 37 + turn).toFixed(1);
  return described(`vllm:${name}`, `Histogram of ${name.replaceAll("_", " ")}.`, "histogram", [
    ...buckets,
    `vllm:${name}_bucket{${labels},le="+Inf"} ${count}`,
    `vllm:${name}_count{${labels}} ${count}`,
    `vllm:${name}_sum{${labels}} ${turn * 0.7919}`,
  ]);
}

/** One family of the process and of the HTTP server, which stand before and after the engine's. */
function serverFamily(handler: string, turn: number): string {
  const bounds = latencyBounds.map(
    (le) => `http_request_duration_seconds_bucket{handler="${handler}",le="${le}",method="POST"} ${turn}.0`,
  );
  return described("http_request_duration_seconds", "Latency with only few buckets by handler.", "histogram", bounds);
}

function processFamilies(turn: number): string[] {
  return Array.from({ length: pythonFamilies }, (_, generation) =>
    described(`python_gc_objects_collected_generation_${generation}_total`, "Objects collected during gc", "counter", [
      `python_gc_objects_collected_generation_${generation}_total{generation="${generation}"} ${turn * 31}.0`,
    ]),
  );
}

/** `turn` moves every value, as between two scrapes of a busy engine. */
export function metricsPage(turn: number): Buffer {
  return Buffer.from(
    [
      ...processFamilies(turn),
      ...gauges.map(([name, help], i) =>
        described(`vllm:${name}`, help, "gauge", [
          `vllm:${name}{${labels}} ${i === 2 ? (turn % 10) / 20 : turn % 7}.0`.replace(/(\.\d+)\.0$/, "$1"),
        ]),
      ),
      ...counters.map(([name, help], i) =>
        described(`vllm:${name}`, help, "counter", [`vllm:${name}_total{${labels}} ${(i + 1) * 1000 + turn}.0`]),
      ),
      described("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", "gauge", [
        'vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.9",num_gpu_blocks="27000",prefix_caching_hash_algo="sha256"} 1.0',
      ]),
      described("vllm:lora_requests_info", "Running stats on lora requests.", "gauge", [
        `vllm:lora_requests_info{max_lora="4",running_lora_adapters="sql,chat",waiting_lora_adapters=""} 1.7${String(turn).padStart(8, "0")}e+09`,
      ]),
      described(
        "vllm:request_success",
        "Count of successfully processed requests.",
        "counter",
        finishReasons.map(
          (reason) => `vllm:request_success_total{${labels.replace(",", `,finished_reason="${reason}",`)}} ${turn}.0`,
        ),
      ),
      ...tokenHistograms.map((name) => histogram(name, tokenBounds, turn)),
      ...latencyHistograms.map((name) => histogram(name, latencyBounds, turn)),
      ...["/v1/chat/completions", "/v1/completions", "/v1/embeddings"].map((handler) => serverFamily(handler, turn)),
    ].join(""),
  );
}
