/** The scheduling plugins that come with the package, and the reference's types that are known but not built. */
import type { PluginDefinition } from "./contracts.ts";
import { endpointAttributeFilter } from "./plugins/endpoint-attribute/endpoint-attribute-filter.ts";
import { endpointAttributeScorer } from "./plugins/endpoint-attribute/endpoint-attribute-scorer.ts";
import { byLabel } from "./plugins/filters/by-label.ts";
import { decodeFilter } from "./plugins/filters/decode-filter.ts";
import { encodeFilter } from "./plugins/filters/encode-filter.ts";
import { headerBasedTestingFilter } from "./plugins/filters/header-based-testing-filter.ts";
import { labelSelectorFilter } from "./plugins/filters/label-selector-filter.ts";
import { prefillFilter } from "./plugins/filters/prefill-filter.ts";
import { prefixCacheAffinityFilter } from "./plugins/filters/prefix-cache-affinity-filter.ts";
import { utilizationFilter } from "./plugins/filters/utilization-filter.ts";
import { headerProfileHandler } from "./plugins/handlers/header-profile-handler.ts";
import { singleProfileHandler } from "./plugins/handlers/single-profile-handler.ts";
import { maxScorePicker } from "./plugins/pickers/max-score-picker.ts";
import { randomPicker } from "./plugins/pickers/random-picker.ts";
import { weightedRandomPicker } from "./plugins/pickers/weighted-random-picker.ts";
import { destinationEndpointServedVerifier } from "./plugins/response/destination-endpoint-served-verifier.ts";
import { activeRequestScorer } from "./plugins/scorers/active-request-scorer.ts";
import { contextLengthAware } from "./plugins/scorers/context-length-aware.ts";
import { headerLabelAffinityScorer } from "./plugins/scorers/header-label-affinity-scorer.ts";
import { kvCacheUtilizationScorer } from "./plugins/scorers/kv-cache-utilization-scorer.ts";
import { loadAwareScorer } from "./plugins/scorers/load-aware-scorer.ts";
import { loraAffinityScorer } from "./plugins/scorers/lora-affinity-scorer.ts";
import { noHitLruScorer } from "./plugins/scorers/no-hit-lru-scorer.ts";
import { prefixCacheScorer } from "./plugins/scorers/prefix-cache-scorer.ts";
import { queueScorer } from "./plugins/scorers/queue-scorer.ts";
import { runningRequestsSizeScorer } from "./plugins/scorers/running-requests-size-scorer.ts";
import { tokenLoadScorer } from "./plugins/scorers/token-load-scorer.ts";
import { sessionAffinityFilter } from "./plugins/session-affinity/session-affinity-filter.ts";
import { sessionAffinityScorer } from "./plugins/session-affinity/session-affinity-scorer.ts";

export const builtinPlugins: readonly PluginDefinition[] = [
  labelSelectorFilter,
  byLabel,
  prefillFilter,
  decodeFilter,
  encodeFilter,
  utilizationFilter,
  sessionAffinityFilter,
  endpointAttributeFilter,
  prefixCacheAffinityFilter,
  headerBasedTestingFilter,
  contextLengthAware,
  queueScorer,
  runningRequestsSizeScorer,
  kvCacheUtilizationScorer,
  loraAffinityScorer,
  prefixCacheScorer,
  loadAwareScorer,
  tokenLoadScorer,
  activeRequestScorer,
  sessionAffinityScorer,
  headerLabelAffinityScorer,
  noHitLruScorer,
  endpointAttributeScorer,
  maxScorePicker,
  randomPicker,
  weightedRandomPicker,
  singleProfileHandler,
  headerProfileHandler,
  destinationEndpointServedVerifier,
];

/** Older names that are accepted with a warning. */
export const deprecatedTypes: ReadonlyMap<string, { readonly use: string; readonly note: string }> = new Map([
  ["by-label-selector", { use: "label-selector-filter", note: "use label-selector-filter" }],
  ["by-label", { use: "by-label", note: "use label-selector-filter, or a role filter" }],
]);

const disaggregation = "waits for disaggregated prefill and decode";
const encoding = "waits for multimodal encoding";
const flowControl = "waits for flow control";
const eviction = "waits for the eviction of running requests";
const latency = "waits for the latency predictor";
const multicluster = "waits for imported pools";
const topology = "waits for node topology";
const gpu = "waits for GPU metrics";
const kubernetes = "waits for plugins that follow objects of Kubernetes";
const replicas = "is not needed: --peers and --peer-service share state between replicas";

/**
 * Types of the reference that are not built → what they wait for. Ask it only for a type that no registry has: other layers build some of
 * what the reference knows, and a type that is built must not be refused.
 */
export const knownUnbuilt: ReadonlyMap<string, string> = new Map([
  ["disaggregatedset-rollout-screener", "waits for rollouts of disaggregated sets"],
  ["disaggregatedset-rollout-pod-extractor", "waits for rollouts of disaggregated sets"],
  ["topology-affinity-filter", topology],
  ["topology-affinity-scorer", topology],
  ["topology-extractor", topology],
  ["slo-headroom-tier-filter", latency],
  ["latency-scorer", latency],
  ["predicted-latency-producer", latency],
  ["latency-slo-admitter", latency],
  ["probabilistic-admitter", "waits for admission plugins"],
  ["mm-embeddings-cache-scorer", encoding],
  ["mm-embeddings-cache-producer", encoding],
  ["always-disagg-multimodal-decider", encoding],
  ["disagg-profile-handler", disaggregation],
  ["pd-profile-handler", disaggregation],
  ["prefill-header-handler", disaggregation],
  ["disagg-headers-handler", disaggregation],
  ["prefix-based-pd-decider", disaggregation],
  ["always-disagg-pd-decider", disaggregation],
  ["p2p-source-producer", disaggregation],
  ["data-parallel-profile-handler", "waits for data-parallel ranks; give each rank's port as an endpoint instead"],
  ["burst-prefix-cache-producer", "waits for the placing of bursts"],
  ["agent-identity", "waits for request header plugins"],
  ["request-attribute-reporter", "waits for expressions over usage"],
  ["multicluster-session-affinity-filter", multicluster],
  ["multicluster-queue-scorer", multicluster],
  ["multicluster-kv-cache-utilization-scorer", multicluster],
  ["multicluster-prefix-cache-scorer", multicluster],
  ["multicluster-approx-prefix-cache-producer", multicluster],
  ["multicluster-metrics-data-source", multicluster],
  ["multicluster-metrics-extractor", multicluster],
  ["multicluster-file-discovery", multicluster],
  ["global-strict-fairness-policy", flowControl],
  ["round-robin-fairness-policy", flowControl],
  ["program-aware-fairness", flowControl],
  ["fcfs-ordering-policy", flowControl],
  ["edf-ordering-policy", flowControl],
  ["slo-deadline-ordering-policy", flowControl],
  ["static-usage-limit-policy", flowControl],
  ["priority-holdback-policy", flowControl],
  ["soft-reflective-ceiling-policy", flowControl],
  ["sheddable-eviction-filter", eviction],
  ["priority-then-time-eviction-order-policy", eviction],
  ["dcgm-data-source", gpu],
  ["dcgm-extractor", gpu],
  ["k8s-notification-source", kubernetes],
  ["local-syncer", replicas],
  ["cross-replica-publisher", replicas],
  ["vllmgrpc-parser", "waits for gRPC engines"],
  ["vertexai-parser", "waits for the Vertex AI dialects"],
]);
