/**
 * Every setting of the router in one place: Dynamo's name, what values it takes, its default and the environment variables that set it. The
 * environment reader, the parameter schema and the checks are all drawn from it.
 */

export type SettingKind =
  | { readonly kind: "number"; readonly min: number; readonly max?: number; readonly isFinite?: boolean }
  | { readonly kind: "integer"; readonly min: number; readonly max?: number }
  | { readonly kind: "boolean" }
  | { readonly kind: "string" }
  | {
      readonly kind: "choice";
      readonly values: readonly string[];
      readonly aliases?: Readonly<Record<string, string>>;
      /** Dynamo ignores an unknown value instead of refusing to start. */
      readonly isLenient?: boolean;
    };

export type SettingValue = number | boolean | string | undefined;

export interface Setting {
  /** Field of KvRouterConfig, e.g. "router_ttl_secs"; the parameter is the same in camelCase. */
  readonly field: string;
  readonly kind: SettingKind;
  readonly defaultValue: SettingValue;
  /** The first that is set and can be read counts. */
  readonly environment: readonly string[];
  readonly description: string;
  /** May also be set by the `router` section of the policy file. */
  readonly isPolicySetting?: boolean;
}

const weight = { kind: "number", min: 0, isFinite: true } as const;
const share = { kind: "number", min: 0, max: 1 } as const;
const atLeastZero = { kind: "number", min: 0 } as const;
const truth = { kind: "boolean" } as const;
const text = { kind: "string" } as const;

export const settingTable = {
  overlapScoreCredit: {
    field: "overlap_score_credit",
    kind: weight,
    defaultValue: 1,
    environment: ["DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT"],
    description:
      "Share of a device-cached block that is taken off the prefill cost. Above 1 it counts extra; 0 ignores cached prefixes.",
  },
  overlapScoreCreditDecay: {
    field: "overlap_score_credit_decay",
    kind: weight,
    defaultValue: 0,
    environment: ["DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT_DECAY"],
    description:
      "How fast that credit shrinks on a rank with more prefill tokens waiting than the least loaded one. 0: not at all.",
  },
  prefillLoadScale: {
    field: "prefill_load_scale",
    kind: weight,
    defaultValue: 1,
    environment: ["DYN_ROUTER_PREFILL_LOAD_SCALE"],
    description: "Weight of the prefill cost against decode blocks.",
  },
  decodeActiveRequestWeight: {
    field: "decode_active_request_weight",
    kind: weight,
    defaultValue: 0,
    environment: ["DYN_ROUTER_DECODE_ACTIVE_REQUEST_WEIGHT"],
    description: "Cost, in blocks, of each request that already runs on a rank.",
  },
  hostCacheHitWeight: {
    field: "host_cache_hit_weight",
    kind: share,
    defaultValue: 0.75,
    environment: ["DYN_ROUTER_HOST_CACHE_HIT_WEIGHT"],
    description: "What a block in host memory is worth against one on the device.",
    isPolicySetting: true,
  },
  diskCacheHitWeight: {
    field: "disk_cache_hit_weight",
    kind: share,
    defaultValue: 0.25,
    environment: ["DYN_ROUTER_DISK_CACHE_HIT_WEIGHT"],
    description: "What a block on disk is worth against one on the device.",
    isPolicySetting: true,
  },
  routerTemperature: {
    field: "router_temperature",
    kind: weight,
    defaultValue: 0,
    environment: ["DYN_ROUTER_TEMPERATURE"],
    description: "0 takes the cheapest rank; above, ranks are drawn by softmax over costs divided by their range.",
  },
  useKvEvents: {
    field: "use_kv_events",
    kind: truth,
    defaultValue: true,
    environment: ["DYN_ROUTER_USE_KV_EVENTS", "DYN_USE_KV_EVENTS"],
    description:
      "Know cached blocks from the workers' events; false: believe that what was sent is cached for a while.",
    isPolicySetting: true,
  },
  routerReplicaSync: {
    field: "router_replica_sync",
    kind: truth,
    defaultValue: false,
    environment: ["DYN_ROUTER_REPLICA_SYNC"],
    description: "Share what runs where with the other replicas.",
    isPolicySetting: true,
  },
  routerTrackActiveBlocks: {
    field: "router_track_active_blocks",
    kind: truth,
    defaultValue: true,
    environment: ["DYN_ROUTER_TRACK_ACTIVE_BLOCKS"],
    description: "Count the blocks of running requests.",
    isPolicySetting: true,
  },
  routerTrackOutputBlocks: {
    field: "router_track_output_blocks",
    kind: truth,
    defaultValue: false,
    environment: ["DYN_ROUTER_TRACK_OUTPUT_BLOCKS"],
    description: "Count blocks of generated tokens too, decaying towards the expected length.",
    isPolicySetting: true,
  },
  routerAssumeKvReuse: {
    field: "router_assume_kv_reuse",
    kind: truth,
    defaultValue: true,
    environment: ["DYN_ROUTER_ASSUME_KV_REUSE"],
    description: "Requests with a common prefix share its blocks; false counts every request's blocks in full.",
    isPolicySetting: true,
  },
  routerTrackPrefillTokens: {
    field: "router_track_prefill_tokens",
    kind: truth,
    defaultValue: true,
    environment: ["DYN_ROUTER_TRACK_PREFILL_TOKENS"],
    description: "Count prompt tokens that are still to be computed.",
    isPolicySetting: true,
  },
  routerTrackingHash: {
    field: "router_tracking_hash",
    kind: { kind: "choice", values: ["public-xxh3-v1", "keyed-xxh3-v1"] },
    defaultValue: "public-xxh3-v1",
    environment: ["DYN_ROUTER_TRACKING_HASH"],
    description: "Identity of running blocks. Only public-xxh3-v1 is supported.",
    isPolicySetting: true,
  },
  routerTrackingKeyFile: {
    field: "router_tracking_key_file",
    kind: text,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_TRACKING_KEY_FILE"],
    description: "Key of keyed-xxh3-v1.",
    isPolicySetting: true,
  },
  routerTrackingKeyId: {
    field: "router_tracking_key_id",
    kind: text,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_TRACKING_KEY_ID"],
    description: "Name of that key.",
    isPolicySetting: true,
  },
  routerPrefillLoadModel: {
    field: "router_prefill_load_model",
    kind: { kind: "choice", values: ["none", "ais"], aliases: { aic: "ais" } },
    defaultValue: "none",
    environment: ["DYN_ROUTER_PREFILL_LOAD_MODEL"],
    description: "Model of how prefill load shrinks with time. Only none is supported.",
    isPolicySetting: true,
  },
  routerTtlSecs: {
    field: "router_ttl_secs",
    kind: atLeastZero,
    defaultValue: 120,
    environment: ["DYN_ROUTER_TTL_SECS"],
    description: "Without KV events: seconds a block sent to a worker is believed to stay cached.",
    isPolicySetting: true,
  },
  routerApproximateCachePolicy: {
    field: "router_approximate_cache_policy",
    kind: { kind: "choice", values: ["ttl", "lru"] },
    defaultValue: "ttl",
    environment: ["DYN_ROUTER_APPROXIMATE_CACHE_POLICY"],
    description: "Without KV events: forget believed blocks after routerTtlSecs, or when the worker is full.",
    isPolicySetting: true,
  },
  routerQueueThreshold: {
    field: "router_queue_threshold",
    kind: atLeastZero,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_QUEUE_THRESHOLD"],
    description:
      "A request waits while every eligible rank has more prefill tokens than this share of max_num_batched_tokens. Unset: no queue.",
  },
  routerPolicyConfig: {
    field: "router_policy_config",
    kind: text,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_POLICY_CONFIG"],
    description: "YAML file with policy classes and settings that override the ones here.",
  },
  routerPrefillPolicy: {
    field: "router_prefill_policy",
    kind: text,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_PREFILL_POLICY"],
    description: "Instance of worker_selection in the policy file that chooses prefill workers.",
  },
  routerDecodePolicy: {
    field: "router_decode_policy",
    kind: text,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_DECODE_POLICY"],
    description: "Instance of worker_selection in the policy file that chooses decode workers.",
  },
  routerWorkerSelectionPolicy: {
    field: "router_worker_selection_policy",
    kind: text,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_WORKER_SELECTION_POLICY"],
    description: "Instance of worker_selection in the policy file for every role that has none of its own.",
  },
  routerEventThreads: {
    field: "router_event_threads",
    kind: { kind: "integer", min: 1 },
    defaultValue: 4,
    environment: ["DYN_ROUTER_EVENT_THREADS"],
    description: "Threads of Dynamo's indexer. Read and checked; the index here needs none.",
    isPolicySetting: true,
  },
  skipInitialWorkerWait: {
    field: "skip_initial_worker_wait",
    kind: truth,
    defaultValue: true,
    environment: [],
    description: "Start serving before the first worker is there.",
  },
  minInitialWorkers: {
    field: "min_initial_workers",
    kind: { kind: "integer", min: 0 },
    defaultValue: 0,
    environment: ["DYN_ROUTER_MIN_INITIAL_WORKERS"],
    description: "Not ready before so many workers are there.",
  },
  routerQueuePolicy: {
    field: "router_queue_policy",
    kind: { kind: "choice", values: ["fcfs", "lcfs", "wspt"] },
    defaultValue: "fcfs",
    environment: ["DYN_ROUTER_QUEUE_POLICY"],
    description: "Order of the queue: arrival, reverse arrival, or weighted shortest processing time.",
  },
  useRemoteIndexer: {
    field: "use_remote_indexer",
    kind: truth,
    defaultValue: false,
    environment: ["DYN_USE_REMOTE_INDEXER"],
    description: "Ask another process's index. Not supported.",
    isPolicySetting: true,
  },
  serveIndexer: {
    field: "serve_indexer",
    kind: truth,
    defaultValue: false,
    environment: ["DYN_SERVE_INDEXER"],
    description: "Serve the index on the request plane. Not supported.",
    isPolicySetting: true,
  },
  enableSessionPrefixIndex: {
    field: "enable_session_prefix_index",
    kind: truth,
    defaultValue: false,
    environment: [],
    description: "Track logical prefixes by session. Not supported.",
    isPolicySetting: true,
  },
  sharedCacheMultiplier: {
    field: "shared_cache_multiplier",
    kind: share,
    defaultValue: undefined,
    environment: ["DYN_SHARED_CACHE_MULTIPLIER"],
    description:
      "What a block in a cache shared by all workers is worth. Unset: 0, or 0.5 with sharedCacheType hicache.",
  },
  sharedCacheType: {
    field: "shared_cache_type",
    kind: { kind: "choice", values: ["none", "hicache"] },
    defaultValue: "none",
    environment: ["DYN_SHARED_CACHE_TYPE"],
    description: "Shared cache to ask on each request. Only none is supported.",
    isPolicySetting: true,
  },
  routerPredictedTtlSecs: {
    field: "router_predicted_ttl_secs",
    kind: atLeastZero,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_PREDICTED_TTL_SECS"],
    description:
      "With KV events: believe for so many seconds that what was just sent is cached, before its events arrive. Unset: not.",
    isPolicySetting: true,
  },
  conditionalDisaggEnabled: {
    field: "conditional_disagg_enabled",
    kind: truth,
    defaultValue: false,
    environment: ["DYN_ROUTER_CONDITIONAL_DISAGG"],
    description: "Let a decode worker compute the prompt itself where the policy says so.",
  },
  conditionalDisaggPolicy: {
    field: "conditional_disagg_policy",
    kind: { kind: "choice", values: ["isl_bounding", "prefill_load", "isl_or_load"], isLenient: true },
    defaultValue: "isl_bounding",
    environment: ["DYN_ROUTER_CONDITIONAL_DISAGG_POLICY"],
    description: "When: for prompts mostly cached there, when the prefill worker is busy, or either.",
  },
  conditionalDisaggEffIslThreshold: {
    field: "conditional_disagg_eff_isl_threshold",
    kind: { kind: "integer", min: 0 },
    defaultValue: 2048,
    environment: ["DYN_ROUTER_CONDITIONAL_DISAGG_EFF_ISL_THRESHOLD"],
    description: "isl_bounding: fewer uncached tokens than this.",
  },
  conditionalDisaggEffIslRatioThreshold: {
    field: "conditional_disagg_eff_isl_ratio_threshold",
    kind: share,
    defaultValue: 0.7,
    environment: ["DYN_ROUTER_CONDITIONAL_DISAGG_EFF_ISL_RATIO_THRESHOLD"],
    description: "isl_bounding: and a smaller share of the prompt than this.",
  },
  conditionalDisaggPrefillBusyThreshold: {
    field: "conditional_disagg_prefill_busy_threshold",
    kind: atLeastZero,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_CONDITIONAL_DISAGG_PREFILL_BUSY_THRESHOLD"],
    description:
      "prefill_load: the prefill worker has more tokens than this share of max_num_batched_tokens. Unset: routerQueueThreshold.",
  },
  conditionalDisaggDecodeBusyThreshold: {
    field: "conditional_disagg_decode_busy_threshold",
    kind: atLeastZero,
    defaultValue: undefined,
    environment: ["DYN_ROUTER_CONDITIONAL_DISAGG_DECODE_BUSY_THRESHOLD"],
    description: "Never where the decode worker would use more than this share of its KV blocks.",
  },
  sessionAffinityTtlSecs: {
    field: "session_affinity_ttl_secs",
    kind: { kind: "integer", min: 1, max: 31_536_000 },
    defaultValue: undefined,
    environment: ["DYN_ROUTER_SESSION_AFFINITY_TTL_SECS"],
    description: "Idle seconds after which a session may go elsewhere. Unset: sessions are not kept together.",
  },
  sessionAffinityMode: {
    field: "session_affinity_mode",
    kind: { kind: "choice", values: ["hard", "soft"] },
    defaultValue: "hard",
    environment: ["DYN_ROUTER_SESSION_AFFINITY_MODE"],
    description: "Whether a session's worker is a must or a preference.",
  },
  activeRequestExpirySecs: {
    field: "active_request_expiry_secs",
    kind: { kind: "integer", min: 1 },
    defaultValue: 300,
    environment: ["DYN_ROUTER_ACTIVE_REQUEST_EXPIRY_SECS"],
    description: "A booking that nobody ended is ended after so many seconds.",
  },
  activeDecodeBlocksThreshold: {
    field: "active_decode_blocks_threshold",
    kind: share,
    defaultValue: undefined,
    environment: ["DYN_ACTIVE_DECODE_BLOCKS_THRESHOLD"],
    description:
      "A rank is busy above this share of its KV blocks; a worker when all its ranks are. Unset: not compared.",
  },
  activePrefillTokensThreshold: {
    field: "active_prefill_tokens_threshold",
    kind: { kind: "integer", min: 0 },
    defaultValue: undefined,
    environment: ["DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD"],
    description: "A rank is busy above so many prefill tokens. Unset: not compared.",
  },
  activePrefillTokensThresholdFrac: {
    field: "active_prefill_tokens_threshold_frac",
    kind: weight,
    defaultValue: undefined,
    environment: ["DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD_FRAC"],
    description: "A rank is busy above this share of max_num_batched_tokens in prefill tokens. Unset: not compared.",
  },
} as const satisfies Readonly<Record<string, Setting>>;

export type SettingName = keyof typeof settingTable;

export const settings = Object.entries(settingTable) as readonly (readonly [SettingName, Setting])[];

type ValueOf<Kind> = Kind extends { readonly kind: "choice"; readonly values: readonly (infer Choice)[] }
  ? Choice
  : Kind extends { readonly kind: "boolean" }
    ? boolean
    : Kind extends { readonly kind: "string" }
      ? string
      : number;

/** The settings of the router, complete. Names are Dynamo's, in camelCase. */
export type RouterConfig = {
  readonly [Name in SettingName]:
    | ValueOf<(typeof settingTable)[Name]["kind"]>
    | (undefined extends (typeof settingTable)[Name]["defaultValue"] ? undefined : never);
};

export type RouterSettings = { readonly [Name in SettingName]?: RouterConfig[Name] | undefined };
