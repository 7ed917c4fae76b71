/**
 * Writes charts/CHART/README.md from its introduction in scripts/charts/ and the comments of its values, those of the shared library under `router`. With
 * --check nothing is written: it fails when a page differs, or when a value has no comment.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { isMap, isScalar, type Node, type Pair, parseDocument, type YAMLMap } from "yaml";

interface Row {
  readonly path: readonly string[];
  readonly fallback: string;
  readonly description: string;
}

const charts = ["signalbox", "signalbox-standalone"] as const;
const undescribed: string[] = [];

function keyOf(pair: Pair): string {
  return isScalar(pair.key) ? String(pair.key.value) : "";
}

/** The comment above a key. The library keeps the first key's with the map. */
function commentOf(pair: Pair, index: number, map: YAMLMap): string {
  const own = (pair.key as Node).commentBefore ?? (index === 0 ? map.commentBefore : undefined) ?? "";
  // A comment of the whole file, or of a group of keys, ends with an empty line.
  const last = own.split(/\n\s*\n/).at(-1) ?? "";
  return last
    .split("\n")
    .map((line) => line.trim())
    .join(" ")
    .trim();
}

function hasComments(map: YAMLMap): boolean {
  return map.items.some(
    (pair, index) => commentOf(pair, index, map) !== "" || (isMap(pair.value) && hasComments(pair.value)),
  );
}

/** A row for every value; a map without comments inside is a value itself. */
function rowsOf(map: YAMLMap, path: readonly string[]): readonly Row[] {
  return map.items.flatMap((pair, index) => {
    const inner = [...path, keyOf(pair)];
    const description = commentOf(pair, index, map);
    if (isMap(pair.value) && pair.value.items.length > 0 && hasComments(pair.value)) {
      const heading = description === "" ? [] : [{ path: inner, fallback: "", description }];
      return [...heading, ...rowsOf(pair.value, inner)];
    }
    const value: unknown = (pair.value as Node | null)?.toJSON() ?? null;
    if (description === "") undescribed.push(inner.join("."));
    return [{ path: inner, fallback: `\`${JSON.stringify(value)}\``, description }];
  });
}

function valuesOf(folder: string): YAMLMap {
  const { contents } = parseDocument(readFileSync(`${folder}/values.yaml`, "utf8"));
  if (!isMap(contents)) throw new Error(`${folder}/values.yaml is not a map`);
  return contents;
}

function merged(chart: string): readonly Row[] {
  const rows = new Map<string, Row>();
  for (const row of rowsOf(valuesOf("charts/signalbox-lib"), ["router"])) rows.set(row.path.join("."), row);
  for (const row of rowsOf(valuesOf(`charts/${chart}`), [])) rows.set(row.path.join("."), row);
  return [...rows.values()];
}

/** One table for each section; single values of a level stand together. */
function valuesText(chart: string): string {
  const rows = merged(chart);
  const sections = new Map<string, Row[]>();
  for (const row of rows) {
    const [first = "", second = "", third] = row.path;
    const isInside = first !== "router" ? row.path.length > 1 : third !== undefined || row.fallback === "";
    const section = first !== "router" ? first : isInside ? `router.${second}` : "router";
    sections.set(section, [...(sections.get(section) ?? []), row]);
  }
  return [...sections]
    .map(([section, members]) => {
      const intro = members.find((row) => row.path.join(".") === section && row.fallback === "");
      const lines = members
        .filter((row) => row !== intro)
        .map((row) => `| \`${row.path.join(".")}\` | ${row.fallback} | ${row.description.replaceAll("|", "\\|")} |`);
      const head = [`### ${section}`, ...(intro === undefined ? [] : ["", intro.description])];
      return [...head, "", "| value | default | meaning |", "| --- | --- | --- |", ...lines].join("\n");
    })
    .join("\n\n");
}

function pageOf(chart: string): string {
  return [
    `<!-- Written by scripts/gen-charts.ts from scripts/charts/${chart}.md, scripts/charts/compatibility.md and the charts' values.yaml. Run \`npm run gen\`. -->`,
    readFileSync(`scripts/charts/${chart}.md`, "utf8").trim(),
    readFileSync("scripts/charts/compatibility.md", "utf8").trim(),
    `## Values\n\n${valuesText(chart)}`,
    "",
  ].join("\n\n");
}

/** As the formatter would have it, which checks the page too. */
function formatted(path: string, markdown: string): string {
  const args = ["node_modules/.bin/biome", "format", `--stdin-file-path=${path}`];
  const run = spawnSync(process.execPath, args, { input: markdown, encoding: "utf8" });
  if (run.status !== 0) throw new Error(`biome cannot format ${path}: ${run.stderr}`);
  return run.stdout;
}

function readOr(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

for (const chart of charts) {
  const path = `charts/${chart}/README.md`;
  const text = formatted(path, pageOf(chart));
  if (!process.argv.includes("--check")) writeFileSync(path, text);
  else if (readOr(path) !== text) {
    console.error(`${path} is stale: run npm run gen`);
    process.exitCode = 1;
  }
}
if (undescribed.length > 0) {
  console.error(`values without a comment: ${[...new Set(undescribed)].join(", ")}`);
  process.exitCode = 1;
}
