/** Which metrics of which engine carry which signal: the reference's maps (core-metrics-extractor), and the names older engines use. */

/** Specifications are `name` or `name{label=value,…}`; "" means that the engine has no such metric. */
export interface EngineConfig {
  readonly name: string;
  readonly queuedRequestsSpec: string;
  readonly runningRequestsSpec: string;
  readonly kvUsageSpec: string;
  /** Read where kvUsageSpec has no series. */
  readonly kvUsageFallbackSpec: string;
  readonly loraSpec: string;
  /** An info metric whose labels hold block size and block count. */
  readonly cacheInfoSpec: string;
  readonly cacheBlockSizeLabelName: string;
  readonly cacheNumBlocksLabelName: string;
  /** Block size and block count as values of their own, in place of cacheInfoSpec. */
  readonly cacheBlockSizeSpec: string;
  readonly cacheNumBlocksSpec: string;
  readonly customMetrics: readonly { readonly attributeKey: string; readonly metricSpec: string }[];
}

export type EngineConfigParameters = Partial<EngineConfig> & { readonly name: string };

export function completeEngineConfig(parameters: EngineConfigParameters): EngineConfig {
  return {
    name: parameters.name,
    queuedRequestsSpec: parameters.queuedRequestsSpec ?? "",
    runningRequestsSpec: parameters.runningRequestsSpec ?? "",
    kvUsageSpec: parameters.kvUsageSpec ?? "",
    kvUsageFallbackSpec: parameters.kvUsageFallbackSpec ?? "",
    loraSpec: parameters.loraSpec ?? "",
    cacheInfoSpec: parameters.cacheInfoSpec ?? "",
    cacheBlockSizeLabelName: parameters.cacheBlockSizeLabelName || "block_size",
    cacheNumBlocksLabelName: parameters.cacheNumBlocksLabelName || "num_gpu_blocks",
    cacheBlockSizeSpec: parameters.cacheBlockSizeSpec ?? "",
    cacheNumBlocksSpec: parameters.cacheNumBlocksSpec ?? "",
    customMetrics: parameters.customMetrics ?? [],
  };
}

export const builtInEngines: readonly EngineConfig[] = [
  {
    name: "vllm",
    queuedRequestsSpec: "vllm:num_requests_waiting",
    runningRequestsSpec: "vllm:num_requests_running",
    kvUsageSpec: "vllm:kv_cache_usage_perc",
    kvUsageFallbackSpec: "vllm:gpu_cache_usage_perc",
    loraSpec: "vllm:lora_requests_info",
    cacheInfoSpec: "vllm:cache_config_info",
  },
  {
    name: "sglang",
    queuedRequestsSpec: "sglang:num_queue_reqs",
    runningRequestsSpec: "sglang:num_running_reqs",
    kvUsageSpec: "sglang:token_usage",
    cacheInfoSpec: "sglang:cache_config_info",
    cacheBlockSizeLabelName: "page_size",
    cacheNumBlocksLabelName: "num_pages",
  },
  {
    name: "trtllm-serve",
    queuedRequestsSpec: "trtllm_num_requests_waiting",
    runningRequestsSpec: "trtllm_num_requests_running",
    kvUsageSpec: "trtllm_kv_cache_utilization",
    cacheBlockSizeSpec: "trtllm_kv_cache_tokens_per_block",
    cacheNumBlocksSpec: "trtllm_kv_cache_max_blocks",
  },
  {
    name: "triton-tensorrt-llm",
    queuedRequestsSpec: "nv_trt_llm_request_metrics{request_type=waiting}",
    runningRequestsSpec: "nv_trt_llm_request_metrics{request_type=scheduled}",
    kvUsageSpec: "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
    cacheBlockSizeSpec: "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}",
    cacheNumBlocksSpec: "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}",
  },
  {
    name: "triton",
    queuedRequestsSpec: "nv_inference_pending_request_count",
    runningRequestsSpec: "nv_inference_exec_count",
  },
].map(completeEngineConfig);

export const engineLabelKey = "llm-d.ai/engine-type";
export const legacyEngineLabelKey = "inference.networking.k8s.io/engine-type";
