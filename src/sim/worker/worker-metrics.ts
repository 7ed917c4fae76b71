/** What a worker counts and the page it exposes: vLLM's families with their types, helps, labels and buckets. */
import type { Engine } from "../engine/engine.ts";
import type { FinishReason } from "../engine/sequence.ts";
import { createdFamily, escapeLabel, familyHead, Histogram, labelText, pythonFloat } from "./exposition.ts";

/** Label sets that vllm:lora_requests_info keeps: a gauge never forgets one, and a page must stay bounded. */
const maxLoraSeries = 64;

const firstTokenBounds = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];
const tokenBounds = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
const latencyBounds = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
const iterationBounds = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
const httpBounds = [0.1, 0.5, 1];

/** 1, 2, 5, 10 … up to `most`. */
function oneTwoFive(most: number): number[] {
  const bounds: number[] = [];
  for (let power = 1; power <= most; power *= 10) {
    for (const digit of [1, 2, 5]) if (digit * power <= most) bounds.push(digit * power);
  }
  return bounds;
}

export interface WorkerMetricsConfig {
  readonly modelName: string;
  readonly blockSize: number;
  readonly numBlocks: number;
  readonly maxModelLen: number;
  readonly maxLoras: number;
  readonly prefixCaching: boolean;
}

/** Names of adapters, in order, that run and that wait. */
export interface AdapterActivity {
  readonly running: readonly string[];
  readonly waiting: readonly string[];
}

/** Seconds. */
export interface FinishedTimes {
  readonly endToEnd: number;
  readonly queued: number;
  readonly inference: number;
  readonly prefill: number;
  readonly decode: number;
}

export class WorkerMetrics {
  readonly timeToFirstToken: Histogram;
  readonly interTokenLatency: Histogram;
  readonly iterationTokens: Histogram;
  readonly #config: WorkerMetricsConfig;
  readonly #labels: string;
  readonly #perRequest: readonly Histogram[];
  readonly #byReason: Record<FinishReason | "abort" | "error", number> = { stop: 0, length: 0, abort: 0, error: 0 };
  readonly #loraSeries = new Map<string, number>();
  #loraNotedAt = 0;
  readonly #responses = new Map<string, number>();
  readonly #httpDuration: Histogram;

  constructor(config: WorkerMetricsConfig) {
    this.#config = config;
    const labels = { engine: "0", model_name: config.modelName };
    this.#labels = labelText(labels);
    const histogram = (name: string, help: string, bounds: readonly number[]): Histogram =>
      new Histogram(name, help, bounds, labels);
    const lengths = oneTwoFive(config.maxModelLen);
    this.timeToFirstToken = histogram(
      "vllm:time_to_first_token_seconds",
      "Histogram of time to first token in seconds.",
      firstTokenBounds,
    );
    this.interTokenLatency = histogram(
      "vllm:inter_token_latency_seconds",
      "Histogram of inter-token latency in seconds.",
      tokenBounds,
    );
    this.iterationTokens = histogram(
      "vllm:iteration_tokens_total",
      "Histogram of number of tokens per engine_step.",
      iterationBounds,
    );
    this.#perRequest = [
      histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", latencyBounds),
      histogram(
        "vllm:request_queue_time_seconds",
        "Histogram of time spent in WAITING phase for request.",
        latencyBounds,
      ),
      histogram(
        "vllm:request_inference_time_seconds",
        "Histogram of time spent in RUNNING phase for request.",
        latencyBounds,
      ),
      histogram(
        "vllm:request_prefill_time_seconds",
        "Histogram of time spent in PREFILL phase for request.",
        latencyBounds,
      ),
      histogram(
        "vllm:request_decode_time_seconds",
        "Histogram of time spent in DECODE phase for request.",
        latencyBounds,
      ),
      histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", lengths),
      histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", lengths),
      histogram(
        "vllm:request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        lengths,
      ),
      histogram("vllm:request_params_n", "Histogram of the n request parameter.", [1, 2, 5, 10, 20]),
      histogram("vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", lengths),
    ];
    this.#httpDuration = new Histogram(
      "http_request_duration_seconds",
      "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important.",
      httpBounds,
      {},
    );
  }

  countAborted(): void {
    this.#byReason.abort++;
  }

  countFinished(
    reason: FinishReason,
    times: FinishedTimes,
    promptTokens: number,
    answerTokens: number,
    maxTokens: number,
  ): void {
    this.#byReason[reason]++;
    const values = [
      times.endToEnd,
      times.queued,
      times.inference,
      times.prefill,
      times.decode,
      promptTokens,
      answerTokens,
      answerTokens,
      1,
      maxTokens,
    ];
    for (const [index, histogram] of this.#perRequest.entries()) {
      const value = values[index] ?? 0;
      if (Number.isFinite(value)) histogram.observe(value);
    }
  }

  countResponse(method: string, path: string, status: number, seconds: number): void {
    const labels = labelText({ handler: path, method, status: `${Math.floor(status / 100)}xx` });
    this.#responses.set(labels, (this.#responses.get(labels) ?? 0) + 1);
    this.#httpDuration.observe(seconds);
  }

  /** Notes which adapters run and wait now; the newest of the kept series is the valid one. */
  noteAdapters(activity: AdapterActivity): void {
    const running = escapeLabel(activity.running.join(","));
    const waiting = escapeLabel(activity.waiting.join(","));
    const labels = `{max_lora="${this.#config.maxLoras}",running_lora_adapters="${running}",waiting_lora_adapters="${waiting}"}`;
    this.#loraSeries.delete(labels);
    // Strictly later than the last: readers take the newest, and two changes may share a clock tick.
    this.#loraNotedAt = Math.max((performance.timeOrigin + performance.now()) / 1000, this.#loraNotedAt + 1e-6);
    this.#loraSeries.set(labels, this.#loraNotedAt);
    for (const oldest of this.#loraSeries.keys()) {
      if (this.#loraSeries.size <= maxLoraSeries) break;
      this.#loraSeries.delete(oldest);
    }
  }

  /** The page. `isMalformed` repeats a HELP line; a worker without adapters has no family of them. */
  render(engine: Engine<unknown>, isMalformed: boolean, hasAdapters: boolean): string {
    const { counters } = engine;
    let page = processLines();
    page += this.#gauge("vllm:num_requests_running", "Number of requests in model execution batches.", engine.running);
    page += this.#gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", engine.waiting);
    if (isMalformed) page += "# HELP vllm:num_requests_waiting Number of requests waiting to be processed.\n";
    page += this.#gauge("vllm:engine_sleep_state", "Engine sleep state; awake = 0 means engine is sleeping.", 0);
    page += this.#gauge(
      "vllm:kv_cache_usage_perc",
      "KV-cache usage. 1 means 100 percent usage.",
      engine.usedBlocks / this.#config.numBlocks,
    );
    page += this.#counter(
      "vllm:prefix_cache_queries",
      "Prefix cache queries, in terms of number of queried tokens.",
      counters.prefixQueries,
    );
    page += this.#counter(
      "vllm:prefix_cache_hits",
      "Prefix cache hits, in terms of number of cached tokens.",
      counters.prefixHits,
    );
    page += this.#counter("vllm:external_prefix_cache_queries", "External prefix cache queries from KV connector.", 0);
    page += this.#counter("vllm:external_prefix_cache_hits", "External prefix cache hits from KV connector.", 0);
    page += this.#counter("vllm:mm_cache_queries", "Multi-modal cache queries, in terms of number of items.", 0);
    page += this.#counter("vllm:mm_cache_hits", "Multi-modal cache hits, in terms of number of items.", 0);
    page += this.#counter(
      "vllm:num_preemptions",
      "Cumulative number of preemption from the engine.",
      counters.preemptions,
    );
    page += this.#counter("vllm:prompt_tokens", "Number of prefill tokens processed.", counters.promptTokens);
    page += this.#counter("vllm:generation_tokens", "Number of generation tokens processed.", counters.answerTokens);
    page += this.#successes();
    page += this.iterationTokens.render() + this.timeToFirstToken.render() + this.interTokenLatency.render();
    for (const histogram of this.#perRequest) page += histogram.render();
    if (hasAdapters) page += this.#adapters();
    page += this.#cacheConfig() + this.#http();
    return page;
  }

  #gauge(name: string, help: string, value: number): string {
    return `${familyHead(name, "gauge", help)}${name}${this.#labels} ${pythonFloat(value)}\n`;
  }

  #counter(name: string, help: string, value: number): string {
    const total = `${familyHead(`${name}_total`, "counter", help)}${name}_total${this.#labels} ${pythonFloat(value)}\n`;
    return total + createdFamily(name, help, this.#labels);
  }

  #successes(): string {
    const name = "vllm:request_success_total";
    let page = familyHead(name, "counter", "Count of successfully processed requests.");
    for (const [reason, count] of Object.entries(this.#byReason)) {
      const labels = labelText({ engine: "0", finished_reason: reason, model_name: this.#config.modelName });
      page += `${name}${labels} ${pythonFloat(count)}\n`;
    }
    return page;
  }

  #adapters(): string {
    let page = familyHead("vllm:lora_requests_info", "gauge", "Running stats on lora requests.");
    for (const [labels, seconds] of this.#loraSeries)
      page += `vllm:lora_requests_info${labels} ${pythonFloat(seconds)}\n`;
    return page;
  }

  #cacheConfig(): string {
    const labels = labelText({
      block_size: String(this.#config.blockSize),
      cache_dtype: "auto",
      cpu_offload_gb: "0",
      enable_prefix_caching: this.#config.prefixCaching ? "True" : "False",
      engine: "0",
      gpu_memory_utilization: "0.9",
      is_attention_free: "False",
      num_cpu_blocks: "None",
      num_gpu_blocks: String(this.#config.numBlocks),
      num_gpu_blocks_override: String(this.#config.numBlocks),
      prefix_caching_hash_algo: "sha256",
      sliding_window: "None",
      swap_space: "4",
    });
    const name = "vllm:cache_config_info";
    return `${familyHead(name, "gauge", "Information of the LLMEngine CacheConfig")}${name}${labels} 1.0\n`;
  }

  #http(): string {
    const name = "http_requests_total";
    let page = familyHead(name, "counter", "Total number of requests by method, status and handler.");
    for (const [labels, count] of this.#responses) page += `${name}${labels} ${pythonFloat(count)}\n`;
    return page + this.#httpDuration.render();
  }
}

/** The lines that any Python process has; figures are this process's own where it has them. */
function processLines(): string {
  const memory = process.memoryUsage.rss();
  const cpu = process.cpuUsage();
  const gauge = (name: string, help: string, value: number): string =>
    `${familyHead(name, "gauge", help)}${name} ${pythonFloat(value)}\n`;
  const seconds = (cpu.user + cpu.system) / 1e6;
  return (
    gauge("process_resident_memory_bytes", "Resident memory size in bytes.", memory) +
    gauge(
      "process_start_time_seconds",
      "Start time of the process since unix epoch in seconds.",
      Math.round(performance.timeOrigin) / 1000,
    ) +
    `${familyHead("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.")}process_cpu_seconds_total ${pythonFloat(seconds)}\n`
  );
}
