/** The parameters of the precise prefix cache: the reference's names and defaults, and what they come to here. */
import { maxBlockTokens } from "../../tokens/block-hash.ts";
import { parseBytes, parseDuration } from "../duration.ts";
import { parseLabelSelector } from "../kv-events/label-selector.ts";
import type { JsonSchema } from "../plugin.ts";

export interface PrecisePrefixCacheParameters {
  readonly tokenProcessorConfig?: {
    readonly blockSizeTokens?: number;
    readonly blockSize?: number;
    readonly hashSeed?: string;
    readonly hashAlgorithm?: string;
  };
  readonly indexerConfig?: {
    readonly kvBlockIndexConfig?: {
      readonly inMemoryConfig?: { readonly size?: number; readonly podCacheSize?: number } | null;
      readonly costAwareMemoryConfig?: { readonly size?: string } | null;
      readonly redisConfig?: object | null;
      readonly valkeyConfig?: object | null;
    };
    readonly kvCacheBackendConfigs?: readonly { readonly name: string; readonly weight: number }[];
  };
  readonly kvEventsConfig?: {
    readonly zmqEndpoint?: string;
    readonly topicFilter?: string;
    readonly concurrency?: number;
    readonly engineType?: "vllm" | "sglang";
    readonly discoverPods?: boolean;
    readonly podDiscoveryConfig?: {
      readonly podLabelSelector?: string;
      readonly podNamespace?: string;
      readonly socketPort?: number;
      readonly replaySocketPort?: number;
    };
  };
  readonly speculativeIndexing: boolean;
  readonly speculativeTTL: string;
}

/** What the parameters come to. */
export interface PreciseSettings {
  readonly blockSizeTokens: number;
  /** Blocks of the whole index; undefined is its own bound. */
  readonly maxBlocks: number | undefined;
  /** What a block on this tier counts, a block on the device being 1. */
  readonly hostWeight: number;
  readonly diskWeight: number;
  readonly topicFilter: string;
  readonly boundEndpoint: string | undefined;
  readonly socketPort: number | undefined;
  readonly replaySocketPort: number | undefined;
  readonly podLabelSelector: string;
  readonly podNamespace: string;
  /** Undefined: nothing is believed before an engine says it. */
  readonly speculativeTtlMs: number | undefined;
}

const defaultBlockSizeTokens = 16;
const defaultSocketPort = 5557;
const defaultTopicFilter = "kv@";
/** The reference's, for host memory; it names none for disks. */
const defaultLowerTierWeight = 0.8;
/** Of one block in one index with up to 64 holders. */
const bytesPerBlock = 46;

export function preciseSettings(parameters: PrecisePrefixCacheParameters): PreciseSettings {
  const { tokenProcessorConfig, indexerConfig, kvEventsConfig = {}, speculativeIndexing, speculativeTTL } = parameters;
  const { podDiscoveryConfig = {}, zmqEndpoint = "", discoverPods = true } = kvEventsConfig;
  const weights = new Map(
    indexerConfig?.kvCacheBackendConfigs?.map(({ name, weight }) => [name.toLowerCase(), weight]),
  );
  const replayPort = podDiscoveryConfig.replaySocketPort ?? 0;
  return {
    blockSizeTokens: tokenProcessorConfig?.blockSizeTokens ?? tokenProcessorConfig?.blockSize ?? defaultBlockSizeTokens,
    maxBlocks: maxBlocksOf(parameters),
    hostWeight: weights.get("cpu") ?? defaultLowerTierWeight,
    diskWeight: weights.get("disk") ?? weights.get("storage") ?? defaultLowerTierWeight,
    topicFilter: kvEventsConfig.topicFilter ?? defaultTopicFilter,
    boundEndpoint: zmqEndpoint === "" ? undefined : zmqEndpoint,
    socketPort: discoverPods ? (podDiscoveryConfig.socketPort ?? defaultSocketPort) : undefined,
    replaySocketPort: replayPort > 0 ? replayPort : undefined,
    podLabelSelector: podDiscoveryConfig.podLabelSelector ?? "",
    podNamespace: podDiscoveryConfig.podNamespace ?? "",
    speculativeTtlMs: speculativeIndexing ? parseDuration(speculativeTTL) : undefined,
  };
}

function maxBlocksOf({ indexerConfig }: PrecisePrefixCacheParameters): number | undefined {
  const { inMemoryConfig, costAwareMemoryConfig } = indexerConfig?.kvBlockIndexConfig ?? {};
  if (costAwareMemoryConfig?.size !== undefined) {
    return Math.max(1, Math.floor((parseBytes(costAwareMemoryConfig.size) ?? 0) / bytesPerBlock));
  }
  return inMemoryConfig?.size;
}

/** Faults the schema cannot express. */
export function preciseFaults(parameters: PrecisePrefixCacheParameters): readonly string[] {
  const faults: string[] = [];
  const { kvBlockIndexConfig } = parameters.indexerConfig ?? {};
  const events = parameters.kvEventsConfig;
  const ttlMs = parseDuration(parameters.speculativeTTL);
  if (ttlMs === undefined || ttlMs <= 0) faults.push("speculativeTTL: should be a duration above 0, e.g. 2s");
  for (const backend of ["redisConfig", "valkeyConfig"] as const) {
    if (kvBlockIndexConfig?.[backend] === undefined || kvBlockIndexConfig[backend] === null) continue;
    faults.push(
      `indexerConfig.kvBlockIndexConfig.${backend}: the index is not shared through a store; every picker hears the engines itself`,
    );
  }
  const size = kvBlockIndexConfig?.costAwareMemoryConfig?.size;
  if (size !== undefined && (parseBytes(size) ?? 0) <= 0) {
    faults.push("indexerConfig.kvBlockIndexConfig.costAwareMemoryConfig.size: should be a size, e.g. 2GiB");
  }
  const selector = events?.podDiscoveryConfig?.podLabelSelector;
  if (selector !== undefined && parseLabelSelector(selector) === undefined) {
    faults.push("kvEventsConfig.podDiscoveryConfig.podLabelSelector: should be a label selector, e.g. app=vllm");
  }
  const endpoint = events?.zmqEndpoint ?? "";
  if (endpoint !== "" && !/^(tcp:\/\/.+:(\d{1,5}|\*)|ipc:\/\/.+)$/.test(endpoint)) {
    faults.push("kvEventsConfig.zmqEndpoint: should be an endpoint to bind, e.g. tcp://*:5557");
  }
  if (endpoint === "" && events?.discoverPods === false) {
    faults.push("kvEventsConfig: with discoverPods false a zmqEndpoint is needed, or no event ever comes");
  }
  return faults;
}

const noEffect = (what: string): JsonSchema => ({
  ...anything,
  deprecated: true,
  description: `Has no effect: ${what}.`,
});
const anything = {};
const object = (properties: Record<string, JsonSchema>, description: string): JsonSchema => ({
  type: "object",
  additionalProperties: false,
  description,
  properties,
});
const nullable = (schema: JsonSchema): JsonSchema => ({ ...schema, type: ["object", "null"] });
const port = (least: number): JsonSchema => ({ type: "integer", minimum: least, maximum: 65_535 });
const hashed = "blocks are hashed by XXH3 and never leave the picker";

export const precisePrefixCacheSchema: JsonSchema = object(
  {
    tokenProcessorConfig: object(
      {
        blockSizeTokens: {
          type: "integer",
          minimum: 1,
          maximum: maxBlockTokens,
          description: "Tokens per block, the engines' own; 16 when unset.",
        },
        blockSize: {
          type: "integer",
          minimum: 1,
          maximum: maxBlockTokens,
          deprecated: true,
          description: "Older name of blockSizeTokens.",
        },
        hashSeed: noEffect(hashed),
        hashAlgorithm: noEffect(hashed),
      },
      "How tokens are cut into blocks.",
    ),
    indexerConfig: object(
      {
        kvBlockIndexConfig: object(
          {
            inMemoryConfig: nullable(
              object(
                {
                  size: { type: "integer", minimum: 1, description: "Distinct blocks that are kept." },
                  podCacheSize: noEffect("any number of endpoints may hold a block"),
                },
                "Bounds the index by its blocks.",
              ),
            ),
            costAwareMemoryConfig: nullable(
              object(
                { size: { type: "string", description: "Memory, e.g. 2GiB." } },
                "Bounds the index by its memory.",
              ),
            ),
            redisConfig: { type: ["object", "null"], description: "Not built: the index is this picker's own." },
            valkeyConfig: { type: ["object", "null"], description: "Not built: the index is this picker's own." },
            enableMetrics: noEffect("the index's metrics are always there"),
            metricsLoggingInterval: noEffect("the index's metrics are always there"),
          },
          "The index of blocks.",
        ),
        kvCacheBackendConfigs: {
          type: "array",
          description: "What a cached block counts by where it lies; gpu 1, cpu 0.8, disk 0.8 when unset.",
          items: {
            type: "object",
            additionalProperties: false,
            required: ["name", "weight"],
            properties: {
              name: { type: "string", description: "gpu, cpu, or disk (storage)." },
              weight: { type: "number", minimum: 0, maximum: 1, description: "0 to 1; gpu always counts 1." },
            },
          },
        },
        tokenizersPoolConfig: noEffect("tokens come from the token-producer"),
        prefixStoreConfig: noEffect("tokens come from the token-producer"),
        tokenProcessorConfig: noEffect("it stands one level up"),
      },
      "The index, and what tiers count.",
    ),
    kvEventsConfig: object(
      {
        zmqEndpoint: { type: "string", description: "ZeroMQ endpoint to bind for engines that publish to the picker." },
        topicFilter: { type: "string", description: "Beginning of the topics that are heard; kv@ when unset." },
        concurrency: noEffect("events are applied in order as they come"),
        engineType: {
          enum: ["vllm", "sglang"],
          description: "Engine that publishes; both forms are understood always.",
        },
        tracing: noEffect("events make no spans"),
        discoverPods: { type: "boolean", description: "Connect to each endpoint's own publisher; true when unset." },
        podDiscoveryConfig: object(
          {
            podLabelSelector: { type: "string", description: "Endpoints that publish; all when unset." },
            podNamespace: { type: "string", description: "Namespace of the endpoints that publish; any when unset." },
            socketPort: {
              ...port(1),
              description:
                "Port of an endpoint's publisher, of rank 0 where it has several; 5557 when unset. The label signalbox/kv-events-port goes before it.",
            },
            replaySocketPort: {
              ...port(0),
              description:
                "Port that replays past events; none when unset or 0. The label signalbox/kv-replay-port goes before it.",
            },
          },
          "Where endpoints publish.",
        ),
      },
      "How engine events are heard.",
    ),
    speculativeIndexing: {
      type: "boolean",
      default: false,
      description: "Believe that an endpoint holds a prompt from the moment it was picked, until its engine says so.",
    },
    speculativeTTL: { type: "string", default: "2s", description: "How long that is believed." },
  },
  "",
);
