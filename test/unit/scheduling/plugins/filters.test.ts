import { describe, expect, it } from "@jest/globals";
import type { Filter } from "../../../../src/scheduling/contracts.ts";
import { endpointAttributeFilter } from "../../../../src/scheduling/plugins/endpoint-attribute/endpoint-attribute-filter.ts";
import { byLabel } from "../../../../src/scheduling/plugins/filters/by-label.ts";
import { decodeFilter } from "../../../../src/scheduling/plugins/filters/decode-filter.ts";
import { encodeFilter } from "../../../../src/scheduling/plugins/filters/encode-filter.ts";
import { headerBasedTestingFilter } from "../../../../src/scheduling/plugins/filters/header-based-testing-filter.ts";
import { labelSelectorFilter } from "../../../../src/scheduling/plugins/filters/label-selector-filter.ts";
import { prefillFilter } from "../../../../src/scheduling/plugins/filters/prefill-filter.ts";
import { prefixCacheAffinityFilter } from "../../../../src/scheduling/plugins/filters/prefix-cache-affinity-filter.ts";
import { utilizationFilter } from "../../../../src/scheduling/plugins/filters/utilization-filter.ts";
import { contextLengthAware } from "../../../../src/scheduling/plugins/scorers/context-length-aware.ts";
import { create, cycle, type EndpointInit, endpointsOf, names, publishMatch, request } from "../cycle-fixtures.ts";

function kept(filter: Filter, inits: readonly EndpointInit[], init: Parameters<typeof request>[0] = {}): number[] {
  return filter.filter(cycle(init), endpointsOf(...inits)).map(({ slot }) => slot);
}

const labelled = (...values: readonly (Record<string, string> | undefined)[]): EndpointInit[] =>
  values.map((labels) => (labels === undefined ? {} : { labels }));

describe("label-selector-filter", () => {
  const pool = labelled({ gpu: "h100", zone: "a" }, { gpu: "h100", zone: "b" }, { gpu: "a100" }, undefined, {
    gpu: "",
  });
  it.each<[object, number[]]>([
    [{}, [0, 1, 2, 3, 4]],
    [{ matchLabels: { gpu: "h100" } }, [0, 1]],
    [{ matchLabels: { gpu: "h100", zone: "b" } }, [1]],
    [{ matchLabels: { gpu: "" } }, [4]],
    [{ matchExpressions: [{ key: "gpu", operator: "In", values: ["a100", "h100"] }] }, [0, 1, 2]],
    [{ matchExpressions: [{ key: "gpu", operator: "NotIn", values: ["h100"] }] }, [2, 3, 4]],
    [{ matchExpressions: [{ key: "gpu", operator: "Exists" }] }, [0, 1, 2, 4]],
    [{ matchExpressions: [{ key: "gpu", operator: "DoesNotExist" }] }, [3]],
    [{ matchLabels: { gpu: "h100" }, matchExpressions: [{ key: "zone", operator: "NotIn", values: ["a"] }] }, [1]],
    [{ matchLabels: { gpu: "none" } }, []],
  ])("keeps what matches %j", (selector, expected) => {
    expect(kept(create(labelSelectorFilter, selector), pool)).toEqual(expected);
  });

  it.each<[string, object, string]>([
    [
      "In without values",
      { matchExpressions: [{ key: "a", operator: "In" }] },
      "matchExpressions[0].values: In needs at least one",
    ],
    [
      "Exists with values",
      { matchExpressions: [{ key: "a", operator: "Exists", values: ["x"] }] },
      "matchExpressions[0].values: Exists takes none",
    ],
  ])("refuses %s", (_what, parameters, fault) => {
    expect(labelSelectorFilter.validate?.(parameters)).toEqual([fault]);
  });

  it("returns its argument when all stay", () => {
    const endpoints = endpointsOf(...pool);
    expect(create(labelSelectorFilter, {}).filter(cycle(), endpoints)).toBe(endpoints);
  });
});

describe("by-label", () => {
  const pool = labelled({ tier: "gold" }, { tier: "silver" }, undefined);
  it.each<[object, number[]]>([
    [{ label: "tier", validValues: ["gold"] }, [0]],
    [{ label: "tier", validValues: ["gold"], allowsNoLabel: true }, [0, 2]],
    [{ label: "tier", validValues: ["gold", "silver"] }, [0, 1]],
    [{ label: "tier", allowsNoLabel: true }, [2]],
  ])("keeps the values of %j", (parameters, expected) => {
    expect(kept(create(byLabel, parameters), pool)).toEqual(expected);
  });

  it("refuses to keep nothing", () => {
    expect(byLabel.validate?.({ label: "tier", validValues: [], allowsNoLabel: false })).toHaveLength(1);
    expect(byLabel.validate?.({ label: "tier", validValues: [], allowsNoLabel: true })).toEqual([]);
  });
});

describe("the role filters", () => {
  const roles = [
    "prefill",
    "decode",
    "encode",
    "prefill-decode",
    "encode-prefill",
    "encode-prefill-decode",
    "both",
    "other",
  ];
  const pool: EndpointInit[] = [...labelled(...roles.map((role) => ({ "llm-d.ai/role": role }))), {}];
  it.each<[string, Filter, string[]]>([
    [
      "prefill-filter",
      create(prefillFilter),
      ["prefill", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both"],
    ],
    [
      "decode-filter",
      create(decodeFilter),
      ["decode", "prefill-decode", "encode-prefill-decode", "both", "unlabelled"],
    ],
    ["encode-filter", create(encodeFilter), ["encode", "encode-prefill", "encode-prefill-decode"]],
  ])("%s keeps the roles that serve its stage", (_type, filter, expected) => {
    expect(kept(filter, pool).map((slot) => roles[slot] ?? "unlabelled")).toEqual(expected);
  });
});

describe("utilization-filter", () => {
  const pool: EndpointInit[] = [
    { requests: 1, running: 10, waiting: 0, kv: 0.2 },
    { requests: 9, running: 50, waiting: 3, kv: 0.9 },
    { scraped: false, requests: 2 },
  ];
  it.each<[object[], number[]]>([
    [[{ metric: "active-requests", maxValue: 1 }], [0]],
    [[{ metric: "running-requests", maxValue: 10 }], [0, 2]],
    [[{ metric: "waiting-queue", maxValue: 3 }], [0, 1, 2]],
    [[{ metric: "kv-cache-utilization", maxValue: 0.8 }], [0, 2]],
    [
      [
        { metric: "waiting-queue", maxValue: 5 },
        { metric: "active-requests", maxValue: 8 },
      ],
      [0, 2],
    ],
    [[{ metric: "active-requests", maxValue: 0 }], []],
  ])("keeps what stays within %j; what was never scraped counts as 0", (conditions, expected) => {
    expect(kept(create(utilizationFilter, { conditions }), pool)).toEqual(expected);
  });

  it("falls back to all when asked to", () => {
    const conditions = [{ metric: "active-requests", maxValue: 0 }];
    expect(kept(create(utilizationFilter, { conditions, fallbackOnEmpty: true }), pool)).toEqual([0, 1, 2]);
  });

  it("refuses a fraction above 1", () => {
    const parameters = {
      conditions: [{ metric: "kv-cache-utilization", maxValue: 80 }],
      fallbackOnEmpty: false,
    } as const;
    expect(utilizationFilter.validate?.(parameters)?.[0]).toContain("conditions[0].maxValue");
  });
});

describe("endpoint-attribute-filter", () => {
  const pool: EndpointInit[] = [
    { attributes: { depth: 5 } },
    { attributes: { depth: 10 } },
    { attributes: { depth: 15 } },
    {},
  ];
  const threshold = (operator: string, value = 10) => ({
    attribute: "depth",
    algorithm: { type: "threshold", threshold: { operator, value } },
  });
  it.each<[string, number[]]>([
    ["LessThan", [0, 3]],
    ["LessThanOrEqual", [0, 1, 3]],
    ["GreaterThan", [2, 3]],
    ["GreaterThanOrEqual", [1, 2, 3]],
    ["Equal", [1, 3]],
    ["NotEqual", [0, 2, 3]],
  ])("keeps values %s the threshold and, by default, those without one", (operator, expected) => {
    expect(kept(create(endpointAttributeFilter, threshold(operator)), pool)).toEqual(expected);
  });

  it("drops what lacks the attribute when told to", () => {
    expect(kept(create(endpointAttributeFilter, { ...threshold("LessThan"), onMissing: "Fail" }), pool)).toEqual([0]);
  });

  it("falls back to all when asked to, else keeps none", () => {
    const impossible = { ...threshold("LessThan", 0), onMissing: "Fail" };
    expect(kept(create(endpointAttributeFilter, impossible), pool)).toEqual([]);
    expect(kept(create(endpointAttributeFilter, { ...impossible, fallbackOnEmpty: true }), pool)).toEqual([0, 1, 2, 3]);
  });

  it("refuses a combined name", () => {
    expect(endpointAttributeFilter.validate?.({ ...threshold("Equal"), attribute: "a/b" } as never)[0]).toContain(
      'contains "/"',
    );
  });
});

describe("header-based-testing-filter", () => {
  const pool: EndpointInit[] = [
    { address: "10.0.0.7" },
    { address: "10.0.0.8", port: 3000 },
    { address: "10.0.0.8", port: 3002 },
    { address: "fd00::1", port: 3000 },
    { address: "fd00::2", port: 8000 },
  ];
  it.each<[string | undefined, number[]]>([
    [undefined, []],
    ["", []],
    [" , ", []],
    ["10.0.0.7", [0]],
    ["10.0.0.8", [1, 2]],
    ["10.0.0.8:3002", [2]],
    ["10.0.0.8:9", []],
    ["10.0.0.8:3002, 10.0.0.7", [2, 0]],
    ["10.0.0.7,10.0.0.7:8000", [0]],
    ["[fd00::1]:3000,fd00::2", [3, 4]],
    ["[fd00::2]", [4]],
    ["1.2.3.4,10.0.0.7", [0]],
  ])("keeps what %j lists, in its order", (value, expected) => {
    const headers: Record<string, string> = value === undefined ? {} : { "test-epp-endpoint-selection": value };
    expect(kept(create(headerBasedTestingFilter), pool, { headers })).toEqual(expected);
  });
});

describe("prefix-cache-affinity-filter", () => {
  const keptOf = (
    parameters: object,
    matched: readonly number[],
    inits: readonly EndpointInit[],
    random = 0.5,
  ): number[] => {
    const made = request();
    publishMatch(made, matched, 10);
    const at = cycle(made, () => random);
    return create(prefixCacheAffinityFilter, parameters)
      .filter(at, endpointsOf(...inits))
      .map(({ slot }) => slot);
  };
  const idle: EndpointInit[] = [{}, {}, {}];
  const penalty = { maxTTFTPenaltyMs: 1000, peakPrefillThroughput: 1000 };
  it.each<[string, object, number[], EndpointInit[], number[]]>([
    ["holders of the threshold's share", {}, [8, 7, 10], idle, [0, 2]],
    ["all when none holds enough", {}, [7, 0, 3], idle, [0, 1, 2]],
    ["all when the threshold is 0", { affinityThreshold: 0 }, [8, 0, 0], idle, [0, 1, 2]],
    ["a share that is exact in decimal", { affinityThreshold: 0.7 }, [7, 6, 0], idle, [0]],
    [
      "all when the holders start too late",
      penalty,
      [10, 0, 0],
      [{ tokens: 1501 }, { tokens: 500 }, { tokens: 600 }],
      [0, 1, 2],
    ],
    [
      "the holders at exactly the penalty",
      penalty,
      [10, 0, 0],
      [{ tokens: 1500 }, { tokens: 500 }, { tokens: 600 }],
      [0],
    ],
    [
      "the holders when the best of them starts in time",
      penalty,
      [10, 10, 0],
      [{ tokens: 9000 }, { tokens: 700 }, {}],
      [0, 1],
    ],
    [
      "the holders however late with penalty 0",
      { ...penalty, maxTTFTPenaltyMs: 0 },
      [10, 0, 0],
      [{ tokens: 9e9 }, {}, {}],
      [0],
    ],
  ])("keeps %s", (_what, parameters, matched, inits, expected) => {
    expect(keptOf(parameters, matched, inits)).toEqual(expected);
  });

  it("skips the share of requests that explore", () => {
    expect(keptOf({ explorationProbability: 0.1 }, [10, 0, 0], idle, 0.09)).toEqual([0, 1, 2]);
    expect(keptOf({ explorationProbability: 0.1 }, [10, 0, 0], idle, 0.1)).toEqual([0]);
  });

  it("Scheduling 27: keeps all without the producer's data", () => {
    expect(kept(create(prefixCacheAffinityFilter), idle)).toEqual([0, 1, 2]);
  });

  it.each<[object, string]>([
    [
      { ttftSource: "latencyPredictor", maxTTFTPenaltyMs: 1, peakPrefillThroughput: 1 },
      "ttftSource: latencyPredictor is not built yet",
    ],
    [
      { ttftSource: "prefillThroughput", maxTTFTPenaltyMs: 1, peakPrefillThroughput: 0 },
      "peakPrefillThroughput: must be above 0",
    ],
  ])("refuses %j", (parameters, fault) => {
    expect(prefixCacheAffinityFilter.validate?.(parameters as never)[0]).toContain(fault);
  });
});

describe("context-length-aware as a filter", () => {
  const label = "llm-d.ai/context-length-range";
  const pool = labelled({ [label]: "0-100" }, { [label]: "100-200" }, { [label]: "bad" }, undefined);
  it.each<[number, number[]]>([
    [50, [0, 3]],
    [100, [0, 1, 3]],
    [500, [3]],
  ])("keeps ranges that hold %i tokens and endpoints without a range", (promptTokens, expected) => {
    expect(kept(create(contextLengthAware, { enableFiltering: true }), pool, { promptTokens })).toEqual(expected);
  });

  it("keeps all unless filtering is enabled", () => {
    const endpoints = endpointsOf(...pool);
    expect(names(create(contextLengthAware).filter(cycle({ promptTokens: 500 }), endpoints))).toHaveLength(4);
  });
});
