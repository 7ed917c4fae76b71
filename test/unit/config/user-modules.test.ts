/** A plugin's file: how it is found, what is said of one that is wrong, and what its instances must be. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "@jest/globals";
import { ConfigError } from "../../../src/config/complete-config.ts";
import { instantiate } from "../../../src/config/instantiate.ts";
import { createEndpointStore } from "../../../src/data/endpoint-store.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { faultsOf, head, load } from "./registry.ts";

const folder = mkdtempSync(join(tmpdir(), "signalbox-modules-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
writeFileSync(join(folder, "package.json"), '{"type": "module"}');

let files = 0;
/** A configuration with one plugin of type `mine` in a file of this source. */
function withModule(source: string, options: { type?: string; extension?: string; parameters?: string } = {}): string {
  const name = `plugin-${files++}.${options.extension ?? "js"}`;
  writeFileSync(join(folder, name), source);
  const parameters = options.parameters === undefined ? "" : `, parameters: ${options.parameters}`;
  return `${head}plugins: [{type: ${options.type ?? "mine"}, module: ./${name}${parameters}}]`;
}

const definition = (members = "") => `{ type: "mine", kinds: ["scorer"], create: () => ({ score() {} }), ${members} }`;

async function instanceFaults(text: string): Promise<readonly string[]> {
  const config = await load(text, folder);
  const store = createEndpointStore(silentLogger);
  try {
    await instantiate(config, {
      source: "test.yaml",
      contextFor: (name) => ({
        name,
        log: silentLogger,
        endpoints: store,
        plugin: () => undefined,
        now: () => 0,
        random: () => 0,
      }),
      onCloseFault: () => {},
    });
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
}

describe("a plugin's file", () => {
  it.each([
    ["a default export", `export default ${definition()}`, "js"],
    ["a named export among others", `export const other = 1; export const x = ${definition()}`, "mjs"],
    [
      "one of several plugins",
      `export const a = { ...${definition()}, type: "b" }; export const b = ${definition()}`,
      "js",
    ],
    ["TypeScript", `const d: { type: string } & object = ${definition()}; export default d;`, "ts"],
  ])("may hold %s", async (_what, source, extension) => {
    const text = withModule(source, { extension });
    const { profiles, plugins } = await load(text, folder);
    expect(profiles[0]?.plugins[0]).toEqual({ pluginRef: "mine", weight: 1 });
    expect(plugins.find(({ name }) => name === "mine")?.definition).toMatchObject({
      summary: "",
      parameters: { type: "object" },
    });
    expect(await instanceFaults(text)).toEqual([]);
  });

  it("has its parameters checked and completed by its own schema", async () => {
    const source = `export default ${definition(
      'parameters: { type: "object", additionalProperties: false, properties: { size: { type: "integer", default: 3 } } }, validate: ({ size }) => size > 9 ? ["size: too large"] : []',
    )}`;
    const { plugins } = await load(withModule(source), folder);
    expect(plugins.find(({ name }) => name === "mine")?.parameters).toEqual({ size: 3 });
    expect(await faultsOf(withModule(source, { parameters: "{size: x, sise: 1}" }), folder)).toEqual([
      "plugins[0].parameters.sise: unknown key (did you mean size?); expected one of size",
      'plugins[0].parameters.size: "x" should be of type integer',
    ]);
    expect(await faultsOf(withModule(source, { parameters: "{size: 10}" }), folder)).toEqual([
      "plugins[0].parameters: size: too large",
    ]);
  });

  it("keeps its identity until its content changes, so that a reload keeps its instance", async () => {
    const text = withModule(`export default ${definition()}`);
    const identity = async () => (await load(text, folder)).plugins.find(({ name }) => name === "mine")?.definition;
    const first = await identity();
    expect(await identity()).toBe(first);
    writeFileSync(join(folder, `plugin-${files - 1}.js`), `export default ${definition("needs: []")}`);
    expect(await identity()).not.toBe(first);
  });

  it.each([
    [
      "nothing",
      "export {}",
      /plugin-\d+\.js exports no plugin: expected an object with `type`, `kinds` and `create\(parameters, context\)`$/,
    ],
    ["another type", `export default { ...${definition()}, type: "yours" }`, /exports plugin type yours, not mine$/],
    ["a syntax fault", "export default {", /cannot be loaded: SyntaxError: /],
    ["what throws", "throw new Error('not\\ntoday')", /cannot be loaded: Error: not today$/],
    ["an import of nothing", "import 'nowhere-at-all'", /cannot be loaded: .*nowhere-at-all/],
    [
      "no kinds",
      `export default { ...${definition()}, kinds: [] }`,
      /`kinds` lists what the plugin is, of screener, .*; it is empty$/,
    ],
    [
      "a kind that nothing calls yet",
      `export default { ...${definition()}, kinds: ["scorer", "route-rule"] }`,
      /; route-rule is not among them$/,
    ],
    [
      "a schema that is none",
      `export default ${definition('parameters: { type: "objekt" }')}`,
      /`parameters` is no valid JSON Schema: /,
    ],
    [
      "parameters that are no schema",
      `export default ${definition("parameters: 3")}`,
      /`parameters` should be a JSON Schema$/,
    ],
  ])("is refused when it holds %s", async (_what, source, expected) => {
    expect(await faultsOf(withModule(source), folder)).toEqual([expect.stringMatching(expected)]);
  });

  it("is refused when its own validate fails", async () => {
    const source = `export default ${definition('validate: () => { throw new Error("oh"); }')}`;
    expect(await faultsOf(withModule(source), folder)).toEqual([
      "plugins[0].parameters: the plugin's own validate failed: oh",
    ]);
  });

  it.each([
    ["no-such-producer", ["mine needs a no-such-producer, which is not a built-in plugin: add one to plugins"]],
    [
      "session-id-producer",
      ["plugin session-id-producer (added for mine).parameters: exactly one of headerName and cookieName is needed"],
    ],
    ["mine", ["plugins: mine needs mine: a cycle"]],
  ])("is refused when it needs %s", async (type, expected) => {
    expect(await faultsOf(withModule(`export default ${definition(`needs: ["${type}"]`)}`), folder)).toEqual(expected);
  });
});

describe("an instance is refused when", () => {
  it.each([
    ["create throws", 'create() { throw new Error("no GPU"); }', "plugin mine: cannot be created: no GPU"],
    ["create returns nothing", "create() {}", "plugin mine: create returned undefined, not an object"],
    [
      "create returns a promise",
      "create: async () => ({ score() {} })",
      "plugin mine: create returned a promise; it must return the plugin at once (a producer may wait in produce)",
    ],
    [
      "it lacks what its kind promises",
      "create: () => ({ scores() {} })",
      "plugin mine: is said to be a scorer, but what create returned has no method score",
    ],
  ])("%s", async (_when, create, expected) => {
    expect(await instanceFaults(withModule(`export default { ...${definition()}, ${create} }`))).toEqual([expected]);
  });

  it("producers each come after the other", async () => {
    const producer = (type: string, after: string) =>
      `export const ${type} = { type: "${type}", kinds: ["data-producer"], create: () => ({ after: ["${after}"], produce() {} }) };`;
    writeFileSync(join(folder, "pair.js"), `${producer("egg", "hen")}${producer("hen", "egg")}`);
    const text = `${head}plugins: [{type: egg, module: ./pair.js}, {type: hen, module: ./pair.js}]`;
    expect(await instanceFaults(text)).toEqual(["plugins: these producers each come after another of them: egg, hen"]);
  });
});

it.each(readdirSync("test/fixtures/configs"))("every plugin of %s is what its kinds promise", async (name) => {
  expect(await instanceFaults(readFileSync(`test/fixtures/configs/${name}`, "utf8"))).toEqual([]);
});
