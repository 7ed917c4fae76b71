/** The configuration that stands when none is given, and the instances that are added to every one (reference: pkg/epp/config/loader/defaults.go). */

export const defaultPlugins = [
  { type: "queue-scorer" },
  { type: "kv-cache-utilization-scorer" },
  { type: "prefix-cache-scorer" },
] as const;

export const defaultProfile = {
  name: "default",
  plugins: [
    { pluginRef: "queue-scorer", weight: 2 },
    { pluginRef: "kv-cache-utilization-scorer", weight: 2 },
    { pluginRef: "prefix-cache-scorer", weight: 3 },
  ],
} as const;

export const defaultParsers = ["openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser"] as const;
/** Takes what no parser before it takes. */
export const fallbackParser = "passthrough-parser";
export const defaultPicker = "max-score-picker";
export const defaultHandler = "single-profile-handler";
export const defaultDetector = "utilization-detector";
export const defaultSource = "metrics-data-source";
export const notificationSource = "endpoint-notification-source";
export const defaultExtractor = "core-metrics-extractor";
/** Counts what was sent and has not ended; every configuration has one, so that load is known without waiting for a scrape. */
export const loadProducer = "inflight-load-producer";

/** Gate → its default, and whether this version can switch it on. */
export const featureGates: ReadonlyMap<string, { readonly byDefault: boolean; readonly unbuilt?: string }> = new Map([
  ["flowControl", { byDefault: false, unbuilt: "queueing is not built yet: requests are admitted or shed at once" }],
  ["haPopulateNonLeaderDatastore", { byDefault: true }],
]);

/** Flow control policies of the reference, by what may refer to them: the section is checked although none of them runs yet. */
export const flowControlPolicies = {
  fairnessPolicyRef: ["global-strict-fairness-policy", "round-robin-fairness-policy", "program-aware-fairness"],
  orderingPolicyRef: ["fcfs-ordering-policy", "edf-ordering-policy", "slo-deadline-ordering-policy"],
  usageLimitPolicyPluginRef: [
    "static-usage-limit-policy",
    "priority-holdback-policy",
    "soft-reflective-ceiling-policy",
  ],
} as const;
