/** Engine maps against pages of each engine, and what lying or broken pages do. */
import { describe, expect, it } from "@jest/globals";
import { type EngineMetrics, endpointName } from "../../../../src/data/endpoint.ts";
import { createEndpointStore, type EndpointStore } from "../../../../src/data/endpoint-store.ts";
import {
  type CoreMetricsParameters,
  coreMetricsExtractorPlugin,
  createCoreMetricsExtractor,
} from "../../../../src/data/scrape/core-metrics-extractor.ts";
import type { PageReader, ReadOutcome } from "../../../../src/data/scrape/source.ts";
import { vllmPage } from "./vllm-page.ts";

const defaults: CoreMetricsParameters = {
  engineLabelKey: "llm-d.ai/engine-type",
  defaultEngine: "vllm",
  engineConfigs: [],
};
const name = endpointName("default", "a");

interface Bench {
  readonly store: EndpointStore;
  readonly read: (page: string, nowMs?: number) => ReadOutcome;
  readonly metrics: () => EngineMetrics;
  readonly label: (labels: Record<string, string>) => void;
}

function bench(labels: Record<string, string> = {}, parameters: Partial<CoreMetricsParameters> = {}): Bench {
  const store = createEndpointStore();
  const label = (own: Record<string, string>): void =>
    store.upsert("t", {
      namespace: "default",
      name: "a",
      address: "10.0.0.1",
      port: 80,
      labels: new Map(Object.entries(own)),
    });
  label(labels);
  const reader: PageReader = createCoreMetricsExtractor({ ...defaults, ...parameters }).open();
  const current = () => {
    const endpoint = store.get(name);
    if (endpoint === undefined) throw new Error("the endpoint is gone");
    return endpoint;
  };
  return {
    store,
    read: (page, nowMs = 1) => reader.read(current(), Buffer.from(page), nowMs, store),
    metrics: () => current().metrics,
    label,
  };
}

const engineLabel = "llm-d.ai/engine-type";

describe("the core metrics extractor", () => {
  it.each([
    [
      "vllm",
      vllmPage({ waiting: 3, running: 5, kvUsage: 0.25, requests: 9 }),
      { waitingRequests: 3, runningRequests: 5, kvCacheUsage: 0.25, blockSizeTokens: 16, totalBlocks: 27_000 },
    ],
    [
      "sglang",
      'sglang:num_queue_reqs{tp_rank="0"} 2\nsglang:num_running_reqs{tp_rank="0"} 4\nsglang:token_usage 0.5\nsglang:cache_config_info{page_size="64",num_pages="512"} 1\n',
      { waitingRequests: 2, runningRequests: 4, kvCacheUsage: 0.5, blockSizeTokens: 64, totalBlocks: 512 },
    ],
    [
      "trtllm-serve",
      "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.75\ntrtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 1000\n",
      { waitingRequests: 1, runningRequests: 2, kvCacheUsage: 0.75, blockSizeTokens: 32, totalBlocks: 1000 },
    ],
    [
      "triton-tensorrt-llm",
      'nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 6\nnv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 7\nnv_trt_llm_request_metrics{request_type="max"} 99\nnv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"} 0.125\nnv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per"} 64\nnv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max"} 2000\n',
      { waitingRequests: 6, runningRequests: 7, kvCacheUsage: 0.125, blockSizeTokens: 64, totalBlocks: 2000 },
    ],
    [
      "triton",
      'nv_inference_pending_request_count{model="a"} 1\nnv_inference_pending_request_count{model="b"} 2\nnv_inference_exec_count{model="a"} 10\nnv_inference_exec_count{model="b"} 20\n',
      { waitingRequests: 3, runningRequests: 30, kvCacheUsage: 0, blockSizeTokens: 0, totalBlocks: 0 },
    ],
  ])("reads a page of %s", (engine, page, expected) => {
    for (const labelKey of [engineLabel, "inference.networking.k8s.io/engine-type"]) {
      const { read, metrics } = bench({ [labelKey]: engine });
      expect(read(page, 42)).toEqual({ kind: "read" });
      expect(metrics()).toMatchObject({ ...expected, updatedAtMs: 42 });
    }
  });

  it("combines the series of several engines behind one port: counts are summed, usage is their mean", () => {
    const { read, metrics } = bench();
    read(
      'vllm:num_requests_waiting{engine="0"} 1\nvllm:num_requests_waiting{engine="1"} 4\nvllm:num_requests_running{engine="0"} 2\nvllm:num_requests_running{engine="1"} 3\nvllm:kv_cache_usage_perc{engine="0"} 0.2\nvllm:kv_cache_usage_perc{engine="1"} 0.6\nvllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="100"} 1\nvllm:cache_config_info{engine="1",block_size="16",num_gpu_blocks="150"} 1\n',
    );
    expect(metrics()).toMatchObject({ waitingRequests: 5, runningRequests: 5, blockSizeTokens: 16, totalBlocks: 250 });
    expect(metrics().kvCacheUsage).toBeCloseTo(0.4);
  });

  it.each([
    ["only the older name", "vllm:gpu_cache_usage_perc 0.3\n", 0.3],
    ["both names", "vllm:gpu_cache_usage_perc 0.3\nvllm:kv_cache_usage_perc 0.7\n", 0.7],
  ])("reads the KV usage of a vLLM that has %s", (_case, lines, usage) => {
    const { read, metrics } = bench();
    expect(read(`vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n${lines}`)).toEqual({ kind: "read" });
    expect(metrics().kvCacheUsage).toBe(usage);
  });

  it("reads every signal of a page that repeats HELP and TYPE lines and has broken lines", () => {
    const { read, metrics } = bench();
    const page = vllmPage({ waiting: 3, running: 5, kvUsage: 0.25, requests: 9 });
    const broken = page.replace(
      "# TYPE vllm:num_requests_waiting",
      "# HELP vllm:num_requests_waiting again\n# HELP vllm:num_requests_waiting again\n}{ }\nvllm:num_requests_waiting{ 7\n# TYPE vllm:num_requests_waiting",
    );
    expect(read(broken)).toEqual({ kind: "read" });
    expect(metrics()).toMatchObject({ waitingRequests: 3, runningRequests: 5, kvCacheUsage: 0.25 });
  });

  const core = "vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n";

  it("takes the newest LoRA series, keeps its sets while nothing changes, and forgets adapters of an engine that has none", () => {
    const { read, metrics } = bench();
    const lora = (running: string, waiting: string, value: string, engine = ""): string =>
      `vllm:lora_requests_info{${engine}max_lora="4",running_lora_adapters="${running}",waiting_lora_adapters="${waiting}"} ${value}\n`;
    read(core + lora("old", "", "1.7e9") + lora("a, b", "c", "1.8e9") + lora("older", "", "1.6e9"));
    expect(metrics()).toMatchObject({
      maxAdapters: 4,
      activeAdapters: new Set(["a", "b"]),
      waitingAdapters: new Set(["c"]),
    });
    const before = metrics();
    read(core + lora("old", "", "1.7e9") + lora("a, b", "c", "1.9e9") + lora("older", "", "1.6e9"));
    expect(metrics().activeAdapters).toBe(before.activeAdapters);
    read(core + lora("a", "", "1.9e9", 'engine="0",') + lora("b", "d", "1.8e9", 'engine="1",'));
    expect(metrics()).toMatchObject({
      maxAdapters: 8,
      activeAdapters: new Set(["a", "b"]),
      waitingAdapters: new Set(["d"]),
    });
    read(core);
    expect(metrics()).toMatchObject({ maxAdapters: 0, activeAdapters: new Set(), waitingAdapters: new Set() });
  });

  it("keeps the last value of what a page lacks, and says what that is", () => {
    const { read, metrics } = bench();
    read("vllm:num_requests_waiting 4\nvllm:num_requests_running 5\nvllm:kv_cache_usage_perc 0.5\n", 1);
    expect(read("vllm:num_requests_waiting 6\n", 2)).toEqual({
      kind: "partial",
      missing: ["vllm:num_requests_running", "vllm:kv_cache_usage_perc"],
    });
    expect(metrics()).toMatchObject({ waitingRequests: 6, runningRequests: 5, kvCacheUsage: 0.5, updatedAtMs: 2 });
  });

  it.each([
    "",
    "<html>not found</html>",
    "\n\n\n",
    "vllm:num_requests_waiting NaN\n",
    "vllm:num_requests_waiting_by_reason 5\n",
  ])("changes nothing, the time of the last scrape included, on the page %p", (page) => {
    const { read, store } = bench();
    read(core, 1);
    const before = store.snapshot();
    expect(read(page, 2).kind).toBe("failed");
    expect(store.snapshot()).toBe(before);
  });

  it("clamps what no sane engine reports", () => {
    const { read, metrics } = bench();
    read(
      'vllm:num_requests_waiting -5\nvllm:num_requests_running{engine="0"} +Inf\nvllm:num_requests_running{engine="1"} 2\nvllm:kv_cache_usage_perc 17\nvllm:cache_config_info{block_size="None",num_gpu_blocks="-3"} 1\n',
    );
    expect(metrics()).toMatchObject({
      waitingRequests: 0,
      runningRequests: 2,
      kvCacheUsage: 1,
      blockSizeTokens: 0,
      totalBlocks: 0,
    });
  });

  it("reads an endpoint of an unknown engine as the default engine, and follows a change of its label", () => {
    const { read, metrics, label } = bench({ [engineLabel]: "unheard-of" });
    read(core.replace("waiting 0", "waiting 9"));
    expect(metrics().waitingRequests).toBe(9);
    label({ [engineLabel]: "sglang" });
    read("sglang:num_queue_reqs 2\nsglang:num_running_reqs 0\nsglang:token_usage 0\n");
    expect(metrics().waitingRequests).toBe(2);
  });

  it("reads engines of the configuration, custom metrics included, in place of a built-in one of the same name", () => {
    const { read, metrics, store } = bench(
      {},
      {
        engineConfigs: [
          {
            name: "vllm",
            queuedRequestsSpec: 'my_queue{kind=waiting, tier="gold"}',
            customMetrics: [{ attributeKey: "temperature", metricSpec: "gpu_temperature{gpu=0}" }],
          },
        ],
      },
    );
    const page =
      'my_queue{tier="gold",kind="waiting"} 3\nmy_queue{tier="silver",kind="waiting"} 100\ngpu_temperature{gpu="1"} 99\ngpu_temperature{gpu="0"} 61.5\n';
    expect(read(page)).toEqual({ kind: "read" });
    expect(metrics().waitingRequests).toBe(3);
    expect(store.get(name)?.attributes.get("temperature")).toBe(61.5);
  });

  it("names every fault of its parameters", () => {
    const faults = coreMetricsExtractorPlugin.validate?.({
      ...defaults,
      defaultEngine: "missing",
      engineConfigs: [
        { name: "default", queuedRequestsSpec: "a{" },
        { name: "x", kvUsageSpec: "a{b}" },
        { name: "x", loraSpec: "a b" },
      ],
    });
    expect(faults).toEqual([
      'engineConfigs[0].name: expected a name other than "default"',
      expect.stringContaining("engineConfigs[0].queuedRequestsSpec"),
      expect.stringContaining("engineConfigs[1].kvUsageSpec"),
      'engineConfigs[2].name: "x" is configured twice',
      expect.stringContaining("engineConfigs[2].loraSpec"),
      expect.stringContaining("defaultEngine"),
    ]);
  });
});
