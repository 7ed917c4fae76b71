/** The launcher of the test tools: where they are looked for, and that what is pinned is what the tests mean. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { bundleNames, readDefinitions } from "./definitions.ts";
import { requiredVersion, toolBinary, toolNames, toolPath, tools } from "./tools.ts";

const environment = { ...process.env };

afterEach(() => {
  process.env = { ...environment };
});

describe("test tools", () => {
  it("are taken from where the environment says", () => {
    process.env["HELM"] = process.execPath;
    expect(toolBinary("helm")).toBe(process.execPath);
  });

  it("say what to do when they are not there", () => {
    const empty = mkdtempSync(join(tmpdir(), "signalbox-tools-"));
    try {
      delete process.env["HELM"];
      process.env["XDG_CACHE_HOME"] = empty;
      expect(() => toolBinary("helm")).toThrow(/no helm at .*: run `make k8s-tools`, or name its binary in HELM=/);
      expect(() => readDefinitions("gateway-api")).toThrow(/run `make k8s-tools`/);
    } finally {
      rmSync(empty, { recursive: true, force: true });
    }
  });

  it("are each built in a place of their own, and named by a variable of their own", () => {
    delete process.env["HELM"];
    expect(new Set(toolNames.map(toolPath)).size).toBe(toolNames.length);
    expect(new Set(toolNames.map((name) => tools[name].environment)).size).toBe(toolNames.length);
  });

  it("control a cluster of one release", () => {
    const release = requiredVersion("kube-apiserver", "k8s.io/kubernetes");
    expect(requiredVersion("kube-controller-manager", "k8s.io/kubernetes")).toBe(release);
  });
});

describe("definitions of kinds", () => {
  it.each(bundleNames)("of %s are all there and served", (name) => {
    const definitions = readDefinitions(name);
    expect(definitions.length).toBeGreaterThan(0);
    for (const { spec } of definitions) expect(spec.versions.some(({ served }) => served)).toBe(true);
  });

  it("give objectives and rewrites in both groups, with one schema", () => {
    const [of, ofToo] = (["inference-objectives", "llm-d-objectives"] as const).map((name) => readDefinitions(name));
    expect(of?.map(({ spec }) => spec.group)).toEqual(Array(2).fill("inference.networking.x-k8s.io"));
    expect(ofToo?.map(({ spec }) => spec.group)).toEqual(Array(2).fill("llm-d.ai"));
    expect(ofToo?.map(({ spec }) => spec.versions)).toEqual(of?.map(({ spec }) => spec.versions));
  });
});
