import { describe, expect, it } from "@jest/globals";
import { parseLabelSelector } from "../../../../src/data/kv-events/label-selector.ts";

const labels = new Map([
  ["app", "vllm"],
  ["llm-d.ai/role", "decode"],
  ["empty", ""],
]);

describe("a label selector", () => {
  it.each([
    ["", true],
    ["app=vllm", true],
    ["app==vllm,llm-d.ai/role=decode", true],
    ["app = sglang", false],
    ["app!=sglang", true],
    ["absent!=x", true],
    ["app", true],
    ["!app", false],
    ["!absent", true],
    ["empty=", true],
    ["app in (sglang, vllm),llm-d.ai/role notin (prefill)", true],
    ["app in (sglang)", false],
    ["absent in (a)", false],
    ["absent notin (a)", true],
  ])("%j selects: %s", (text, selects) => {
    expect(parseLabelSelector(text)?.(labels)).toBe(selects);
  });

  it.each([["app in vllm"], ["a b"], ["=x"], ["app~vllm"], ["app in (a"]])("is not %j", (text) => {
    expect(parseLabelSelector(text)).toBeUndefined();
  });
});
