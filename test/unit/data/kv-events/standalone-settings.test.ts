import { describe, expect, it } from "@jest/globals";
import { standaloneSettings } from "../../../../src/data/kv-events/standalone-settings.ts";

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

  it("stands for the router over engines", () => {
    const env = {
      ...required,
      DYN_EPP_KV_EVENT_PORT: "6000",
      DYN_EPP_KV_EVENT_REPLAY_PORT: "6001",
      DYN_EPP_TOTAL_KV_BLOCKS: "1000",
      DYN_EPP_MAX_NUM_BATCHED_TOKENS: "8192",
      DYN_EPP_MAX_INFLIGHT_REQUESTS: "7",
    };
    const reading = standaloneSettings(env);
    expect(reading.kind === "settings" ? reading.plugins : []).toEqual([
      {
        type: "dynamo-prefill-router",
        parameters: {
          workers: "endpoints",
          maxInflightRequests: 7,
          engines: {
            modelName: "org/model",
            blockSizeTokens: 64,
            kvEventPort: 6000,
            kvEventReplayPort: 6001,
            totalKvBlocks: 1000,
            maxNumBatchedTokens: 8192,
            tokens: {
              vllm: {
                url: "http://render:8000",
                timeout: "5000ms",
                mmTimeout: "5000ms",
                maxResponseBytes: 16_777_216,
              },
            },
          },
        },
      },
    ]);
  });

  it("asks vLLM's renderer or SGLang's", () => {
    const reading = standaloneSettings({ ...required, DYN_EPP_TOKENIZER_PROTOCOL: "sglang-renderer" });
    expect(reading).toMatchObject({ kind: "settings", settings: { tokenizerUrl: "http://render:8000" } });
    expect(standaloneSettings({ ...required, DYN_EPP_TOKENIZER_PROTOCOL: "sglang" })).toEqual({
      kind: "faults",
      faults: ['DYN_EPP_TOKENIZER_PROTOCOL: "sglang" should be "vllm-render" or "sglang-renderer"'],
    });
  });

  it("gives the router its peers, their indices and its prefill servers", () => {
    const parametersOf = (env: Readonly<Record<string, string>>): unknown => {
      const reading = standaloneSettings({ ...required, POD_IP: "10.0.0.1", ...env });
      return reading.kind === "settings" ? reading.plugins[0]?.parameters["engines"] : reading.faults;
    };
    expect(parametersOf({ DYN_EPP_PEER_SERVICE: "peers" })).toMatchObject({ peers: { service: "peers", port: 9092 } });
    const shared = { DYN_EPP_PEER_SERVICE: "peers", DYN_EPP_REPLICA_SYNC_PORT: "1", DYN_EPP_SELECTION_HTTP_PORT: "2" };
    expect(parametersOf(shared)).toMatchObject({ peers: { service: "peers", port: 1, indexPort: 2 } });
    expect(parametersOf({ DYN_EPP_SELECTION_HTTP_PORT: "2" })).not.toHaveProperty("peers");
    expect(parametersOf({ DYN_EPP_PREFILL_INFERENCE_POOL_NAME: "p" })).toMatchObject({
      prefillSelector: "llm-d.ai/role=prefill",
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
