import { describe, expect, it } from "@jest/globals";
import { isManifestName, parseManifestFile } from "../../../../src/data/manifests/manifest-file.ts";

const objective = `
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata:
  name: premium
  namespace: models
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels: {team: a}
spec:
  priority: 10
  poolRef: {name: pool}
status: {conditions: []}
`;
const rewrite = `
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: {name: canary, creationTimestamp: null}
spec:
  poolRef: {group: inference.networking.x-k8s.io, kind: InferencePool, name: pool}
  rules:
    - matches:
        - model: {type: Exact, value: llama}
        - model: {value: llama-2}
      targets:
        - {modelRewrite: llama-a, weight: 9}
        - {modelRewrite: llama-b, weight: 1}
    - targets: [{modelRewrite: any}]
    - matches: []
`;
const premium = {
  kind: "InferenceObjective",
  group: "llm-d.ai",
  name: "premium",
  namespace: "models",
  createdAtMs: Date.UTC(2026, 0, 2, 3, 4, 5),
  poolRef: { group: "inference.networking.k8s.io", kind: "InferencePool", name: "pool" },
  priority: 10,
};
const canary = {
  kind: "InferenceModelRewrite",
  group: "inference.networking.x-k8s.io",
  name: "canary",
  namespace: "",
  createdAtMs: undefined,
  poolRef: { group: "inference.networking.x-k8s.io", kind: "InferencePool", name: "pool" },
  rules: [
    {
      models: ["llama", "llama-2"],
      targets: [
        { model: "llama-a", weight: 9 },
        { model: "llama-b", weight: 1 },
      ],
    },
    { models: [], targets: [{ model: "any", weight: undefined }] },
    { models: [], targets: [] },
  ],
};

describe("a manifest file", () => {
  it.each<[string, string, string, readonly object[]]>([
    ["reads an objective", "a.yaml", objective, [premium]],
    ["reads a rewrite", "a.yaml", rewrite, [canary]],
    ["reads several documents in order", "a.yaml", `${rewrite}---${objective}`, [canary, premium]],
    ["skips empty documents and comments", "a.yaml", `---\n# nothing\n---${objective}---\n`, [premium]],
    ["reads no document out of an empty file", "a.yaml", "", []],
    ["reads a byte order mark away", "a.yaml", `\uFEFF${objective.trim()}`, [premium]],
    [
      "takes an absent priority for 0",
      "a.yaml",
      objective.replace("  priority: 10\n", ""),
      [{ ...premium, priority: 0 }],
    ],
    [
      "takes the lowest priority there is",
      "a.yaml",
      objective.replace("10", "-2147483648"),
      [{ ...premium, priority: -(2 ** 31) }],
    ],
    [
      "reads JSON",
      "a.json",
      JSON.stringify({
        apiVersion: "llm-d.ai/v1alpha2",
        kind: "InferenceObjective",
        metadata: { name: "b" },
        spec: { poolRef: { name: "pool" } },
      }),
      [{ ...premium, name: "b", namespace: "", createdAtMs: undefined, priority: 0 }],
    ],
    [
      "reads what kubectl lists",
      "a.yaml",
      `apiVersion: v1\nkind: List\nitems:\n- ${objective.trim().replaceAll("\n", "\n  ")}`,
      [premium],
    ],
    [
      "reads a typed list",
      "a.yaml",
      `apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjectiveList\nitems:\n- ${objective.trim().replaceAll("\n", "\n  ")}`,
      [premium],
    ],
  ])("%s", (_name, file, text, objects) => {
    expect(parseManifestFile(file, text)).toEqual({ objects, faults: [], ignored: [] });
  });

  it("names the objects of other kinds that it ignores", () => {
    const pool =
      "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: pool}\nspec: {x: 1}\n";
    expect(parseManifestFile("a.yaml", `${pool}---${objective}`)).toEqual({
      objects: [premium],
      faults: [],
      ignored: ["inference.networking.k8s.io/v1 InferencePool"],
    });
  });

  it.each<[string, string, readonly string[]]>([
    [
      "an unknown field",
      objective.replace("priority: 10", "prioritty: 10"),
      ["document 1: spec.prioritty: unknown field; known are poolRef, priority"],
    ],
    [
      "an unknown top-level field",
      `${objective}extra: 1\n`,
      ["document 1: extra: unknown field; known are apiVersion, kind, metadata, spec, status"],
    ],
    [
      "a priority that is text",
      objective.replace("10", '"high"'),
      ['document 1: spec.priority: expected an integer from -2147483648 to 2147483647, found "high"'],
    ],
    [
      "a priority that does not fit",
      objective.replace("10", "2147483648"),
      ["document 1: spec.priority: expected an integer from -2147483648 to 2147483647, found 2147483648"],
    ],
    [
      "a priority that is no integer",
      objective.replace("10", "1.5"),
      ["document 1: spec.priority: expected an integer from -2147483648 to 2147483647, found 1.5"],
    ],
    [
      "no pool reference",
      objective.replace("  poolRef: {name: pool}\n", ""),
      ["document 1: spec.poolRef: is required: a mapping"],
    ],
    [
      "a pool reference without a name",
      objective.replace("{name: pool}", "{}"),
      ["document 1: spec.poolRef.name: is required: a string"],
    ],
    ["no name", objective.replace("  name: premium\n", ""), ["document 1: metadata.name: is required: a string"]],
    [
      "a timestamp that is none",
      objective.replace("2026-01-02T03:04:05Z", "yesterday"),
      ['document 1: metadata.creationTimestamp: expected a timestamp such as 2026-01-31T12:00:00Z, found "yesterday"'],
    ],
    [
      "no spec",
      "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {name: a}\n",
      [
        "document 1: spec: is required: a mapping",
        "document 1: spec.poolRef: is required: a mapping",
        "document 1: spec.rules: is required: a list",
      ],
    ],
    [
      "another version of the kind",
      objective.replace("v1alpha2", "v1"),
      ["document 1: apiVersion: InferenceObjective is read in version v1alpha2, found llm-d.ai/v1"],
    ],
    [
      "a weight of 0",
      rewrite.replace("weight: 9", "weight: 0"),
      ["document 1: spec.rules[0].targets[0].weight: expected an integer from 1 to 1000000, found 0"],
    ],
    [
      "a target without a model",
      rewrite.replace("modelRewrite: llama-b, ", ""),
      ["document 1: spec.rules[0].targets[1].modelRewrite: is required: a string"],
    ],
    [
      "an empty target model",
      rewrite.replace("modelRewrite: any", 'modelRewrite: ""'),
      ["document 1: spec.rules[1].targets[0].modelRewrite: must not be empty"],
    ],
    [
      "an empty list of targets",
      rewrite.replace("[{modelRewrite: any}]", "[]"),
      ["document 1: spec.rules[1].targets: must hold at least one target"],
    ],
    [
      "a match of another type",
      rewrite.replace("Exact", "Prefix"),
      ['document 1: spec.rules[0].matches[0].model.type: must be "Exact"'],
    ],
    [
      "a match without a model",
      rewrite.replace("- model: {value: llama-2}", "- {}"),
      ["document 1: spec.rules[0].matches[1].model: is required: a mapping"],
    ],
    [
      "rules that are no list",
      rewrite.replace(/rules:[\s\S]*/, "rules: {}\n"),
      ["document 1: spec.rules: expected a list, found a mapping"],
    ],
    ["a document that is no mapping", "- a\n- b\n", ["document 1: expected a mapping, found a list"]],
    ["a document without a kind", "apiVersion: v1\n", ["document 1: kind: is required: a string"]],
    [
      "lists within lists",
      "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: []}]}]",
      ["document 1, items[0]: a list within a list is not read"],
    ],
  ])("is refused for %s", (_name, text, faults) => {
    expect(parseManifestFile("a.yaml", text)).toEqual({ objects: [], faults, ignored: [] });
  });

  it("is refused as a whole for one faulty document, which is named", () => {
    const file = parseManifestFile("a.yaml", `${objective}---${rewrite.replace("weight: 1", "weight: x")}`);
    expect(file.objects).toEqual([]);
    expect(file.faults).toEqual([
      'document 2: spec.rules[0].targets[1].weight: expected an integer from 1 to 1000000, found "x"',
    ]);
  });

  it.each([
    ["a.yaml", "a: [1, 2\n"],
    ["a.yaml", "a: 1\na: 2\n"],
    ["a.json", '{"a": 1,}'],
    ["a.json", ""],
    [
      "a.yaml",
      `a: &a [x, x]\n${"bcdefghi"
        .split("")
        .map((key, i, all) => `${key}: &${key} [${`*${i === 0 ? "a" : all[i - 1]},`.repeat(9)}]`)
        .join("\n")}\n`,
    ],
  ])("%s that does not parse is refused: %j", (name, text) => {
    const { objects, faults } = parseManifestFile(name, text);
    expect(objects).toEqual([]);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toMatch(/^document 1: \S/);
  });

  it.each([
    ["a.yaml", true],
    ["a.yml", true],
    ["A.JSON", true],
    [".a.yaml", false],
    ["a.yaml~", false],
    ["a.txt", false],
    ["..data", false],
  ])("%s is one by its name: %s", (name, is) => {
    expect(isManifestName(name)).toBe(is);
  });
});
