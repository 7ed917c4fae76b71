import { describe, expect, it } from "@jest/globals";
import { faultyRequirement, selectorPool } from "../../../../../src/data/discovery/kubernetes/endpoint-selector.ts";

describe("a label selector", () => {
  it.each([
    "app=vllm",
    "app==vllm,env!=prod",
    "app = vllm , tier",
    "!deprecated",
    "! deprecated,app",
    "env in (prod,staging),tier!=frontend",
    "env notin ( prod )",
    "env in (prod,)",
    "llm-d.ai/role=decode",
    "app.kubernetes.io/name=a_b.c-d",
    "app=",
    "rank>3",
  ])("may be %j", (selector) => {
    expect(faultyRequirement(selector)).toBeUndefined();
  });

  it.each([
    ["app=vllm,", ""],
    ["=vllm", "=vllm"],
    ["app=vllm prod", "app=vllm prod"],
    ["app===x", "app===x"],
    ["env in prod", "env in prod"],
    ["env in (prod", "env in (prod"],
    ["app=vllm,env in (a b)", "env in (a b)"],
    ["-app=x", "-app=x"],
    [`app=${"x".repeat(64)}`, `app=${"x".repeat(64)}`],
    ["UPPER.example/app=x", "UPPER.example/app=x"],
    ["rank>three", "rank>three"],
  ])("is not %j", (selector, faulty) => {
    expect(faultyRequirement(selector)).toBe(faulty);
  });

  it("stands for a pool whose ports count once", () => {
    expect(selectorPool("app=a", [8000, 8001, 8000])).toEqual({
      selector: "app=a",
      targetPorts: [8000, 8001],
      appProtocol: undefined,
    });
  });
});
