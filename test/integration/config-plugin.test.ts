/** A plugin of one's own in the running picker: decides, is edited, throws, overruns its time. */

import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { eventually } from "../stack.ts";
import { decide } from "./ext-proc-call.ts";

const scratch = mkdtempSync(join(tmpdir(), "signalbox-plugin-"));
const path = (name: string) => join(scratch, name);

const endpoints = `endpoints:
  - {name: dear, namespace: default, address: 127.0.0.1, port: 9, labels: {cost-per-hour: "9.80"}}
  - {name: cheap, namespace: default, address: 127.0.0.1, port: 10, labels: {cost-per-hour: "2.10"}}
`;
const cheap = "127.0.0.1:10";
const dear = "127.0.0.1:9";

function config(plugins: string, refs: string): string {
  return `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - {type: file-discovery, parameters: {path: ${path("endpoints.yaml")}}}
${plugins}
dataLayer: {discovery: {pluginRef: file-discovery}, injectDefaults: false}
schedulingProfiles: [{name: default, plugins: [${refs}]}]
`;
}

/** Values are imported from signalbox/plugin although nothing is installed beside the file. */
const difficultPlugins = `
import { isRejection, reject } from "signalbox/plugin";
if (isRejection({}) || typeof reject !== "function") throw new Error("not the picker's own contracts");
const scorer = (type, score) => ({ type, kinds: ["scorer"], create: () => ({ score }) });
export const throws = scorer("throws", () => { throw new Error("the plugin is broken"); });
export const cheapest = scorer("port-scorer", (_cycle, endpoints, scores) => {
  endpoints.forEach((endpoint, index) => { scores[index] = endpoint.port === 10 ? 1 : 0; });
});
export const never = {
  type: "never",
  kinds: ["data-producer"],
  create: () => ({ produce: () => new Promise(() => {}) }),
};
`;

interface Decision {
  readonly requestId: string;
  readonly profiles: unknown;
}

async function start(file: string, extra: readonly string[] = []): Promise<Child<EppPorts>> {
  return await startEppChild([`--config-file=${file}`, "--secure-serving=false", "--drain-timeout=0s", ...extra]);
}

function admin(child: Child<EppPorts>, route: string): Promise<Response> {
  return fetch(`http://127.0.0.1:${child.ready.metricsPort}${route}`);
}

beforeAll(() => writeFileSync(path("endpoints.yaml"), endpoints));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe("the example plugin", () => {
  let child: Child<EppPorts>;
  const configFile = path("config.yaml");
  const plugins = "  - {type: cheapest-first-scorer, module: ./cheapest-first-scorer.ts}";
  beforeAll(async () => {
    copyFileSync("examples/plugins/cheapest-first-scorer.ts", path("cheapest-first-scorer.ts"));
    writeFileSync(configFile, config(plugins, "{pluginRef: cheapest-first-scorer}"));
    child = await start(configFile);
  }, 30_000);
  afterAll(() => child.close());

  it("decides, and the decision log shows its scores", async () => {
    expect(await decide(child.ready.grpcPort, "first")).toEqual({ destination: cheap, refused: undefined });
    const [decision] = (await (await admin(child, "/debug/decisions/first")).json()) as Decision[];
    const text = JSON.stringify(decision);
    expect(text).toContain("cheapest-first-scorer");
    expect(text).toContain(cheap);
  });

  it("follows an edit of its own file, and keeps the last good one when the next is broken", async () => {
    const source = readFileSync(path("cheapest-first-scorer.ts"), "utf8");
    writeFileSync(
      path("cheapest-first-scorer.ts"),
      source.replace("(dearest - (scores[index] ?? 0))", "((scores[index] ?? 0) - cheapest)"),
    );
    await eventually(
      "the edited plugin decides",
      async () => (await decide(child.ready.grpcPort, "second")).destination === dear,
    );
    writeFileSync(path("cheapest-first-scorer.ts"), "export default { broken");
    await eventually("the broken edit is refused", async () => {
      const { faults } = (await (await admin(child, "/debug/config")).json()) as { faults: string[] };
      return faults[0]?.startsWith("plugins[1].module: ") ?? false;
    });
    expect((await decide(child.ready.grpcPort, "third")).destination).toBe(dear);
  });
});

describe("plugins that misbehave, in JavaScript", () => {
  let child: Child<EppPorts>;
  beforeAll(async () => {
    writeFileSync(path("difficult.js"), difficultPlugins);
    writeFileSync(path("package.json"), '{"type": "module"}');
    const plugins = ["throws", "port-scorer", "never"].map((type) => `  - {type: ${type}, module: ./difficult.js}`);
    const file = path("difficult.yaml");
    writeFileSync(file, config(plugins.join("\n"), "{pluginRef: throws, weight: 9}, {pluginRef: port-scorer}"));
    child = await start(file);
  }, 30_000);
  afterAll(() => child.close());

  it("lose only their own say: one that throws is logged once and counted each time, one that never answers is given up after 400 ms", async () => {
    const startedAt = performance.now();
    expect((await decide(child.ready.grpcPort, "a")).destination).toBe(cheap);
    const elapsedMs = performance.now() - startedAt;
    expect(elapsedMs).toBeGreaterThan(390);
    expect(elapsedMs).toBeLessThan(2_000);
    expect((await decide(child.ready.grpcPort, "b")).destination).toBe(cheap);
    const page = await (await admin(child, "/metrics")).text();
    const samples = page
      .split("\n")
      .filter(
        (line) => line.startsWith("llm_d_epp_plugin_errors_total") && line.includes('"throws"') && line.endsWith(" 2"),
      );
    expect(samples.length).toBeGreaterThan(0);
    expect(child.lines.filter((line) => line.includes("the plugin is broken"))).toHaveLength(1);
  });
});

it("the example type-checks in a project of its own against the declarations that the package ships", () => {
  const project = mkdtempSync(join(tmpdir(), "signalbox-types-"));
  try {
    const installed = join(project, "node_modules/signalbox");
    const tsc = (args: readonly string[], cwd: string) =>
      spawnSync(process.execPath, [join(process.cwd(), "node_modules/.bin/tsc"), ...args], { cwd, encoding: "utf8" });
    const build = tsc(["-p", "tsconfig.build.json", "--emitDeclarationOnly", "--outDir", join(installed, "dist")], ".");
    expect(build.stdout).toBe("");
    copyFileSync("package.json", join(installed, "package.json"));
    symlinkSync(join(process.cwd(), "node_modules/@types"), join(project, "node_modules/@types"));
    writeFileSync(join(project, "package.json"), '{"type": "module"}');
    for (const file of ["cheapest-first-scorer.ts", "tsconfig.json"]) {
      copyFileSync(`examples/plugins/${file}`, join(project, file));
    }
    expect(tsc(["-p", "."], project).stdout).toBe("");
    const wrong = readFileSync(join(project, "cheapest-first-scorer.ts"), "utf8").replace(
      "endpoint.labels",
      "endpoint.lables",
    );
    writeFileSync(join(project, "cheapest-first-scorer.ts"), wrong);
    expect(tsc(["-p", "."], project).stdout).toContain("Property 'lables' does not exist");
  } finally {
    rmSync(project, { recursive: true, force: true });
  }
}, 60_000);
