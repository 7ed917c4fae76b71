/** The plugin `core-metrics-extractor`: reads engine metrics by the map of the endpoint's engine, which a label names. */
import type { Endpoint } from "../endpoint.ts";
import type { ScrapeSink } from "../endpoint-store.ts";
import type { JsonSchema, PluginDefinition } from "../plugin.ts";
import { compileEngine, type EngineMap } from "./engine-map.ts";
import { EngineReader } from "./engine-reader.ts";
import {
  builtInEngines,
  completeEngineConfig,
  type EngineConfigParameters,
  engineLabelKey,
  legacyEngineLabelKey,
} from "./engines.ts";
import type { Extractor, PageReader, ReadOutcome } from "./source.ts";

export interface CoreMetricsParameters {
  readonly engineLabelKey: string;
  readonly defaultEngine: string;
  /** Replace a built-in engine of the same name as a whole, or add one. */
  readonly engineConfigs: readonly EngineConfigParameters[];
}

interface CompiledEngines {
  readonly maps: ReadonlyMap<string, EngineMap>;
  readonly faults: readonly string[];
}

function compileEngines(parameters: CoreMetricsParameters): CompiledEngines {
  const maps = new Map<string, EngineMap>();
  const faults: string[] = [];
  for (const config of builtInEngines) maps.set(config.name, compileEngine(config).map);
  const own = new Set<string>();
  for (const [index, config] of parameters.engineConfigs.entries()) {
    const path = `engineConfigs[${index}]`;
    // The reference keeps this name for its own default entry.
    if (config.name === "" || config.name === "default")
      faults.push(`${path}.name: expected a name other than "default"`);
    if (own.has(config.name)) faults.push(`${path}.name: "${config.name}" is configured twice`);
    own.add(config.name);
    const compiled = compileEngine(completeEngineConfig(config));
    for (const fault of compiled.faults) faults.push(`${path}.${fault}`);
    maps.set(config.name, compiled.map);
  }
  if (!maps.has(parameters.defaultEngine)) {
    faults.push(`defaultEngine: "${parameters.defaultEngine}" is none of ${[...maps.keys()].join(", ")}`);
  }
  return { maps, faults };
}

export function createCoreMetricsExtractor(parameters: CoreMetricsParameters): Extractor {
  const { maps, faults } = compileEngines(parameters);
  const fallback = maps.get(parameters.defaultEngine);
  if (fallback === undefined || faults.length > 0) throw new TypeError(faults.join("; "));
  const labelKeys = [parameters.engineLabelKey, legacyEngineLabelKey];
  return {
    extractorType: "core-metrics-extractor",
    open: () => new LabelledReader(maps, fallback, labelKeys),
  };
}

/** Chooses the engine's reader by the endpoint's labels, again when they change. */
class LabelledReader implements PageReader {
  readonly #maps: ReadonlyMap<string, EngineMap>;
  readonly #fallback: EngineMap;
  readonly #labelKeys: readonly string[];
  #labels: ReadonlyMap<string, string> | undefined;
  #map: EngineMap;
  #reader: EngineReader;

  constructor(maps: ReadonlyMap<string, EngineMap>, fallback: EngineMap, labelKeys: readonly string[]) {
    this.#maps = maps;
    this.#fallback = fallback;
    this.#labelKeys = labelKeys;
    this.#map = fallback;
    this.#reader = new EngineReader(fallback);
  }

  read(endpoint: Endpoint, page: Buffer, nowMs: number, sink: ScrapeSink): ReadOutcome {
    if (endpoint.labels !== this.#labels) this.#choose(endpoint.labels);
    return this.#reader.read(endpoint, page, nowMs, sink);
  }

  #choose(labels: ReadonlyMap<string, string>): void {
    this.#labels = labels;
    const key = this.#labelKeys.find((labelKey) => labels.has(labelKey));
    const map = this.#maps.get(labels.get(key ?? "") ?? "") ?? this.#fallback;
    if (map === this.#map) return;
    this.#map = map;
    this.#reader = new EngineReader(map);
  }
}

const spec = (description: string): JsonSchema => ({ type: "string", default: "", description });

export const coreMetricsExtractorPlugin: PluginDefinition<CoreMetricsParameters, Extractor> = {
  type: "core-metrics-extractor",
  kinds: ["extractor"],
  summary:
    "Reads queue length, running requests, KV-cache usage, adapters and cache geometry from an engine's metrics.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      engineLabelKey: {
        type: "string",
        minLength: 1,
        default: engineLabelKey,
        description: `Endpoint label that names its engine; ${legacyEngineLabelKey} is read where it is absent.`,
      },
      defaultEngine: {
        type: "string",
        minLength: 1,
        default: "vllm",
        description: "Engine of endpoints without the label, or with a name that is not configured.",
      },
      engineConfigs: {
        type: "array",
        default: [],
        description: "Engines besides vllm, sglang, trtllm-serve, triton-tensorrt-llm and triton, or in place of one.",
        items: {
          type: "object",
          additionalProperties: false,
          required: ["name"],
          properties: {
            name: { type: "string", minLength: 1, description: "Value of the engine label." },
            queuedRequestsSpec: spec("Metric of waiting requests: name or name{label=value,...}."),
            runningRequestsSpec: spec("Metric of running requests."),
            kvUsageSpec: spec("Metric of KV-cache usage, 0 to 1."),
            kvUsageFallbackSpec: spec("Read where kvUsageSpec has no series."),
            loraSpec: spec("Info metric of LoRA adapters."),
            cacheInfoSpec: spec("Info metric whose labels hold block size and block count."),
            cacheBlockSizeLabelName: spec("Label of the block size; block_size when empty."),
            cacheNumBlocksLabelName: spec("Label of the block count; num_gpu_blocks when empty."),
            cacheBlockSizeSpec: spec("Metric whose value is the block size."),
            cacheNumBlocksSpec: spec("Metric whose value is the block count."),
            customMetrics: {
              type: "array",
              default: [],
              description: "Further metrics, kept as endpoint attributes; of several series the first counts.",
              items: {
                type: "object",
                additionalProperties: false,
                required: ["attributeKey", "metricSpec"],
                properties: {
                  attributeKey: { type: "string", minLength: 1, description: "Name of the attribute." },
                  metricSpec: { type: "string", minLength: 1, description: "Metric specification." },
                },
              },
            },
          },
        },
      },
    },
  },
  validate: (parameters) => compileEngines(parameters).faults,
  create: (parameters) => createCoreMetricsExtractor(parameters),
};
