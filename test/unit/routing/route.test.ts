import { describe, expect, it } from "@jest/globals";
import { type ModelRewrite, noPoolObjects, type PoolObjects } from "../../../src/data/manifests/pool-objects.ts";
import { InferenceRequest } from "../../../src/request/inference-request.ts";
import type { Rejection } from "../../../src/request/rejection.ts";
import { createRoute } from "../../../src/routing/route.ts";
import fc from "../../properties.ts";

interface Routed {
  readonly request: InferenceRequest;
  readonly rejection: Rejection | undefined;
  readonly counted: readonly string[];
}

function request(headers: Readonly<Record<string, string>>, model = "llama", isRewritable = true): InferenceRequest {
  return new InferenceRequest({
    id: "r1",
    method: "POST",
    path: "/v1/completions",
    headers: new Map(Object.entries(headers)),
    body: Buffer.alloc(0),
    parsed: {
      api: "openai-completions",
      parser: "openai-parser",
      model,
      modelRange: isRewritable ? { start: 0, end: 5 } : undefined,
      stream: false,
      maxOutputTokens: undefined,
      user: undefined,
      cacheSalt: undefined,
      nvextRange: undefined,
      prompt: { kind: "opaque" },
      readsResponse: true,
    },
    receivedAtMs: 0,
  });
}

function route(asked: InferenceRequest, objects: Partial<PoolObjects> = {}, draw = 0): Routed {
  const counted: string[] = [];
  const rejection = createRoute({
    objects: () => ({ ...noPoolObjects, ...objects }),
    random: () => draw,
    metrics: { modelRewritten: (...labels) => counted.push(labels.join(" ")) },
  })(asked);
  return { request: asked, rejection, counted };
}

describe("the objective", () => {
  const objectives = new Map([
    ["batch", { priority: -2 }],
    ["premium", { priority: 10 }],
  ]);
  const current = "x-llm-d-inference-objective";
  const alias = "x-gateway-inference-objective";

  it.each<[string, Record<string, string>, string, number]>([
    ["is none without a header", {}, "", 0],
    ["is looked up by the header's value", { [current]: "premium" }, "premium", 10],
    ["may be negative", { [current]: "batch" }, "batch", -2],
    ["is read from the alias", { [alias]: "premium" }, "premium", 10],
    ["is read from the new name first", { [current]: "batch", [alias]: "premium" }, "batch", -2],
    ["is none when the new name is present and empty", { [current]: "", [alias]: "premium" }, "", 0],
    ["has priority 0 when nothing has that name", { [current]: "unheard-of" }, "unheard-of", 0],
    ["is none when the name is longer than any object's", { [current]: "n".repeat(254) }, "", 0],
    ["is a name and no number", { [current]: "10" }, "10", 0],
  ])("%s", (_name, headers, objective, priority) => {
    const { request: routed } = route(request(headers), { objectives });
    expect([routed.objective, routed.priority]).toEqual([objective, priority]);
  });
});

describe("the flow", () => {
  const current = "x-llm-d-inference-fairness-id";
  const alias = "x-gateway-inference-fairness-id";

  it.each<[string, Record<string, string>, string]>([
    ["is the default one without a header", {}, "default-flow"],
    ["is the header's value", { [current]: "team-a" }, "team-a"],
    ["is read from the alias", { [alias]: "team-b" }, "team-b"],
    ["is cut to 256 characters", { [current]: "t".repeat(300) }, "t".repeat(256)],
    ["is the default one when the new name is present and empty", { [current]: "", [alias]: "team-b" }, "default-flow"],
  ])("%s", (_name, headers, fairnessId) => {
    expect(route(request(headers)).request.fairnessId).toBe(fairnessId);
  });

  it("that a header processor found stays, unless the header names one", () => {
    const found = request({});
    found.fairnessId = "agent-7";
    expect(route(found).request.fairnessId).toBe("agent-7");
    const named = request({ [current]: "team-a" });
    named.fairnessId = "agent-7";
    expect(route(named).request.fairnessId).toBe("team-a");
  });
});

const to = (...models: readonly (string | readonly [string, number])[]) =>
  models.map((target) =>
    typeof target === "string" ? { model: target, weight: undefined } : { model: target[0], weight: target[1] },
  );

function rewrite(name: string, ...rules: ModelRewrite["rules"][number][]): ModelRewrite {
  return { name, rules };
}

describe("a model rewrite", () => {
  const header = "x-llm-d-model-name-rewrite";
  const alias = "x-gateway-model-name-rewrite";
  const exact = (name: string, target: string, model = "llama") =>
    rewrite(name, { models: [model], targets: to(target) });
  const generic = (name: string, target: string) => rewrite(name, { models: [], targets: to(target) });

  it.each<[string, readonly ModelRewrite[], Record<string, string>, string, readonly string[]]>([
    ["changes nothing without a rule or header", [], {}, "llama", []],
    ["applies to the model it names", [exact("a", "llama-b")], {}, "llama-b", ["a llama llama-b"]],
    ["does not apply to another model", [exact("a", "llama-b", "qwen")], {}, "llama", []],
    ["does not apply to a longer name", [exact("a", "llama-b", "llam")], {}, "llama", []],
    ["applies to every model when generic", [generic("a", "any")], {}, "any", ["a llama any"]],
    [
      "is the exact one before an older generic one",
      [generic("old", "any"), exact("new", "own")],
      {},
      "own",
      ["new llama own"],
    ],
    ["is the oldest of several exact ones", [exact("old", "one"), exact("new", "two")], {}, "one", ["old llama one"]],
    [
      "is the oldest of several generic ones",
      [generic("old", "one"), generic("new", "two")],
      {},
      "one",
      ["old llama one"],
    ],
    [
      "is the first rule of its object",
      [rewrite("a", { models: ["qwen", "llama"], targets: to("one") }, { models: ["llama"], targets: to("two") })],
      {},
      "one",
      ["a llama one"],
    ],
    [
      "without targets leaves the next rule its turn",
      [rewrite("a", { models: ["llama"], targets: [] }), exact("b", "two")],
      {},
      "two",
      ["b llama two"],
    ],
    ["is taken from the header where no rule matches", [exact("a", "b", "qwen")], { [header]: "lora-7" }, "lora-7", []],
    ["is taken from the header's alias", [], { [alias]: "lora-8" }, "lora-8", []],
    ["beats the header", [exact("a", "llama-b")], { [header]: "lora-7" }, "llama-b", ["a llama llama-b"]],
    [
      "is not asked for by an empty header, which hides the alias",
      [],
      { [header]: "", [alias]: "lora-8" },
      "llama",
      [],
    ],
  ])("%s", (_name, rewrites, headers, target, counted) => {
    const routed = route(request(headers), { rewrites });
    expect([routed.request.targetModel, routed.counted, routed.rejection]).toEqual([target, counted, undefined]);
  });

  it.each<[string, readonly (readonly [string, number] | string)[], readonly [number, string][]]>([
    [
      "evenly without weights",
      ["a", "b"],
      [
        [0, "a"],
        [0.49, "a"],
        [0.5, "b"],
        [0.99, "b"],
      ],
    ],
    [
      "by weight",
      [
        ["a", 3],
        ["b", 1],
      ],
      [
        [0, "a"],
        [0.74, "a"],
        [0.75, "b"],
        [0.999999, "b"],
      ],
    ],
    [
      "never to one without a weight beside one that has",
      ["a", ["b", 5], "c"],
      [
        [0, "b"],
        [0.999999, "b"],
      ],
    ],
    ["to the only one there is", ["a"], [[0.3, "a"]]],
  ])("spreads %s", (_name, targets, draws) => {
    const rewrites = [rewrite("split", { models: [], targets: to(...targets) })];
    for (const [draw, target] of draws) {
      expect([draw, route(request({}), { rewrites }, draw).request.targetModel]).toEqual([draw, target]);
    }
  });

  it("picks each target as often as its weight says, for any weights", () => {
    const weights = fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(weights, (of) => {
        const total = of.reduce((sum, weight) => sum + weight, 0);
        const rewrites = [rewrite("split", { models: [], targets: to(...of.map((w, i) => [`m${i}`, w] as const)) })];
        const seen = of.map(() => 0);
        for (let i = 0; i < total; i += 1) {
          const model = route(request({}), { rewrites }, (i + 0.5) / total).request.targetModel;
          const at = Number(model.slice(1));
          seen[at] = (seen[at] ?? 0) + 1;
        }
        expect(seen).toEqual(of);
      }),
      { numRuns: 50 },
    );
  });

  it("leaves a body alone that carries no model", () => {
    const routed = route(request({ [header]: "lora-7" }, "", false), { rewrites: [generic("a", "any")] });
    expect([routed.request.targetModel, routed.counted]).toEqual(["", []]);
  });

  it.each([
    ["longer than 512 characters", "m".repeat(513)],
    ["with a control character", "lora\u0000"],
    ["with a line break", "lora\nx"],
  ])("is refused from a header %s", (_name, value) => {
    const routed = route(request({ [header]: value }));
    expect(routed.rejection).toMatchObject({ code: "BadRequest" });
    expect(routed.request.targetModel).toBe("llama");
  });

  it("follows the objects when they are replaced", () => {
    let objects: PoolObjects = { ...noPoolObjects, rewrites: [exact("a", "one")] };
    const routed = createRoute({ objects: () => objects, random: () => 0, metrics: { modelRewritten: () => {} } });
    const targetNow = () => {
      const asked = request({});
      routed(asked);
      return asked.targetModel;
    };
    expect(targetNow()).toBe("one");
    objects = { ...noPoolObjects, rewrites: [exact("a", "two")] };
    expect(targetNow()).toBe("two");
    objects = noPoolObjects;
    expect(targetNow()).toBe("llama");
  });
});
