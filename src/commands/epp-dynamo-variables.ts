/** The variables of Dynamo's endpoint picker, by what they do here. docs/dynamo.md has the same table. */

/** Any of them, without a configuration, makes the picker one of Dynamo workers. */
export const placingVariables = ["DYN_NAMESPACE_PREFIX", "DYN_NAMESPACE", "DYN_DISCOVERY_BACKEND"] as const;

/** Variables of the standalone mode → why they have no effect; undefined: they have. */
export const standaloneVariables: ReadonlyMap<string, string | undefined> = new Map([
  ["DYN_EPP_INFERENCE_POOL_NAME", undefined],
  ["DYN_EPP_PREFILL_INFERENCE_POOL_NAME", "prefill and decode pools of raw engines are not built yet"],
  ["DYN_EPP_TOKENIZER_SERVICE_URL", undefined],
  ["DYN_EPP_VLLM_RENDER_URL", undefined],
  ["DYN_EPP_TOKENIZER_PROTOCOL", undefined],
  ["DYN_EPP_KV_EVENT_PORT", undefined],
  ["DYN_EPP_KV_EVENT_REPLAY_PORT", undefined],
  ["DYN_EPP_TOTAL_KV_BLOCKS", "the use of the KV cache is read from each engine's metrics"],
  ["DYN_EPP_MAX_NUM_BATCHED_TOKENS", "queues are read from each engine's metrics"],
  // Said by whoever reads the settings.
  ["DYN_EPP_SELECTION_INDEXER_THREADS", undefined],
  ["DYN_EPP_TOKENIZATION_TIMEOUT_MS", undefined],
  ["DYN_EPP_TOKENIZER_MAX_RESPONSE_BYTES", undefined],
  ["DYN_EPP_MAX_INFLIGHT_REQUESTS", "--max-buffered-bytes and the saturation detector bound what is in flight"],
  ["DYN_EPP_PEER_SERVICE", "state shared between pickers of raw engines is not built yet"],
  ["DYN_EPP_REPLICA_SYNC_PORT", "state shared between pickers of raw engines is not built yet"],
  ["DYN_EPP_SELECTION_HTTP_PORT", "engines are asked for what was missed, not peers"],
]);

/** Every DYN_EPP_ variable that means something; others are named in a warning. */
export const knownDynamoVariables: ReadonlySet<string> = new Set([
  "DYN_EPP_MODE",
  "DYN_EPP_METRICS_PORT",
  "DYN_EPP_GRACEFUL_SHUTDOWN_PROPAGATION_SECS",
  // Ours: what --dynamo-frontend and --dynamo-legacy-headers say.
  "DYN_EPP_FRONTENDS",
  "DYN_EPP_LEGACY_HEADERS",
  ...standaloneVariables.keys(),
]);
