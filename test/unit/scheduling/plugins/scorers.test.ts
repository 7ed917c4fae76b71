import { describe, expect, it } from "@jest/globals";
import { type Scorer, uncachedTokensKey } from "../../../../src/scheduling/contracts.ts";
import { endpointAttributeScorer } from "../../../../src/scheduling/plugins/endpoint-attribute/endpoint-attribute-scorer.ts";
import { activeRequestScorer } from "../../../../src/scheduling/plugins/scorers/active-request-scorer.ts";
import { contextLengthAware } from "../../../../src/scheduling/plugins/scorers/context-length-aware.ts";
import { headerLabelAffinityScorer } from "../../../../src/scheduling/plugins/scorers/header-label-affinity-scorer.ts";
import { kvCacheUtilizationScorer } from "../../../../src/scheduling/plugins/scorers/kv-cache-utilization-scorer.ts";
import { loadAwareScorer } from "../../../../src/scheduling/plugins/scorers/load-aware-scorer.ts";
import { loraAffinityScorer } from "../../../../src/scheduling/plugins/scorers/lora-affinity-scorer.ts";
import { noHitLruScorer } from "../../../../src/scheduling/plugins/scorers/no-hit-lru-scorer.ts";
import { prefixCacheScorer } from "../../../../src/scheduling/plugins/scorers/prefix-cache-scorer.ts";
import { queueScorer } from "../../../../src/scheduling/plugins/scorers/queue-scorer.ts";
import { runningRequestsSizeScorer } from "../../../../src/scheduling/plugins/scorers/running-requests-size-scorer.ts";
import { tokenLoadScorer } from "../../../../src/scheduling/plugins/scorers/token-load-scorer.ts";
import fc from "../../../properties.ts";
import {
  assignment,
  create,
  cycle,
  type EndpointInit,
  endpointsOf,
  publishMatch,
  type RequestInit,
  request,
  scoresOf,
} from "../cycle-fixtures.ts";

function scored(scorer: Scorer, inits: readonly EndpointInit[], init: RequestInit = {}): number[] {
  return scoresOf(scorer, cycle(init), endpointsOf(...inits)).map((score) => Math.round(score * 1e6) / 1e6);
}

describe("queue-scorer", () => {
  const unscraped = { scraped: false } as const;
  it.each<[string, EndpointInit[], number[]]>([
    ["the shortest scores 1 and the longest 0", [{ waiting: 3 }, { waiting: 0 }, { waiting: 10 }], [0.7, 1, 0]],
    ["one endpoint scores 1", [{ waiting: 9 }], [1]],
    [
      "an endpoint never scraped counts as the mean",
      [{ waiting: 0 }, { waiting: 8 }, { waiting: 10 }, unscraped],
      [1, 0.2, 0, 0.4],
    ],
    ["only endpoints never scraped are equal", [unscraped, unscraped], [1, 1]],
    ["one scraped and one not are equal", [{ waiting: 50 }, unscraped], [1, 1]],
  ])("%s", (_what, inits, expected) => {
    expect(scored(create(queueScorer), inits)).toEqual(expected);
  });

  it("Scheduling 25: is min-max, so 1 against 2 reads like 0 against 1, and all equal is 1", () => {
    expect(scored(create(queueScorer), [{ waiting: 1 }, { waiting: 2 }])).toEqual([1, 0]);
    expect(scored(create(queueScorer), [{ waiting: 0 }, { waiting: 1 }])).toEqual([1, 0]);
    expect(scored(create(queueScorer), [{ waiting: 4 }, { waiting: 4 }, { waiting: 4 }])).toEqual([1, 1, 1]);
  });

  it("stays in [0, 1] and orders endpoints against their queues", () => {
    const init = fc.record({ waiting: fc.nat(1000), scraped: fc.boolean() });
    fc.assert(
      fc.property(fc.array(init, { minLength: 1, maxLength: 20 }), (inits) => {
        const scores = scored(create(queueScorer), inits);
        for (const score of scores) expect(score >= 0 && score <= 1).toBe(true);
        for (const [i, a] of inits.entries()) {
          for (const [j, b] of inits.entries()) {
            if (a.scraped && b.scraped && a.waiting < b.waiting) expect(scores[i]).toBeGreaterThan(scores[j] ?? 1);
          }
        }
      }),
      { numRuns: 50 },
    );
  });
});

describe("running-requests-size-scorer", () => {
  it.each<[EndpointInit[], number[]]>([
    [
      [{ running: 2 }, { running: 6 }, { running: 4 }],
      [1, 0, 0.5],
    ],
    [
      [{ running: 6 }, { running: 6 }],
      [1, 1],
    ],
    [
      [{ running: 0 }, { running: 4 }, { scraped: false }],
      [1, 0, 0.5],
    ],
  ])("scores (max − running) / (max − min) for %j", (inits, expected) => {
    expect(scored(create(runningRequestsSizeScorer), inits)).toEqual(expected);
  });
});

describe("kv-cache-utilization-scorer", () => {
  it.each<[EndpointInit[], number[]]>([
    [
      [{ kv: 0 }, { kv: 0.25 }, { kv: 1 }],
      [1, 0.75, 0],
    ],
    [
      [{ kv: 0.4 }, { kv: 0.8 }, { scraped: false }],
      [0.6, 0.2, 0.4],
    ],
    [
      [{ scraped: false }, { scraped: false }],
      [1, 1],
    ],
  ])("scores 1 − usage for %j", (inits, expected) => {
    expect(scored(create(kvCacheUtilizationScorer), inits)).toEqual(expected);
  });
});

describe("lora-affinity-scorer", () => {
  it("Scheduling 26: active is 1, a free slot 0.8, waiting 0.6, else 0; waiting adapters take slots", () => {
    const inits: EndpointInit[] = [
      { active: ["sql", "a"], maxAdapters: 2 },
      { active: ["a"], maxAdapters: 2 },
      { active: ["a"], pending: ["sql"], maxAdapters: 2 },
      { active: ["a"], pending: ["b"], maxAdapters: 2 },
      { active: ["a"], pending: ["sql"], maxAdapters: 3 },
      { scraped: false },
    ];
    expect(scored(create(loraAffinityScorer), inits, { model: "sql" })).toEqual([1, 0.8, 0.6, 0, 0.8, 0]);
  });

  it("looks for the model that leaves, not the one that came", () => {
    const made = request({ model: "alias" });
    made.targetModel = "sql";
    expect(
      scoresOf(create(loraAffinityScorer), cycle(made), endpointsOf({ active: ["sql"] }, { active: ["alias"] })),
    ).toEqual([1, 0]);
  });
});

describe("prefix-cache-scorer", () => {
  const cases: readonly [string, object, number[]][] = [
    ["the matched share by default", {}, [0, 0.25, 1]],
    ["the squared length with weight 1", { matchLengthWeight: 1, matchLengthScaleTokens: 512 }, [0, 0.0625, 1]],
    ["both with weight 0.5", { matchLengthWeight: 0.5, matchLengthScaleTokens: 1024 }, [0, 0.1328125, 0.625]],
    ["a length of at most 1", { matchLengthWeight: 1, matchLengthScaleTokens: 128 }, [0, 1, 1]],
  ];
  it.each(cases)("scores %s", (_what, parameters, expected) => {
    const made = request();
    publishMatch(made, [0, 2, 8], 8);
    expect(scoresOf(create(prefixCacheScorer, parameters), cycle(made), endpointsOf({}, {}, {}))).toEqual(expected);
  });

  it("Scheduling 27: scores 0 without the producer's data", () => {
    expect(scored(create(prefixCacheScorer), [{}, {}])).toEqual([0, 0]);
  });

  it("Scheduling 28: reads the producer it names and no other", () => {
    const made = request();
    publishMatch(made, [4, 0], 4, "prefix-state");
    const endpoints = endpointsOf({}, {});
    const named = create(prefixCacheScorer, { prefixMatchInfoProducerName: "prefix-state" });
    expect(scoresOf(named, cycle(made), endpoints)).toEqual([1, 0]);
    expect(scoresOf(create(prefixCacheScorer), cycle(made), endpoints)).toEqual([0, 0]);
  });

  it("Scheduling 28: leaves the producer's name to the configuration, which follows the only one there is", () => {
    const properties = prefixCacheScorer.parameters["properties"] as Record<string, Record<string, unknown>>;
    expect(properties["prefixMatchInfoProducerName"]).toMatchObject({ "x-producer": "approx-prefix-cache-producer" });
    expect(properties["prefixMatchInfoProducerName"]).not.toHaveProperty("default");
  });

  it("scores 0 for a prompt without blocks", () => {
    const made = request();
    publishMatch(made, [3], 0);
    expect(scoresOf(create(prefixCacheScorer), cycle(made), endpointsOf({}))).toEqual([0]);
  });
});

describe("load-aware-scorer", () => {
  it.each<[object, EndpointInit[], number[]]>([
    [{}, [{ waiting: 0 }, { waiting: 64 }, { waiting: 128 }, { waiting: 500 }], [0.5, 0.25, 0, 0]],
    [{ threshold: 10 }, [{ waiting: 1 }, { waiting: 9 }, { scraped: false }], [0.45, 0.05, 0.25]],
    [{}, [{ scraped: false }], [0.5]],
  ])("scores 0.5 · (1 − min(queue, threshold) / threshold) with %j for %j", (parameters, inits, expected) => {
    expect(scored(create(loadAwareScorer, parameters), inits)).toEqual(expected);
  });
});

describe("token-load-scorer", () => {
  const scoreFor = (
    parameters: object,
    inits: readonly EndpointInit[],
    uncachedBySlot?: readonly number[],
  ): number[] => {
    const made = request();
    if (uncachedBySlot !== undefined) {
      made.setAttribute(uncachedTokensKey, { uncachedTokens: ({ slot }) => uncachedBySlot[slot] ?? 0 });
    }
    const scores = scoresOf(create(tokenLoadScorer, parameters), cycle(made), endpointsOf(...inits));
    return scores.map((score) => Math.round(score * 1e6) / 1e6);
  };

  it.each<[string, object, EndpointInit[], number[] | undefined, number[]]>([
    [
      "tokens in flight",
      { queueThresholdTokens: 1000 },
      [{ tokens: 0 }, { tokens: 400 }, { tokens: 5000 }],
      undefined,
      [1, 0.6, 0],
    ],
    [
      "this request's uncached tokens too",
      { queueThresholdTokens: 1000 },
      [{}, { tokens: 400 }, {}],
      [100, 100, 0],
      [0.9, 0.5, 1],
    ],
    ["against the reference's threshold by default", {}, [{ tokens: 2097152 }], [0], [0.5]],
  ])("counts %s", (_what, parameters, inits, uncached, expected) => {
    expect(scoreFor(parameters, inits, uncached)).toEqual(expected);
  });
});

describe("active-request-scorer", () => {
  it.each<[object, EndpointInit[], number[]]>([
    [{}, [{ requests: 0 }, { requests: 1 }, { requests: 4 }], [1, 0.75, 0]],
    [{}, [{ requests: 0 }, { requests: 0 }], [1, 1]],
    [{ idleThreshold: 2 }, [{ requests: 2 }, { requests: 3 }, { requests: 4 }], [1, 0.25, 0]],
    [{ idleThreshold: 2, maxBusyScore: 0.5 }, [{ requests: 1 }, { requests: 3 }, { requests: 6 }], [1, 0.25, 0]],
    [{ maxBusyScore: 0 }, [{ requests: 0 }, { requests: 3 }], [1, 0]],
  ])("scores idle 1, else (max − count) / max · maxBusyScore with %j for %j", (parameters, inits, expected) => {
    expect(scored(create(activeRequestScorer, parameters), inits)).toEqual(expected);
  });
});

describe("header-label-affinity-scorer", () => {
  const scorer = create(headerLabelAffinityScorer, { headerName: "X-Team", labelKey: "team" });
  it.each<[Record<string, string>, number[]]>([
    [{ "x-team": "red" }, [1, 0, 0]],
    [{ "x-team": "Red" }, [0, 0, 0]],
    [{ "x-team": "" }, [0, 0, 0]],
    [{}, [0, 0, 0]],
  ])("scores equality for headers %j", (headers, expected) => {
    expect(scored(scorer, [{ labels: { team: "red" } }, { labels: { team: "" } }, {}], { headers })).toEqual(expected);
  });
});

describe("context-length-aware as a scorer", () => {
  const scorer = create(contextLengthAware);
  const labelled = (range: string): EndpointInit => ({ labels: { "llm-d.ai/context-length-range": range } });
  it.each<[string, number, number]>([
    ["0-2048", 1000, 0.3 + 0.7 * (0.7 / 1.2048 + (0.3 * 1048) / 2048)],
    ["0-10000", 0, 0.3 + 0.7 * 0.65],
    ["0-10000", 10000, 0.3 + 0.7 * 0.35],
    ["500-500", 500, 1],
    ["0-1000", 2000, 0.15],
    ["3000-4000", 1000, 0.1],
    [" 0 - 100 ", 5000, 0.3 / 5.9],
    ["nonsense", 10, 0],
    ["9-1", 5, 0],
    ["-5-10", 5, 0],
  ])("scores the range %j for %i tokens", (range, promptTokens, expected) => {
    expect(scoresOf(scorer, cycle({ promptTokens }), endpointsOf(labelled(range)))[0]).toBeCloseTo(expected, 10);
  });

  it("is neutral for an endpoint without the label", () => {
    expect(scored(scorer, [{}], { promptTokens: 7 })).toEqual([0.5]);
  });

  it("scores every range that holds the prompt above every one that does not", () => {
    const bound = fc.nat(20000);
    fc.assert(
      fc.property(bound, bound, bound, bound, bound, (a, b, c, d, promptTokens) => {
        const [first, second] = [
          [Math.min(a, b), Math.max(a, b)],
          [Math.min(c, d), Math.max(c, d)],
        ];
        const scores = scored(scorer, [labelled(first.join("-")), labelled(second.join("-"))], { promptTokens });
        const holds = [first, second].map(([min = 0, max = 0]) => promptTokens >= min && promptTokens <= max);
        for (const score of scores) expect(score >= 0 && score <= 1).toBe(true);
        if (holds[0] === true && holds[1] === false) expect(scores[0]).toBeGreaterThan(scores[1] ?? 1);
      }),
      { numRuns: 200 },
    );
  });

  it("forgets label values beyond its bound and still scores", () => {
    const inits = Array.from({ length: 3000 }, (_, i) => labelled(`${i}-${i + 10}`));
    expect(scored(scorer, inits, { promptTokens: 5 })[0]).toBeGreaterThan(0.3);
  });
});

describe("no-hit-lru-scorer", () => {
  const serve = (scorer: ReturnType<typeof noHitLruScorer.create>, slot: number, among: number, prefill?: number) => {
    const endpoints = endpointsOf(...Array.from({ length: among }, () => ({})));
    const made = request();
    scoresOf(scorer, cycle(made), endpoints);
    const at = (index: number) => endpoints.filter((endpoint) => endpoint.slot === index);
    scorer.assigned?.(made, assignment(at(slot), prefill === undefined ? {} : { prefill: at(prefill) }), {
      set: () => {},
    });
  };

  it("prefers endpoints never used, in order, then the least recently used", () => {
    const scorer = create(noHitLruScorer);
    expect(scored(scorer, [{}, {}, {}, {}, {}])).toEqual([1, 0.75, 0.5, 0.25, 0]);
    for (const slot of [3, 0, 4]) serve(scorer, slot, 5);
    expect(scored(scorer, [{}, {}, {}, {}, {}])).toEqual([0.25, 1, 0.75, 0.5, 0]);
    serve(scorer, 3, 5);
    expect(scored(scorer, [{}, {}, {}, {}, {}])).toEqual([0.5, 1, 0.75, 0, 0.25]);
  });

  it("gives 0.5 to all when any endpoint holds a block, and learns nothing from such a request", () => {
    const scorer = create(noHitLruScorer);
    const endpoints = endpointsOf({}, {});
    const warm = request();
    publishMatch(warm, [0, 1], 4);
    expect(scoresOf(scorer, cycle(warm), endpoints)).toEqual([0.5, 0.5]);
    scorer.assigned?.(warm, assignment(endpoints), { set: () => {} });
    expect(scored(scorer, [{}, {}])).toEqual([1, 0]);
  });

  it("treats a match of no blocks as cold", () => {
    const cold = request();
    publishMatch(cold, [0, 0], 4);
    expect(scoresOf(create(noHitLruScorer), cycle(cold), endpointsOf({}, {}))).toEqual([1, 0]);
  });

  it("counts the endpoint of the prefill profile as used too", () => {
    const scorer = create(noHitLruScorer);
    serve(scorer, 0, 3, 2);
    expect(scored(scorer, [{}, {}, {}])).toEqual([0.5, 1, 0]);
  });

  it("scores a lone endpoint 1", () => {
    expect(scored(create(noHitLruScorer), [{}])).toEqual([1]);
  });

  it("forgets the least recently used endpoint beyond lruSize", () => {
    const scorer = create(noHitLruScorer, { lruSize: 2 });
    for (const slot of [0, 1, 2]) serve(scorer, slot, 3);
    expect(scored(scorer, [{}, {}, {}])).toEqual([1, 0.5, 0]);
  });
});

describe("endpoint-attribute-scorer", () => {
  const inits: EndpointInit[] = [
    { attributes: { depth: 2 } },
    { attributes: { depth: 10 } },
    { attributes: { depth: 4 } },
    {},
    { attributes: { depth: "high" } },
  ];
  const lower = { type: "linear_lower_is_better" };
  const higher = { type: "linear_higher_is_better" };
  it.each<[string, object, number[]]>([
    ["lower is better over the candidates", { algorithm: lower }, [1, 0, 0.75, 0, 0]],
    ["higher is better over the candidates", { algorithm: higher }, [0, 1, 0.25, 0, 0]],
    [
      "a fixed range, clamped",
      { algorithm: { ...lower, normalization: { fixedRange: { min: 3, max: 5 } } } },
      [1, 0, 0.5, 0, 0],
    ],
    [
      "a range that is asked to adapt",
      { algorithm: { ...higher, normalization: { adaptiveRange: {} } } },
      [0, 1, 0.25, 0, 0],
    ],
  ])("scores by %s; what lacks the number scores 0", (_what, parameters, expected) => {
    expect(scored(create(endpointAttributeScorer, { attributeKey: "depth", ...parameters }), inits)).toEqual(expected);
  });

  it("scores all that have the attribute 1 when they are equal", () => {
    const same = [{ attributes: { depth: 3 } }, { attributes: { depth: 3 } }, {}];
    expect(scored(create(endpointAttributeScorer, { attributeKey: "depth", algorithm: lower }), same)).toEqual([
      1, 1, 0,
    ]);
  });

  it("reads another producer's attribute by both names", () => {
    const scorer = create(endpointAttributeScorer, {
      attributeKey: "power",
      producer: "dcgm-extractor",
      algorithm: higher,
    });
    expect(scored(scorer, [{ attributes: { "power/dcgm-extractor": 1 } }, { attributes: { power: 9 } }])).toEqual([
      1, 0,
    ]);
  });

  it.each<[string, object, string]>([
    ["a combined name", { attributeKey: "a/b", algorithm: lower }, 'attributeKey: "a/b" contains "/"'],
    [
      "two normalizations",
      {
        attributeKey: "a",
        algorithm: { ...lower, normalization: { adaptiveRange: {}, fixedRange: { min: 0, max: 1 } } },
      },
      "algorithm.normalization: at most one",
    ],
    [
      "an empty range",
      { attributeKey: "a", algorithm: { ...lower, normalization: { fixedRange: { min: 1, max: 1 } } } },
      "algorithm.normalization.fixedRange: min must be below max",
    ],
  ])("refuses %s", (_what, parameters, fault) => {
    expect(endpointAttributeScorer.validate?.(parameters as never).join("\n")).toContain(fault);
  });

  it("accepts a name with a slash when the producer is set, empty or not", () => {
    for (const producer of ["", "x"]) {
      expect(endpointAttributeScorer.validate?.({ attributeKey: "a/b", producer, algorithm: lower } as never)).toEqual(
        [],
      );
    }
  });
});
