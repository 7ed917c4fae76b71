/** Every configuration that the documentation shows is one that loads, without a warning. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "@jest/globals";
import { load } from "./registry.ts";

const page = readFileSync("docs/configuration.md", "utf8");
const blocks = [...page.matchAll(/### ([^\n]+)\n[^#]*?```yaml\n([\s\S]*?)```/g)].map(
  ([, title = "", text = ""]) => [title, text] as const,
);

describe("docs/configuration.md", () => {
  it("begins with three examples", () => {
    expect(blocks.map(([title]) => title)).toEqual(["The least", "For production", "Sessions and LoRA adapters"]);
  });

  it.each(blocks)("shows a configuration that loads: %s", async (_title, text) => {
    expect((await load(text)).warnings).toEqual([]);
  });

  it("shows the default configuration first", async () => {
    expect((await load(blocks[0]?.[1])).profiles).toEqual((await load(undefined)).profiles);
  });
});

it("docs/dynamo.md shows a configuration that loads", async () => {
  const [, text] = /```yaml\n([\s\S]*?)```/.exec(readFileSync("docs/dynamo.md", "utf8")) ?? [];
  const config = await load(text);
  expect(config.warnings).toEqual([]);
  expect(config.discovery).toBe("dynamo-discovery");
});

it("examples/plugins holds a configuration that loads", async () => {
  const config = await load(readFileSync("examples/plugins/cheapest-first.yaml", "utf8"), "examples/plugins");
  expect(config.warnings).toEqual([]);
  expect(config.profiles[0]?.plugins.map(({ pluginRef }) => pluginRef)).toContain("cheapest-first-scorer");
});
