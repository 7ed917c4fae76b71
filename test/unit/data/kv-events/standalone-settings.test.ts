import { describe, expect, it } from "@jest/globals";
import { Ajv } from "ajv";
import { standaloneSettings } from "../../../../src/data/kv-events/standalone-settings.ts";
import { precisePrefixCacheProducerDefinition } from "../../../../src/data/producers/precise-prefix-cache-producer.ts";
import { tokenProducerDefinition } from "../../../../src/data/producers/token-producer.ts";

const required = {
  DYN_EPP_INFERENCE_POOL_NAME: "pool",
  POD_NAMESPACE: "serving",
  DYN_MODEL_NAME: "org/model",
  DYN_EPP_TOKENIZER_SERVICE_URL: "http://render:8000",
  DYN_EPP_TOKENIZER_PROTOCOL: "vllm-render",
  DYN_KV_CACHE_BLOCK_SIZE: "64",
};

describe("the environment of Dynamo's picker without a Dynamo runtime", () => {
  it("has Dynamo's defaults", () => {
    const reading = standaloneSettings(required);
    expect(reading).toMatchObject({
      kind: "settings",
      warnings: [],
      settings: {
        inferencePoolName: "pool",
        podNamespace: "serving",
        modelName: "org/model",
        tokenizerUrl: "http://render:8000",
        tokenizationTimeoutMs: 5000,
        tokenizerMaxResponseBytes: 16_777_216,
        kvCacheBlockSize: 64,
        kvEventPort: 5557,
        kvEventReplayPort: undefined,
        totalKvBlocks: undefined,
        maxNumBatchedTokens: undefined,
        maxInflightRequests: 1024,
        peerService: undefined,
        replicaSyncPort: 9092,
        selectionHttpPort: undefined,
      },
    });
  });

  it("stands for plugins whose own schemas take it", () => {
    const env = { ...required, DYN_EPP_KV_EVENT_PORT: "6000", DYN_EPP_KV_EVENT_REPLAY_PORT: "6001" };
    const reading = standaloneSettings(env);
    const plugins = reading.kind === "settings" ? reading.plugins : [];
    const ajv = new Ajv({ useDefaults: true, keywords: ["x-producer"], allowUnionTypes: true });
    for (const definition of [tokenProducerDefinition, precisePrefixCacheProducerDefinition]) {
      const parameters = structuredClone(plugins.find(({ type }) => type === definition.type)?.parameters);
      expect(ajv.validate(definition.parameters, parameters)).toBe(true);
      expect(definition.validate?.(parameters as never)).toEqual([]);
    }
    expect(plugins[1]?.parameters).toMatchObject({
      tokenProcessorConfig: { blockSizeTokens: 64 },
      kvEventsConfig: { podDiscoveryConfig: { podNamespace: "serving", socketPort: 6000, replaySocketPort: 6001 } },
    });
  });

  it("names every fault at once", () => {
    const reading = standaloneSettings({
      POD_NAMESPACE: "  ",
      DYN_EPP_TOKENIZER_SERVICE_URL: "render:8000",
      DYN_EPP_TOKENIZER_PROTOCOL: "sglang",
      DYN_KV_CACHE_BLOCK_SIZE: "0",
      DYN_EPP_KV_EVENT_PORT: "70000",
      DYN_EPP_MAX_INFLIGHT_REQUESTS: "many",
      DYN_EPP_PEER_SERVICE: "peers",
    });
    const faults = reading.kind === "faults" ? reading.faults : [];
    expect(faults.map((fault) => fault.split(":")[0] ?? "").toSorted((a, b) => a.localeCompare(b))).toEqual([
      "DYN_EPP_INFERENCE_POOL_NAME",
      "DYN_EPP_KV_EVENT_PORT",
      "DYN_EPP_MAX_INFLIGHT_REQUESTS",
      "DYN_EPP_TOKENIZER_PROTOCOL",
      "DYN_EPP_TOKENIZER_SERVICE_URL",
      "DYN_KV_CACHE_BLOCK_SIZE",
      "DYN_MODEL_NAME",
      "POD_IP",
      "POD_NAMESPACE",
    ]);
  });

  it("takes the tokenizer's older name and a thread count, and says so", () => {
    const { DYN_EPP_TOKENIZER_SERVICE_URL: url, ...others } = required;
    const reading = standaloneSettings({
      ...others,
      DYN_EPP_VLLM_RENDER_URL: url,
      DYN_EPP_SELECTION_INDEXER_THREADS: "4",
    });
    expect(reading).toMatchObject({ kind: "settings", settings: { tokenizerUrl: url } });
    const warnings = reading.kind === "settings" ? reading.warnings : [];
    expect(warnings.map((warning) => warning.split(/[: ]/)[0])).toEqual([
      "DYN_EPP_VLLM_RENDER_URL",
      "DYN_EPP_SELECTION_INDEXER_THREADS",
    ]);
  });
});
