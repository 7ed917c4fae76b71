/**
 * The environment of Dynamo's endpoint picker without a Dynamo runtime (`DYN_EPP_MODE=standalone`): vLLM pods behind an InferencePool, their KV events
 * over ZeroMQ, prompts tokenized by vLLM's render endpoint. Every fault is named, all at once.
 */

export interface StandaloneSettings {
  readonly inferencePoolName: string;
  readonly prefillInferencePoolName: string | undefined;
  readonly podNamespace: string;
  readonly podIp: string | undefined;
  readonly modelName: string;
  readonly tokenizerUrl: string;
  readonly tokenizationTimeoutMs: number;
  readonly tokenizerMaxResponseBytes: number;
  readonly kvCacheBlockSize: number;
  readonly kvEventPort: number;
  readonly kvEventReplayPort: number | undefined;
  readonly totalKvBlocks: number | undefined;
  readonly maxNumBatchedTokens: number | undefined;
  readonly maxInflightRequests: number;
  /** Service whose pods are the other pickers. */
  readonly peerService: string | undefined;
  readonly replicaSyncPort: number;
  readonly selectionHttpPort: number | undefined;
}

/** An entry of `plugins` in an EndpointPickerConfig. */
export interface PluginEntry {
  readonly type: string;
  readonly parameters: Readonly<Record<string, unknown>>;
}

export type StandaloneReading =
  | {
      readonly kind: "settings";
      readonly settings: StandaloneSettings;
      /** What the settings stand for: the router, what its engines are, and where tokens come from. */
      readonly plugins: readonly PluginEntry[];
      /** What is set and has no effect, and older names. */
      readonly warnings: readonly string[];
    }
  | { readonly kind: "faults"; readonly faults: readonly string[] };

type Environment = Readonly<Record<string, string | undefined>>;

/** The endpoints of the prefill pool, by the label that they get. */
const prefillSelector = "llm-d.ai/role=prefill";
const mebibyte = 1024 * 1024;

/** Reads the environment; whether it is the standalone mode is the caller's to know. */
export function standaloneSettings(env: Environment): StandaloneReading {
  const reader = new Reader(env);
  const settings: StandaloneSettings = {
    inferencePoolName: reader.required("DYN_EPP_INFERENCE_POOL_NAME"),
    prefillInferencePoolName: reader.optional("DYN_EPP_PREFILL_INFERENCE_POOL_NAME"),
    podNamespace: reader.required("POD_NAMESPACE"),
    podIp: reader.optional("POD_IP"),
    modelName: reader.required("DYN_MODEL_NAME"),
    tokenizerUrl: reader.url("DYN_EPP_TOKENIZER_SERVICE_URL", "DYN_EPP_VLLM_RENDER_URL"),
    tokenizationTimeoutMs: reader.integer("DYN_EPP_TOKENIZATION_TIMEOUT_MS", 1, 600_000) ?? 5000,
    tokenizerMaxResponseBytes:
      reader.integer("DYN_EPP_TOKENIZER_MAX_RESPONSE_BYTES", 1, 1024 * mebibyte) ?? 16 * mebibyte,
    kvCacheBlockSize: reader.requiredInteger("DYN_KV_CACHE_BLOCK_SIZE", 1, 16_383),
    kvEventPort: reader.port("DYN_EPP_KV_EVENT_PORT") ?? 5557,
    kvEventReplayPort: reader.port("DYN_EPP_KV_EVENT_REPLAY_PORT"),
    totalKvBlocks: reader.integer("DYN_EPP_TOTAL_KV_BLOCKS", 1, Number.MAX_SAFE_INTEGER),
    maxNumBatchedTokens: reader.integer("DYN_EPP_MAX_NUM_BATCHED_TOKENS", 1, Number.MAX_SAFE_INTEGER),
    maxInflightRequests: reader.integer("DYN_EPP_MAX_INFLIGHT_REQUESTS", 1, Number.MAX_SAFE_INTEGER) ?? 1024,
    peerService: reader.optional("DYN_EPP_PEER_SERVICE"),
    replicaSyncPort: reader.port("DYN_EPP_REPLICA_SYNC_PORT") ?? 9092,
    selectionHttpPort: reader.port("DYN_EPP_SELECTION_HTTP_PORT"),
  };
  // Both are asked at one path, and the answer tells which one it was.
  reader.expect("DYN_EPP_TOKENIZER_PROTOCOL", ["vllm-render", "sglang-renderer"]);
  if (reader.integer("DYN_EPP_SELECTION_INDEXER_THREADS", 1, 1024) !== undefined) {
    reader.warnings.push("DYN_EPP_SELECTION_INDEXER_THREADS has no effect: events are indexed on one thread");
  }
  if (settings.peerService !== undefined && settings.podIp === undefined) {
    reader.faults.push("POD_IP: is needed where DYN_EPP_PEER_SERVICE is set, to leave this picker out of its peers");
  }
  if (settings.peerService === undefined && settings.selectionHttpPort !== undefined) {
    reader.warnings.push("DYN_EPP_SELECTION_HTTP_PORT has no effect without DYN_EPP_PEER_SERVICE");
  }
  if (reader.faults.length > 0) return { kind: "faults", faults: reader.faults };
  return { kind: "settings", settings, plugins: pluginsOf(settings), warnings: reader.warnings };
}

function pluginsOf(settings: StandaloneSettings): readonly PluginEntry[] {
  const { kvEventReplayPort, totalKvBlocks, maxNumBatchedTokens, peerService } = settings;
  const { replicaSyncPort: port, selectionHttpPort: indexPort } = settings;
  const hasPrefillPool = settings.prefillInferencePoolName !== undefined;
  const timeout = `${settings.tokenizationTimeoutMs}ms`;
  const { tokenizerUrl: url, tokenizerMaxResponseBytes: maxResponseBytes } = settings;
  return [
    {
      type: "dynamo-prefill-router",
      parameters: {
        workers: "endpoints",
        maxInflightRequests: settings.maxInflightRequests,
        engines: {
          modelName: settings.modelName,
          blockSizeTokens: settings.kvCacheBlockSize,
          kvEventPort: settings.kvEventPort,
          ...(kvEventReplayPort === undefined ? {} : { kvEventReplayPort }),
          ...(totalKvBlocks === undefined ? {} : { totalKvBlocks }),
          ...(maxNumBatchedTokens === undefined ? {} : { maxNumBatchedTokens }),
          ...(hasPrefillPool ? { prefillSelector } : {}),
          tokens: { vllm: { url, timeout, mmTimeout: timeout, maxResponseBytes } },
          ...(peerService === undefined
            ? {}
            : { peers: { service: peerService, port, ...(indexPort === undefined ? {} : { indexPort }) } }),
        },
      },
    },
  ];
}

class Reader {
  readonly faults: string[] = [];
  readonly warnings: string[] = [];
  readonly #env: Environment;

  constructor(env: Environment) {
    this.#env = env;
  }

  /** An empty variable is an unset one. */
  optional(name: string): string | undefined {
    const text = this.#env[name]?.trim();
    return text === "" ? undefined : text;
  }

  required(name: string): string {
    const text = this.optional(name);
    if (text === undefined) this.faults.push(`${name}: is not set`);
    return text ?? "";
  }

  integer(name: string, least: number, most: number): number | undefined {
    const text = this.optional(name);
    if (text === undefined) return undefined;
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (value >= least && value <= most) return value;
    this.faults.push(`${name}: ${JSON.stringify(text)} should be a whole number from ${least} to ${most}`);
    return undefined;
  }

  requiredInteger(name: string, least: number, most: number): number {
    this.required(name);
    return this.integer(name, least, most) ?? least;
  }

  port(name: string): number | undefined {
    return this.integer(name, 1, 65_535);
  }

  /** An absolute http(s) URL, under its name or an older one. */
  url(name: string, older: string): string {
    const current = this.optional(name);
    const text = current ?? this.optional(older);
    if (current === undefined && text !== undefined) this.warnings.push(`${older}: it is called ${name}`);
    if (text === undefined) this.faults.push(`${name}: is not set`);
    else if (!/^https?:\/\/[^/]/i.test(text) || !URL.canParse(text)) {
      this.faults.push(`${name}: ${JSON.stringify(text)} should be an absolute http:// or https:// URL`);
    }
    return text ?? "";
  }

  expect(name: string, values: readonly string[]): void {
    const text = this.required(name);
    if (text !== "" && !values.includes(text)) {
      const expected = values.map((value) => JSON.stringify(value)).join(" or ");
      this.faults.push(`${name}: ${JSON.stringify(text)} should be ${expected}`);
    }
  }
}
