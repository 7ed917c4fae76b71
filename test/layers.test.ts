/** The dependency rule: which folder of src may import which. The table is docs/architecture.md's; a plugin sees only its contracts. */
import { globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "@jest/globals";

const everything = ["*"];
const layers: Readonly<Record<string, readonly string[]>> = {
  gen: [],
  net: ["gen"],
  request: ["gen"],
  telemetry: [],
  tokens: ["net", "gen", "telemetry"],
  dynamo: ["net", "gen", "telemetry"],
  data: ["dynamo", "tokens", "net", "request", "telemetry"],
  "prefill-router": ["data", "dynamo", "tokens", "request", "telemetry", "scheduling/contracts.ts"],
  scheduling: ["request", "data", "telemetry"],
  routing: ["request", "data", "telemetry"],
  "flow-control": ["request", "data", "telemetry"],
  pipeline: ["routing", "flow-control", "scheduling", "data", "request", "telemetry"],
  extproc: ["pipeline", "request", "net", "gen", "telemetry"],
  frontend: ["pipeline", "request", "net", "gen", "telemetry", "dynamo", "tokens"],
  router: ["pipeline", "request", "net", "gen", "telemetry"],
  sim: ["pipeline", "data", "dynamo", "tokens", "net", "request", "telemetry"],
  admin: ["pipeline", "data", "telemetry"],
  config: ["scheduling/contracts.ts", "telemetry"],
  app: everything,
  commands: everything,
  "main.ts": everything,
};

const unimportable = new Set(["app", "commands", "main.ts"]);

interface ImportEdge {
  readonly from: string;
  readonly to: string;
}

function importsOf(file: string): string[] {
  const text = readFileSync(file, "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)].map((match) => join(dirname(file), match[1] ?? ""));
}

const files = globSync("src/**/*.ts").filter((file) => !file.includes("/wasm/") && !file.endsWith(".d.ts"));
const edges: ImportEdge[] = files.flatMap((from) => importsOf(from).map((to) => ({ from, to })));

function layerOf(path: string): string {
  return path.split("/")[1] ?? "";
}

function isAllowed({ from, to }: ImportEdge): boolean {
  const own = layerOf(from);
  const target = layerOf(to);
  if (from.startsWith("src/scheduling/plugins/")) {
    return to === "src/scheduling/contracts.ts" || dirname(to) === dirname(from);
  }
  if (own === target) return true;
  if (unimportable.has(target) && !(own === "main.ts" || own === "commands" || own === "app")) return false;
  const allowed = layers[own] ?? [];
  return allowed === everything || allowed.includes(target) || allowed.includes(to.slice("src/".length));
}

describe("the import graph", () => {
  it("knows every folder of src", () => {
    expect([...new Set(files.map(layerOf))].filter((layer) => !(layer in layers))).toEqual([]);
  });

  it("has only arrows that the layer table allows", () => {
    expect(edges.filter((edge) => !isAllowed(edge)).map(({ from, to }) => `${from} → ${to}`)).toEqual([]);
  });

  it("has no cycle", () => {
    const targets = new Map<string, string[]>();
    for (const { from, to } of edges) targets.set(from, [...(targets.get(from) ?? []), to]);
    const state = new Map<string, "open" | "done">();
    const cycles: string[] = [];
    const visit = (file: string, path: readonly string[]): void => {
      if (state.get(file) === "done") return;
      if (state.get(file) === "open") {
        cycles.push([...path.slice(path.indexOf(file)), file].join(" → "));
        return;
      }
      state.set(file, "open");
      for (const next of targets.get(file) ?? []) visit(next, [...path, file]);
      state.set(file, "done");
    };
    for (const file of files) visit(file, []);
    expect(cycles).toEqual([]);
  });

  it("has no folder named for what it is not", () => {
    const banned = /\/(utils?|common|helpers?|types)(\/|\.ts$)/;
    expect(files.filter((file) => banned.test(file))).toEqual([]);
  });
});
