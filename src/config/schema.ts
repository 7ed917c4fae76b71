/** JSON Schema of EndpointPickerConfig (llm-d.ai/v1alpha1). Closed at every level: an unknown key is a fault. docs/configuration.md is generated from it. */
import type { JsonSchema } from "../scheduling/contracts.ts";

export const apiVersions = ["llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"] as const;

const pluginRef = {
  type: "string",
  minLength: 1,
  description: "Name of a plugin in `plugins` (its type when it has no name).",
} as const;

const reference = (description: string): JsonSchema => ({
  type: "object",
  description,
  additionalProperties: false,
  required: ["pluginRef"],
  properties: { pluginRef },
});

const optionalReference = (description: string): JsonSchema => ({
  type: "object",
  description,
  additionalProperties: false,
  properties: { pluginRef },
});

const duration = (description: string): JsonSchema => ({ type: "string", format: "duration", description });

const quantity = (description: string): JsonSchema => ({
  description: `${description} A number or a Kubernetes quantity ("64Mi", "1k").`,
  anyOf: [
    { type: "integer", minimum: 0 },
    { type: "string", format: "quantity" },
  ],
});

const priorityBand = (description: string, withPriority: boolean): JsonSchema => ({
  type: "object",
  description,
  additionalProperties: false,
  ...(withPriority ? { required: ["priority"] } : {}),
  properties: {
    ...(withPriority ? { priority: { type: "integer", description: "Requests of this priority use the band." } } : {}),
    maxBytes: quantity("Request bytes the band may hold."),
    maxRequests: quantity("Requests the band may hold."),
    fairnessPolicyRef: { type: "string", minLength: 1, description: "Fairness policy plugin." },
    orderingPolicyRef: { type: "string", minLength: 1, description: "Ordering policy plugin." },
  },
});

export const configSchema: JsonSchema = {
  type: "object",
  additionalProperties: false,
  properties: {
    apiVersion: {
      type: "string",
      enum: apiVersions,
      description: "The older group, and none, are accepted with a warning.",
    },
    kind: { type: "string", const: "EndpointPickerConfig", description: "Always EndpointPickerConfig." },
    metadata: { type: "object", description: "Ignored." },
    featureGates: {
      type: "array",
      description: 'Gates to switch: "name" or "name=true|false".',
      items: { type: "string" },
    },
    plugins: {
      type: "array",
      description:
        "Plugin instances. A plugin that is only referred to with its defaults need not be listed when another plugin needs it.",
      items: {
        type: "object",
        additionalProperties: false,
        required: ["type"],
        properties: {
          name: { type: "string", description: "Unique; what references name. Default: the type." },
          type: { type: "string", minLength: 1, description: "A plugin type of the tables below, or your own." },
          parameters: { type: "object", description: "Checked against the plugin's own schema." },
          module: {
            type: "string",
            minLength: 1,
            description: "File of a plugin of your own (TypeScript or JavaScript), relative to this file.",
          },
        },
      },
    },
    schedulingProfiles: {
      type: "array",
      description:
        "Profiles. Absent or empty: one profile `default` of every filter, scorer and picker in `plugins`, saturation detectors left out.",
      items: {
        type: "object",
        additionalProperties: false,
        required: ["name"],
        properties: {
          name: { type: "string", minLength: 1, description: "Unique." },
          plugins: {
            type: "array",
            description:
              "Filters run in this order; then every scorer; then the picker (max-score-picker when none is named).",
            items: {
              type: "object",
              additionalProperties: false,
              required: ["pluginRef"],
              properties: { pluginRef, weight: { type: "number", description: "Of a scorer. Default 1." } },
            },
          },
        },
      },
    },
    dataLayer: {
      type: "object",
      description: "Where endpoints come from and what is scraped from them.",
      additionalProperties: false,
      properties: {
        injectDefaults: {
          type: "boolean",
          description:
            "Adds metrics-data-source with core-metrics-extractor when no metrics source is configured. Default true.",
        },
        sources: {
          type: "array",
          description: "What is polled at every endpoint, and who reads the pages.",
          items: {
            type: "object",
            additionalProperties: false,
            required: ["pluginRef"],
            properties: {
              pluginRef,
              extractors: {
                type: "array",
                description: "Extractors fed by this source. A metrics source without any gets core-metrics-extractor.",
                items: reference("An extractor."),
              },
            },
          },
        },
        discovery: reference("The discovery plugin, e.g. file-discovery."),
        peerDiscovery: reference("Discovery of other pickers."),
        crossReplicaSyncerPluginRef: { type: "string", description: "Plugin that shares state between pickers." },
        crossReplicaSyncInterval: duration("Interval of the syncer."),
      },
    },
    flowControl: {
      type: "object",
      description:
        "Queueing. Checked in full; only `saturationDetector` has an effect until the flowControl gate can be switched on.",
      additionalProperties: false,
      properties: {
        maxBytes: quantity("Request bytes in all queues. Absent or 0: unlimited."),
        maxRequests: quantity("Requests in all queues. Absent or 0: unlimited."),
        defaultRequestTTL: duration("Time a request may wait. Default 60s; 0s disables."),
        noEndpointRequestTTL: duration("The same while the pool is empty. Default: defaultRequestTTL."),
        defaultPriorityBand: priorityBand("Template of bands that are not listed.", false),
        defaultNegativePriorityBand: priorityBand("Template of bands below 0 that are not listed.", false),
        priorityBands: {
          type: "array",
          description: "Bands with limits or policies of their own.",
          items: priorityBand("One band.", true),
        },
        usageLimitPolicyPluginRef: { type: "string", minLength: 1, description: "Usage limit policy plugin." },
        saturationDetector: optionalReference("The detector that admission asks. Default utilization-detector."),
        enableEviction: { type: "boolean", description: "Evict running requests for ones of higher priority." },
      },
    },
    requestHandler: {
      type: "object",
      description: "How request bodies are read.",
      additionalProperties: false,
      properties: {
        parsers: {
          type: "array",
          description:
            "Parsers by path. Default: openai-parser, anthropic-parser, vllmhttp-parser, passthrough-parser.",
          items: reference("A parser."),
        },
      },
    },
    saturationDetector: { ...optionalReference("Deprecated: use flowControl.saturationDetector."), deprecated: true },
    parser: { ...reference("Deprecated: use requestHandler.parsers."), deprecated: true },
  },
};
