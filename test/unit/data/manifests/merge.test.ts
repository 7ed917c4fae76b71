import { describe, expect, it } from "@jest/globals";
import type { ManifestObject, ObjectGroup } from "../../../../src/data/manifests/manifest.ts";
import { mergeManifests, type PoolIdentity } from "../../../../src/data/manifests/merge.ts";

const any: PoolIdentity = { name: "", group: "inference.networking.k8s.io", namespace: "" };
const poolRef = { group: "inference.networking.k8s.io", kind: "InferencePool", name: "pool" };

function objective(name: string, priority: number, init: Partial<ManifestObject> = {}): ManifestObject {
  const head = { group: "llm-d.ai" as ObjectGroup, name, namespace: "", createdAtMs: undefined, poolRef };
  return { ...head, ...init, kind: "InferenceObjective", priority };
}

function rewrite(name: string, createdAtMs?: number, group: ObjectGroup = "llm-d.ai"): ManifestObject {
  const rules = [{ models: [], targets: [{ model: `${name}-${group}`, weight: undefined }] }];
  return { kind: "InferenceModelRewrite", group, name, namespace: "", createdAtMs, poolRef, rules };
}

describe("objects of several files", () => {
  it("are objectives by name", () => {
    const { objects, left } = mergeManifests([[objective("a", 1)], [objective("b", -1)]], any);
    expect([...objects.objectives]).toEqual([
      ["a", { priority: 1 }],
      ["b", { priority: -1 }],
    ]);
    expect(left).toEqual([]);
  });

  it("of one name are that of the new group, whatever their order", () => {
    const legacy = objective("a", 1, { group: "inference.networking.x-k8s.io" });
    const current = objective("a", 2);
    for (const files of [[[legacy, current]], [[current], [legacy]], [[legacy], [current]]]) {
      const { objects, left } = mergeManifests(files, any);
      expect(objects.objectives.get("a")).toEqual({ priority: 2 });
      expect(left).toHaveLength(1);
    }
  });

  it("of one name and group are that of the first file", () => {
    const { objects, left } = mergeManifests([[objective("a", 1)], [objective("a", 2)]], any);
    expect(objects.objectives.get("a")).toEqual({ priority: 1 });
    expect(left).toEqual(["InferenceObjective llm-d.ai/a is hidden by the one of llm-d.ai with its name"]);
  });

  it("of one name but two kinds do not hide each other", () => {
    const { objects } = mergeManifests([[objective("a", 1), rewrite("a")]], any);
    expect([objects.objectives.size, objects.rewrites.length]).toEqual([1, 1]);
  });

  it("are rewrites from the oldest on, those without a timestamp last and in file order", () => {
    const files = [
      [rewrite("none-1"), rewrite("young", 300)],
      [rewrite("old", 100), rewrite("none-2")],
      [rewrite("same", 300)],
    ];
    const names = mergeManifests(files, any).objects.rewrites.map(({ name }) => name);
    expect(names).toEqual(["old", "young", "same", "none-1", "none-2"]);
  });

  it("of one name keep the age of the one that wins", () => {
    const files = [[rewrite("a", 100, "inference.networking.x-k8s.io"), rewrite("b", 200), rewrite("a", 300)]];
    expect(
      mergeManifests(files, any).objects.rewrites.map(({ name, rules }) => [name, rules[0]?.targets[0]?.model]),
    ).toEqual([
      ["b", "b-llm-d.ai"],
      ["a", "a-llm-d.ai"],
    ]);
  });

  it.each<[string, Partial<ManifestObject>, Partial<PoolIdentity>, boolean]>([
    ["are taken without a pool name", { poolRef: { ...poolRef, name: "other" } }, {}, true],
    ["are taken when name and group match", {}, { name: "pool" }, true],
    ["are left out when the name differs", { poolRef: { ...poolRef, name: "other" } }, { name: "pool" }, false],
    ["are left out when the group differs", { poolRef: { ...poolRef, group: "x" } }, { name: "pool" }, false],
    ["are left out when the kind differs", { poolRef: { ...poolRef, kind: "Service" } }, { name: "pool" }, false],
    ["are left out of another namespace", { namespace: "there" }, { namespace: "here" }, false],
    ["are taken without a namespace", { namespace: "" }, { namespace: "here" }, true],
    ["are taken of the same namespace", { namespace: "here" }, { namespace: "here" }, true],
  ])("%s", (_name, init, pool, isTaken) => {
    const { objects, left } = mergeManifests([[objective("a", 1, init)]], { ...any, ...pool });
    expect([objects.objectives.size, left.length]).toEqual(isTaken ? [1, 0] : [0, 1]);
  });

  it("of another pool do not hide one of ours", () => {
    const files = [[objective("a", 1, { poolRef: { ...poolRef, name: "other" } })], [objective("a", 2)]];
    expect(mergeManifests(files, { ...any, name: "pool" }).objects.objectives.get("a")).toEqual({ priority: 2 });
  });
});
