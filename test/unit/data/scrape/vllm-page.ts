/** A metrics page of the shape vLLM 0.9 and later serves: Python process gauges, engine gauges, counters, and many histograms. */

export interface PageValues {
  readonly waiting: number;
  readonly running: number;
  readonly kvUsage: number;
  /** Varies the digits of everything else. */
  readonly requests: number;
}

const histograms = [
  "time_to_first_token_seconds",
  "time_per_output_token_seconds",
  "inter_token_latency_seconds",
  "e2e_request_latency_seconds",
  "request_queue_time_seconds",
  "request_inference_time_seconds",
  "request_prefill_time_seconds",
  "request_decode_time_seconds",
  "request_prompt_tokens",
  "request_generation_tokens",
  "iteration_tokens_total",
  "request_max_num_generation_tokens",
  "request_params_n",
  "request_params_max_tokens",
];
const bounds = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160];

/** About 42 KB with one engine. */
export function vllmPage(values: PageValues, engines = 1): string {
  const lines: string[] = [];
  const family = (name: string, type: string): void => {
    lines.push(`# HELP ${name} A text that says what ${name} is.`, `# TYPE ${name} ${type}`);
  };
  const labels = (engine: number): string => `engine="${engine}",model_name="meta-llama/Llama-3.1-8B-Instruct"`;
  const each = (name: string, type: string, value: (engine: number) => string): void => {
    family(name, type);
    for (let engine = 0; engine < engines; engine++) lines.push(`${name}{${labels(engine)}} ${value(engine)}`);
  };
  family("python_gc_objects_collected_total", "counter");
  for (const generation of [0, 1, 2]) {
    lines.push(`python_gc_objects_collected_total{generation="${generation}"} ${values.requests * 7 + generation}.0`);
  }
  family("process_resident_memory_bytes", "gauge");
  lines.push(`process_resident_memory_bytes ${(1.5e9 + values.requests).toExponential(9)}`);
  family("process_cpu_seconds_total", "counter");
  lines.push(`process_cpu_seconds_total ${(values.requests / 3).toFixed(2)}`);
  each("vllm:num_requests_running", "gauge", () => values.running.toFixed(1));
  each("vllm:num_requests_waiting", "gauge", () => values.waiting.toFixed(1));
  each("vllm:engine_sleep_state", "gauge", () => "0.0");
  each("vllm:kv_cache_usage_perc", "gauge", () => String(values.kvUsage));
  each("vllm:prefix_cache_queries_total", "counter", () => `${values.requests * 512}.0`);
  each("vllm:prefix_cache_hits_total", "counter", () => `${values.requests * 256}.0`);
  each("vllm:num_preemptions_total", "counter", () => "0.0");
  each("vllm:prompt_tokens_total", "counter", () => `${values.requests * 512}.0`);
  each("vllm:generation_tokens_total", "counter", () => `${values.requests * 128}.0`);
  family("vllm:cache_config_info", "gauge");
  for (let engine = 0; engine < engines; engine++) {
    lines.push(
      `vllm:cache_config_info{block_size="16",cache_dtype="auto",calculate_kv_scales="False",cpu_kvcache_space_bytes="None",enable_prefix_caching="True",engine="${engine}",gpu_memory_utilization="0.9",is_attention_free="False",num_cpu_blocks="None",num_gpu_blocks="27000",num_gpu_blocks_override="None",prefix_caching_hash_algo="builtin",sliding_window="None",swap_space="4.0",swap_space_bytes="4294967296.0"} 1.0`,
    );
  }
  for (const [index, histogram] of histograms.entries()) {
    const name = `vllm:${histogram}`;
    family(name, "histogram");
    for (let engine = 0; engine < engines; engine++) {
      for (const [position, bound] of [...bounds, "+Inf"].entries()) {
        const count = values.requests * (position + 1) + index;
        lines.push(`${name}_bucket{${labels(engine)},le="${bound}"} ${count}.0`);
      }
      lines.push(`${name}_count{${labels(engine)}} ${values.requests * 21}.0`);
      lines.push(`${name}_sum{${labels(engine)}} ${(values.requests * 1.337 + index) / 3}`);
    }
  }
  return `${lines.join("\n")}\n`;
}
