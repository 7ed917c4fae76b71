import { describe, expect, it } from "@jest/globals";
import { prefixMatchKey } from "../../../src/data/attributes.ts";
import type { Endpoint, Endpoints } from "../../../src/data/endpoint.ts";
import type { Decision, Subset } from "../../../src/pipeline/contracts.ts";
import { createPipeline } from "../../../src/pipeline/pipeline.ts";
import type { InferenceRequest } from "../../../src/request/inference-request.ts";
import { reject } from "../../../src/request/rejection.ts";
import { endpoint, type FakeWorld, named, plan, request, world } from "./fakes.ts";

function decideIn(fake: FakeWorld, asked: InferenceRequest = request(), subset?: readonly string[]): Decision {
  const decisions: Decision[] = [];
  createPipeline(fake.dependencies).decide(asked, subset, (decision) => decisions.push(decision));
  const [decision] = decisions;
  if (decision === undefined || decisions.length > 1) throw new Error(`${decisions.length} decisions at once`);
  return decision;
}

describe("the order of steps", () => {
  it("is headers, routing, candidates, admission, screeners, producers, admitters, scheduling, bookings", () => {
    const steps: string[] = [];
    const note = (step: string): void => {
      steps.push(step);
    };
    const noting = <Value>(step: string, value: Value): Value => {
      steps.push(step);
      return value;
    };
    const fake = world({
      plan: plan({
        headerProcessors: [named("headers", { processHeaders: () => note("header processor") })],
        screeners: [named("screen", { screen: (_c, all) => noting("screener", all) })],
        producers: [named("produce", { produce: () => note("producer") })],
        admitters: [named("admit", { admit: () => noting("admitter", undefined) })],
        filters: [named("filter", { filter: (_c, all) => noting("filter", all) })],
        scorers: [named("score", { score: () => note("scorer") })],
        picker: { pick: (_c, all) => noting("picker", all.slice(0, 1)) },
        observers: [named("observe", { assigned: () => note("assigned") })],
      }),
    });
    const { admission, endpoints } = fake.dependencies;
    const pipeline = createPipeline({
      ...fake.dependencies,
      route: () => noting("route", undefined),
      endpoints: { snapshot: () => noting("candidates", endpoints.snapshot()) },
      admission: {
        admit: (asked, all, done) => {
          note("admission");
          return admission.admit(asked, all, done);
        },
      },
    });
    pipeline.decide(request(), undefined, (decision) => note(decision.kind));
    expect(steps).toEqual([
      "header processor",
      "route",
      "candidates",
      "admission",
      "screener",
      "producer",
      "admitter",
      "filter",
      "scorer",
      "picker",
      "assigned",
      "routed",
    ]);
  });

  it("gives every step the endpoints that the step before left", () => {
    const seen: Record<string, readonly string[]> = {};
    const see = (step: string, all: Endpoints, kept: Endpoints): Endpoints => {
      seen[step] = all.map(({ address }) => address);
      return kept;
    };
    const fake = world({
      endpoints: [endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("10.0.0.3"), endpoint("10.0.0.4")],
      plan: plan({
        screeners: [named("screen", { screen: (_c, all) => see("screener", all, all.slice(1)) })],
        producers: [named("produce", { produce: (_r, all) => void see("producer", all, all) })],
        admitters: [named("admit", { admit: (_c, all) => void see("admitter", all, all) })],
        filters: [named("filter", { filter: (_c, all) => see("filter", all, all.slice(1)) })],
      }),
    });
    const decision = decideIn(fake, request(), ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    expect(seen).toEqual({
      screener: ["10.0.0.2", "10.0.0.3", "10.0.0.4"],
      producer: ["10.0.0.3", "10.0.0.4"],
      admitter: ["10.0.0.3", "10.0.0.4"],
      filter: ["10.0.0.3", "10.0.0.4"],
    });
    expect(decision).toMatchObject({ kind: "routed", destinations: [{ address: "10.0.0.4" }] });
  });
});

describe("a routed decision", () => {
  it("carries the headers that plugins set, the later value of a name winning", () => {
    const fake = world({
      plan: plan({
        observers: [
          named("a", {
            assigned: (_r, _a, headers) => {
              headers.set("x-one", "1");
              headers.set("x-two", "2");
            },
          }),
          named("b", { assigned: (_r, _a, headers) => headers.set("x-one", "3") }),
        ],
      }),
    });
    expect(decideIn(fake)).toMatchObject({
      setHeaders: [
        ["x-one", "3"],
        ["x-two", "2"],
      ],
    });
  });

  it.each<[string, unknown]>([
    ["x-gateway-destination-endpoint", "10.9.9.9:1"],
    ["content-length", "1"],
    [":path", "/other"],
    ["", "x"],
    ["x-number", 7],
  ])("does not carry header %j of a plugin with value %j", (name, value) => {
    const fake = world({
      plan: plan({
        observers: [named("broken", { assigned: (_r, _a, headers) => headers.set(name, value as string) })],
      }),
    });
    expect(decideIn(fake)).toMatchObject({ kind: "routed", setHeaders: [] });
    expect(fake.lines).toContain("pluginFailed PreRequest broken-type broken");
  });

  it("carries the scores of the candidates that survived the filters, when they are asked for", () => {
    const parts = plan({
      filters: [named("filter", { filter: (_c, all) => all.slice(1) })],
      scorers: [named("score", { score: (_c, _all, scores) => void scores.fill(0.5) })],
    });
    const endpoints = [endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("fd00::3")];
    const asked = decideIn(world({ plan: parts, endpoints, dependencies: { emitEndpointScores: true } }));
    const silent = decideIn(world({ plan: parts, endpoints }));
    expect(asked.kind === "routed" && [...(asked.scores ?? [])]).toEqual([
      ["10.0.0.2:8000", 0.5],
      ["[fd00::3]:8000", 0.5],
    ]);
    expect(silent).toMatchObject({ kind: "routed", scores: undefined });
  });

  it("is counted with the labels that routing gave", () => {
    const fake = world({
      dependencies: {
        route: (asked) => {
          asked.targetModel = "llama-b";
          asked.fairnessId = "team";
          asked.priority = 3;
          return undefined;
        },
      },
    });
    decideIn(fake);
    expect(fake.lines).toEqual([
      "scheduled success default/10.0.0.1-8000",
      "started llama>llama-b team 3 17",
      "decided",
    ]);
  });
});

const empty = {
  code: "ServiceUnavailable",
  message: "failed to find endpoint candidates for serving the request",
  droppedReason: "rejected-no-endpoints",
  retryAfterSeconds: 1,
};

describe("a refusal", () => {
  it.each<[string, FakeWorld, Subset, object]>([
    ["503 when the pool is empty", world({ endpoints: [] }), undefined, empty],
    ["503 when the subset matches nothing", world({}), ["10.9.9.9:8000"], empty],
    ["503 when the subset is empty", world({}), [], empty],
    [
      "503 when screeners leave nothing",
      world({ plan: plan({ screeners: [named("none", { screen: () => [] })] }) }),
      undefined,
      {
        code: "ServiceUnavailable",
        message: "screeners eliminated all endpoint candidates",
        droppedReason: "rejected-no-endpoints",
      },
    ],
    [
      "429 when filters leave nothing",
      world({ plan: plan({ filters: [named("none", { filter: () => [] })] }) }),
      undefined,
      {
        code: "ResourceExhausted",
        message: "no endpoints available for the given request",
        droppedReason: "rejected-saturated",
      },
    ],
    [
      "what an admitter says, its code kept",
      world({ plan: plan({ admitters: [named("no", { admit: () => reject("ResourceExhausted", "too slow") })] }) }),
      undefined,
      { code: "ResourceExhausted", message: "request cannot be admitted: too slow" },
    ],
    [
      "what admission says",
      world({
        dependencies: {
          admission: {
            admit: (_r, _c, done) => {
              done(reject("ResourceExhausted", "system saturated, sheddable request dropped"));
              return undefined;
            },
          },
        },
      }),
      undefined,
      { code: "ResourceExhausted", message: "system saturated, sheddable request dropped", droppedReason: undefined },
    ],
    [
      "what routing says",
      world({ dependencies: { route: () => reject("BadRequest", "header too long") } }),
      undefined,
      { code: "BadRequest", message: "header too long" },
    ],
    [
      "what the profile handler says",
      world({
        plan: plan({
          handler: { nextProfiles: () => reject("BadRequest", "unknown profile"), primaryProfile: () => "default" },
        }),
      }),
      undefined,
      { code: "BadRequest", message: "unknown profile" },
    ],
    [
      "500 when the pipeline itself breaks",
      world({
        dependencies: {
          route: () => {
            throw new Error("bug");
          },
        },
      }),
      undefined,
      { code: "Internal" },
    ],
  ])("is %s", (_name, fake, subset, rejection) => {
    expect(decideIn(fake, request(), subset)).toMatchObject({ kind: "rejected", rejection });
    expect(fake.lines.filter((line) => line.startsWith("refused"))).toHaveLength(1);
    expect(fake.lines.filter((line) => line.startsWith("started"))).toEqual([]);
  });

  it("of a model name that is too long keeps the name out of the metrics", () => {
    const fake = world({});
    const decision = decideIn(fake, request({ parsed: { model: "m".repeat(4097) } }));
    expect(decision).toMatchObject({ kind: "rejected", rejection: { code: "BadRequest", param: "model" } });
    expect(fake.lines).toEqual(["refused BadRequest  "]);
  });

  it.each([true, "no", 429, { status: 429 }])("is not what a broken admitter returns: %j", (junk) => {
    const fake = world({ plan: plan({ admitters: [named("broken", { admit: () => junk as never })] }) });
    expect(decideIn(fake).kind).toBe("routed");
    expect(fake.lines).toContain("pluginFailed Admitter broken-type broken");
  });

  it("does not look at the subset when the filter of subsets is off", () => {
    const fake = world({ dependencies: { filterSubset: false } });
    expect(decideIn(fake, request(), [])).toMatchObject({ kind: "routed" });
  });

  it("of a front door is counted under its code", () => {
    const fake = world({});
    createPipeline(fake.dependencies).refused(reject("PayloadTooLarge", "too large"), "llama");
    expect(fake.lines).toEqual(["refused PayloadTooLarge llama llama"]);
  });
});

describe("prefer: if-available", () => {
  const holding = (holder: Endpoint | undefined) => {
    const match = {
      blockSizeTokens: 64,
      totalBlocks: 3,
      hashes: new Uint32Array(6),
      matchedBlocks: (asked: Endpoint) => (asked.name === holder?.name ? 1 : 0),
    };
    return plan({
      producers: [named("prefix", { produce: (asked) => asked.setAttribute(prefixMatchKey("prefix"), match) })],
    });
  };
  const [first, second] = [endpoint("10.0.0.1"), endpoint("10.0.0.2")];
  const prefills = endpoint("10.0.0.3", 8000, { labels: new Map([["llm-d.ai/role", "prefill"]]) });
  const endpoints = [first, second, prefills];

  it.each<[string, string | undefined, ReturnType<typeof plan>, string]>([
    ["is served when a decode worker holds the prefix", "if-available", holding(second), "routed"],
    ["is served whoever holds what, when it is not asked for", undefined, holding(undefined), "routed"],
    ["is no concern of other preferences", "respond-async", holding(undefined), "routed"],
    ["is refused when nobody holds the prefix", "if-available", holding(undefined), "rejected"],
    ["is refused when only a prefill worker holds it", "if-available", holding(prefills), "rejected"],
    ["is refused when nothing is known of prefixes", "if-available", plan(), "rejected"],
    ["is found among several preferences", "wait=10, If-Available; x=1", holding(undefined), "rejected"],
  ])("%s", (_name, prefer, parts, kind) => {
    const decision = decideIn(
      world({ plan: parts, endpoints }),
      request({ headers: prefer === undefined ? {} : { prefer } }),
    );
    expect(decision.kind).toBe(kind);
    if (decision.kind === "rejected") {
      expect(decision.rejection).toMatchObject({
        code: "PreconditionFailed",
        message: "no decode worker has the requested KV cache",
      });
    }
  });
});

describe("conditional decode", () => {
  it("chooses among the holders of the prefix alone", () => {
    const [first, second] = [endpoint("10.0.0.1"), endpoint("10.0.0.2")];
    const match = {
      blockSizeTokens: 64,
      totalBlocks: 3,
      hashes: new Uint32Array(6),
      matchedBlocks: (asked: Endpoint) => (asked.name === second.name ? 1 : 0),
    };
    const parts = plan({
      producers: [named("prefix", { produce: (asked) => asked.setAttribute(prefixMatchKey("prefix"), match) })],
    });
    for (const draw of [0, 0.5, 0.999]) {
      const fake = world({ plan: parts, endpoints: [first, second], dependencies: { random: () => draw } });
      const decision = decideIn(fake, request({ headers: { prefer: "if-available" } }));
      expect(decision.kind === "routed" && decision.destinations.map(({ name }) => name)).toEqual([second.name]);
    }
  });
});

describe("a header-only request", () => {
  const endpoints = [endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("10.0.0.3")];

  it("goes to any endpoint of the subset, at random", () => {
    const picks = [0, 0.49, 0.5, 0.999].map((draw) => {
      const fake = world({ endpoints, dependencies: { random: () => draw } });
      const decision = createPipeline(fake.dependencies).decideBodyless(request(), ["10.0.0.2", "10.0.0.3:8000"]);
      return decision.kind === "routed" && decision.exchange.destination.address;
    });
    expect(picks).toEqual(["10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.3"]);
  });

  it.each([
    ["the pool is empty", [], undefined],
    ["the subset matches nothing", endpoints, ["10.9.9.9"]],
  ])("is refused with 503 when %s", (_name, pool, subset) => {
    const fake = world({ endpoints: pool });
    const decision = createPipeline(fake.dependencies).decideBodyless(request(), subset);
    expect(decision).toMatchObject({ kind: "rejected", rejection: empty });
    expect(fake.lines).toEqual(["refused ServiceUnavailable  "]);
  });

  it("is not scheduled, booked or measured, but its answer's headers are seen", () => {
    const seen: string[] = [];
    const fake = world({
      plan: plan({
        observers: [
          named("all", {
            assigned: () => void seen.push("assigned"),
            responseHeaders: (_r, _a, response, headers) => {
              seen.push(`headers ${response.status} ${response.served}`);
              headers.set("x-served", response.served ?? "");
            },
            firstByte: () => void seen.push("firstByte"),
            ended: () => void seen.push("ended"),
          }),
        ],
      }),
    });
    const pipeline = createPipeline(fake.dependencies);
    const decision = pipeline.decideBodyless(request(), undefined);
    if (decision.kind !== "routed") throw new Error("not routed");
    expect(decision.exchange.responseHeaders(200, "10.0.0.1:8000")).toEqual([["x-served", "10.0.0.1:8000"]]);
    decision.exchange.firstByte(false);
    decision.exchange.chunk(5);
    expect(pipeline.openExchanges).toBe(1);
    decision.exchange.end({ kind: "completed", status: 200 });
    expect(pipeline.openExchanges).toBe(0);
    expect(seen).toEqual(["headers 200 10.0.0.1:8000"]);
    expect(fake.lines).toEqual([]);
  });
});
