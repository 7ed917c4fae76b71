/** The configuration of a router over raw engines: what it takes, what it needs, and what it does not bring along. */
import { describe, expect, it } from "@jest/globals";
import { createPluginRegistry } from "../../../../src/app/plugins.ts";
import { loadConfig } from "../../../../src/config/load.ts";
import {
  type DynamoPrefillRouterParameters,
  dynamoPrefillRouterDefinition,
} from "../../../../src/prefill-router/plugin/dynamo-prefill-router-plugin.ts";
import type { PluginContext } from "../../../../src/scheduling/contracts.ts";

async function load(parameters: object) {
  const document = {
    apiVersion: "llm-d.ai/v1alpha1",
    kind: "EndpointPickerConfig",
    plugins: [{ type: "dynamo-prefill-router", parameters }],
    schedulingProfiles: [{ name: "decode", plugins: [] }],
  };
  return await loadConfig(JSON.stringify(document), {
    registry: createPluginRegistry(),
    folder: "/",
    source: "a test",
  });
}

describe("workers: endpoints", () => {
  it("needs no discovery of Dynamo's workers, and has the port of vLLM's events", async () => {
    const { plugins } = await load({ workers: "endpoints", engines: { blockSizeTokens: 16 } });
    expect(plugins.map(({ type }) => type)).not.toContain("dynamo-discovery");
    const { parameters } = plugins.find(({ type }) => type === "dynamo-prefill-router") ?? {};
    expect(parameters).toMatchObject({ engines: { blockSizeTokens: 16, kvEventPort: 5557, modelName: "" } });
    const dynamo = await load({});
    expect(dynamo.plugins.map(({ type }) => type)).toContain("dynamo-discovery");
  });

  it("has no cache behind all workers, since engines do not say how they use one", () => {
    const parameters = { workers: "endpoints", engines: { blockSizeTokens: 16 } };
    const context = { environment: { DYN_SHARED_CACHE_TYPE: "hicache" } };
    const create = () =>
      dynamoPrefillRouterDefinition.create(
        parameters as DynamoPrefillRouterParameters,
        context as unknown as PluginContext,
      );
    expect(create).toThrow("sharedCacheType hicache is supported for workers that Dynamo registers only");
  });

  it.each([
    [{ workers: "endpoints" }, "engines: is needed"],
    [{ engines: { blockSizeTokens: 16 } }, "engines: needs workers: endpoints"],
    [{ workers: "endpoints", engines: {} }, "blockSizeTokens"],
    [{ workers: "endpoints", engines: { blockSizeTokens: 16_384 } }, "blockSizeTokens"],
    [
      { workers: "endpoints", engines: { blockSizeTokens: 16, tokens: { vllm: { url: "ftp://x" } } } },
      "engines.tokens.vllm.url",
    ],
    [
      { workers: "endpoints", engines: { blockSizeTokens: 16, tokens: { vllm: {}, modelPath: "/m" } } },
      "engines.tokens.estimate, vllm, modelPath",
    ],
  ])("%j is refused", async (parameters, fault) => {
    await expect(load(parameters)).rejects.toMatchObject({
      faults: expect.arrayContaining([expect.stringContaining(fault)]),
    });
  });
});
