import { describe, expect, it } from "@jest/globals";
import {
  matchesNamespace,
  type NamespaceFilter,
  namespaceFilterFromEnvironment,
} from "../../../../src/dynamo/worker-sets/namespace-filter.ts";
import { evaluateReadiness, type Readiness, type ReadinessUnit } from "../../../../src/dynamo/worker-sets/readiness.ts";

function unit(role: ReadinessUnit["role"], liveWorkers: number, needs: ReadinessUnit["needs"] = []): ReadinessUnit {
  return { role, liveWorkers, needs };
}

describe("readiness", () => {
  const ready: Readiness = { kind: "ready" };
  const cases: readonly (readonly [string, readonly ReadinessUnit[], Readiness])[] = [
    ["nobody is registered", [], { kind: "empty" }],
    ["one aggregated worker lives", [unit("aggregated", 1)], ready],
    ["prefill and decode have each other", [unit("prefill", 1, [["decode"]]), unit("decode", 1, [["prefill"]])], ready],
    [
      "the decode workers are dead",
      [unit("prefill", 1, [["decode"]]), unit("decode", 0, [["prefill"]])],
      { kind: "missing", roles: ["decode"] },
    ],
    ["prefill was never registered", [unit("decode", 2, [["prefill"]])], { kind: "missing", roles: ["prefill"] }],
    [
      "one of two alternatives is whole",
      [unit("encode", 1, [["prefill", "decode"], ["aggregated"]]), unit("aggregated", 1)],
      ready,
    ],
    [
      "neither alternative is whole",
      [unit("encode", 1, [["prefill", "decode"], ["aggregated"]]), unit("prefill", 1)],
      { kind: "missing", roles: ["aggregated", "decode"] },
    ],
    [
      "a registered role died that nobody needs",
      [unit("aggregated", 1), unit("encode", 0, [["prefill"]])],
      { kind: "missing", roles: ["encode"] },
    ],
    [
      "two groups prefill",
      [unit("prefill", 1), unit("prefill", 1), unit("decode", 1)],
      { kind: "ambiguous", roles: ["prefill"] },
    ],
    ["two groups do whole requests", [unit("aggregated", 1), unit("aggregated", 1)], ready],
    ["a worker has no role", [unit(undefined, 1), unit("decode", 0, [["prefill"]])], ready],
    ["the worker without a role is dead", [unit(undefined, 0)], { kind: "empty" }],
  ];
  it.each(cases)("is known when %s", (_name, units, expected) => {
    expect(evaluateReadiness(units)).toEqual(expected);
  });
});

describe("the namespace filter", () => {
  it.each<[Readonly<Record<string, string>>, NamespaceFilter]>([
    [{}, { kind: "all" }],
    [{ DYN_NAMESPACE: "" }, { kind: "all" }],
    [{ DYN_NAMESPACE: "dynamo" }, { kind: "all" }],
    [{ DYN_NAMESPACE: "ns" }, { kind: "exact", namespace: "ns" }],
    [
      { DYN_NAMESPACE: "x", DYN_NAMESPACE_PREFIX: "ns" },
      { kind: "prefix", prefix: "ns", isStrict: false },
    ],
    [
      { DYN_NAMESPACE_PREFIX: "ns", DYN_NAMESPACE_PREFIX_STRICT: "true" },
      { kind: "prefix", prefix: "ns", isStrict: true },
    ],
  ])("of %j is %j", (env, filter) => {
    expect(namespaceFilterFromEnvironment(env)).toEqual(filter);
  });

  it.each<[NamespaceFilter, readonly string[], readonly string[]]>([
    [{ kind: "all" }, ["ns", ""], []],
    [{ kind: "exact", namespace: "ns" }, ["ns"], ["ns-a", "n"]],
    [{ kind: "prefix", prefix: "ns", isStrict: false }, ["ns", "ns-a", "nsx"], ["n", "xns"]],
    [
      { kind: "prefix", prefix: "ns", isStrict: true },
      ["ns", "ns-0123abcd", "ns-legacy"],
      ["nsx", "ns-0123abc", "ns-0123ABCD", "ns-0123abcd-1"],
    ],
  ])("%j takes %j and leaves %j", (filter, taken, left) => {
    expect(taken.filter((namespace) => !matchesNamespace(filter, namespace))).toEqual([]);
    expect(left.filter((namespace) => matchesNamespace(filter, namespace))).toEqual([]);
  });
});
