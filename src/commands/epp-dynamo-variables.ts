/**
 * The variables of Dynamo's endpoint picker and what they do here; docs/dynamo.md shows them as tables. Those of the router itself are in
 * prefill-router/settings, those of discovery, planes and etcd with who reads them.
 */

export interface DynamoVariable {
  readonly name: string;
  /** What holds while it is unset. */
  readonly fallback: string;
  readonly meaning: string;
  /** Why it changes nothing; undefined where it does. */
  readonly noEffect?: string;
}

/** Any of them, without a configuration, makes the picker one of Dynamo workers. */
export const placingVariables = ["DYN_NAMESPACE_PREFIX", "DYN_NAMESPACE", "DYN_DISCOVERY_BACKEND"] as const;

export const pickerVariables: readonly DynamoVariable[] = [
  {
    name: "DYN_EPP_MODE",
    fallback: "dynamo, where one of the next three is set",
    meaning:
      "dynamo: workers that Dynamo registers. standalone: vLLM servers without Dynamo. Anything else is refused at start. No effect beside a configuration.",
  },
  {
    name: "DYN_NAMESPACE_PREFIX",
    fallback: "",
    meaning:
      "Workers of namespaces that begin so, as the generations of a rolling update do. Goes before DYN_NAMESPACE. DYN_NAMESPACE_PREFIX_STRICT: followed by an update's suffix and nothing else.",
  },
  { name: "DYN_NAMESPACE", fallback: "all namespaces", meaning: "Workers of exactly this namespace." },
  { name: "DYN_DISCOVERY_BACKEND", fallback: "etcd", meaning: "file, etcd or kubernetes: where workers register." },
  {
    name: "DYN_COMPONENT_NAME",
    fallback: "any",
    meaning:
      "Only workers of this component answer requests (a label filter in the profile). Prefill workers may be of others.",
  },
  {
    name: "DYN_ENFORCE_DISAGG",
    fallback: "false",
    meaning: "No model is ready without prefill workers (503 until then).",
  },
  {
    name: "DYN_DECODE_FALLBACK",
    fallback: "",
    meaning: "Decode workers serve whole requests while no prefill worker lives.",
    noEffect: "a worker whose card says decode waits for prefill workers",
  },
  { name: "DYN_SECURE_SERVING", fallback: "true", meaning: "--secure-serving." },
  { name: "DYN_EPP_METRICS_PORT", fallback: "9090", meaning: "--metrics-port; 0 serves none." },
  {
    name: "DYN_EPP_GRACEFUL_SHUTDOWN_PROPAGATION_SECS",
    fallback: "5 before Dynamo workers",
    meaning: "--drain-timeout: from not ready to the last request taken.",
  },
  {
    name: "DYN_EPP_FRONTENDS",
    fallback: ":8000; in Kubernetes the pod's port http",
    meaning: "--dynamo-frontend: ip:port for all workers, :port beside each, WORKER=ip:port for one. Ours.",
  },
  { name: "DYN_EPP_LEGACY_HEADERS", fallback: "false", meaning: "--dynamo-legacy-headers. Ours." },
  {
    name: "DYN_HTTP_OVERLOAD_STATUS_CODE",
    fallback: "429",
    meaning: "Status of a refusal for overload (Dynamo's frontends: 529).",
  },
  { name: "POD_NAMESPACE", fallback: "", meaning: "--pool-namespace; in Kubernetes where the workers' pods are." },
  {
    name: "DYN_KUBE_DISCOVERY_MODE",
    fallback: "pod",
    meaning: "pod or container: what of Kubernetes a worker is.",
  },
  {
    name: "RUST_LOG",
    fallback: "info",
    meaning: "-v: off, error, warn, info, debug or trace, the one for everything.",
  },
  {
    name: "DYN_MODEL_NAME",
    fallback: "",
    meaning: "In standalone mode the model's name.",
    noEffect: "each worker's model card says it",
  },
  {
    name: "DYN_KV_CACHE_BLOCK_SIZE",
    fallback: "",
    meaning: "In standalone mode the tokens of a KV block.",
    noEffect: "each worker's model card says it",
  },
];

/** Of DYN_EPP_MODE=standalone alone. */
export const standaloneVariables: readonly DynamoVariable[] = [
  { name: "DYN_EPP_INFERENCE_POOL_NAME", fallback: "required", meaning: "--pool-name: its pods are the endpoints." },
  {
    name: "DYN_EPP_TOKENIZER_SERVICE_URL",
    fallback: "required",
    meaning: "Where prompts are tokenized. DYN_EPP_VLLM_RENDER_URL is its older name.",
  },
  { name: "DYN_EPP_TOKENIZER_PROTOCOL", fallback: "required", meaning: "vllm-render or sglang-renderer." },
  { name: "DYN_EPP_TOKENIZATION_TIMEOUT_MS", fallback: "5000", meaning: "Longest wait for tokens." },
  { name: "DYN_EPP_TOKENIZER_MAX_RESPONSE_BYTES", fallback: "16 MiB", meaning: "Largest answer of the tokenizer." },
  { name: "DYN_EPP_KV_EVENT_PORT", fallback: "5557", meaning: "Port of each server's KV events." },
  { name: "DYN_EPP_KV_EVENT_REPLAY_PORT", fallback: "none", meaning: "Port where missed events are asked for." },
  {
    name: "DYN_EPP_SELECTION_INDEXER_THREADS",
    fallback: "",
    meaning: "Threads of Dynamo's indexer.",
    noEffect: "events are indexed on one thread",
  },
  {
    name: "DYN_EPP_MAX_INFLIGHT_REQUESTS",
    fallback: "1024",
    meaning: "Requests that are planned or being answered at once; the next is refused with 503.",
  },
  {
    name: "DYN_EPP_TOTAL_KV_BLOCKS",
    fallback: "each engine's metrics",
    meaning: "KV blocks of a server.",
  },
  {
    name: "DYN_EPP_MAX_NUM_BATCHED_TOKENS",
    fallback: "none",
    meaning:
      "Prompt tokens a server computes at once. A queue threshold (DYN_ROUTER_QUEUE_THRESHOLD) is a share of them and needs it.",
  },
  {
    name: "DYN_EPP_PREFILL_INFERENCE_POOL_NAME",
    fallback: "none",
    meaning:
      "--prefill-pool-name: a second pool, whose servers compute prompts for those of the first. A request leaves with x-prefiller-host-port for the sidecar beside its decode server; where no prefill server can be chosen, its decode server does both.",
  },
  {
    name: "DYN_EPP_PEER_SERVICE",
    fallback: "none",
    meaning:
      "The Service that the other pickers stand behind: each sees what the others have running. Needs POD_IP, and leave to list EndpointSlices.",
  },
  { name: "DYN_EPP_REPLICA_SYNC_PORT", fallback: "9092", meaning: "Port of what they share." },
  {
    name: "DYN_EPP_SELECTION_HTTP_PORT",
    fallback: "none",
    meaning:
      "Port where a picker that starts asks its peers for their index (GET /dump), and answers them. It is not ready before it has one or ten seconds have passed.",
  },
];

const names = ({ name }: DynamoVariable): string => name;

/** Variables that mean something in standalone mode alone. */
export const standaloneNames: ReadonlySet<string> = new Set([
  ...standaloneVariables.map(names),
  "DYN_EPP_VLLM_RENDER_URL",
]);

/** Every variable that means something; a DYN_EPP_ variable that is not among them is named in a warning. */
export const knownNames: ReadonlySet<string> = new Set([...pickerVariables.map(names), ...standaloneNames]);
