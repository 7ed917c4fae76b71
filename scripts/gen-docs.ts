/**
 * Writes docs/configuration.md from the configuration's schema, the flags and every registered plugin's definition, and docs/dynamo.md from its
 * template and the tables of Dynamo's variables, settings and metrics. With --check nothing is written: it fails when a page differs.
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createPluginRegistry } from "../src/app/plugins.ts";
import { type DynamoVariable, pickerVariables, standaloneVariables } from "../src/commands/epp-dynamo-variables.ts";
import { eppFlags } from "../src/commands/epp-flags.ts";
import { choicesText, defaultText } from "../src/config/flag-help.ts";
import { environmentNameOf, type FlagSpec } from "../src/config/flags.ts";
import { configSchema } from "../src/config/schema.ts";
import { settingSchemas } from "../src/prefill-router/settings/parameters.ts";
import type { Setting } from "../src/prefill-router/settings/setting.ts";
import { settingTable } from "../src/prefill-router/settings/setting-table.ts";
import type { PluginDefinition } from "../src/scheduling/contracts.ts";
import { createDynamoFamilies } from "../src/telemetry/dynamo-catalogue.ts";

const page = "docs/configuration.md";
const dynamoPage = "docs/dynamo.md";
const dynamoTemplate = "scripts/dynamo-page.md";
const introduction = "scripts/configuration-introduction.md";

type Schema = Readonly<Record<string, unknown>>;

const registry = createPluginRegistry();

/** Words of a schema; "" for what is none. */
function words(value: unknown): string {
  return typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);
}

function cell(text: string): string {
  return text.replaceAll("|", "\\|").replaceAll("\n", " ");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map(cell).join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

function typeOf(schema: Schema): string {
  const choices = schema["enum"];
  if (Array.isArray(choices)) return choices.map((choice) => `\`${String(choice)}\``).join(", ");
  if (schema["format"] === "duration") return "duration";
  if (schema["anyOf"] !== undefined) return "number or quantity";
  if (schema["const"] !== undefined) return `\`${words(schema["const"])}\``;
  if (schema["type"] === "array") return `list of ${typeOf((schema["items"] ?? {}) as Schema)}`;
  return words(schema["type"] ?? "any");
}

function boundsOf(schema: Schema): string {
  const bounds = [
    ["minimum", "≥"],
    ["exclusiveMinimum", ">"],
    ["maximum", "≤"],
  ].flatMap(([key = "", sign = ""]) => (schema[key] === undefined ? [] : [`${sign} ${words(schema[key])}`]));
  return bounds.length === 0 ? "" : ` (${bounds.join(", ")})`;
}

function isPlain(value: unknown): boolean {
  return value !== undefined && !(typeof value === "object" && JSON.stringify(value) === "{}");
}

/** One row for each property, those of nested objects and lists under dotted paths. */
function rowsOf(schema: Schema, path: string): string[][] {
  const properties = (schema["properties"] ?? {}) as Readonly<Record<string, Schema>>;
  const required = (schema["required"] ?? []) as readonly string[];
  return Object.entries(properties).flatMap(([key, property]) => {
    const name = path === "" ? key : `${path}.${key}`;
    const items = property["type"] === "array" ? ((property["items"] ?? {}) as Schema) : undefined;
    const fallback = property["default"];
    const shownDefault = required.includes(key)
      ? "required"
      : isPlain(fallback)
        ? `\`${JSON.stringify(fallback)}\``
        : "";
    const producer = property["x-producer"];
    const note = typeof producer === "string" ? ` Default: the only ${producer} configured.` : "";
    const deprecated = property["deprecated"] === true ? "Deprecated. " : "";
    const row = [
      `\`${name}\``,
      typeOf(property) + boundsOf(property),
      shownDefault,
      `${deprecated}${words(property["description"])}${note}`.replace("Deprecated. Deprecated", "Deprecated"),
    ];
    return [row, ...rowsOf(items ?? property, items === undefined ? name : `${name}[]`)];
  });
}

const settings = ["key", "type", "default", "meaning"];

function documentSection(): string {
  return `## EndpointPickerConfig\n\nEvery key there is; any other is refused. A \`null\` counts as absent.\n\n${table(settings, rowsOf(configSchema, ""))}`;
}

/** Kind → heading, in the order of a request's way. A plugin of several kinds stands under the first that matches. */
const headings: readonly (readonly [string, string])[] = [
  ["profile-handler", "Profile handlers"],
  ["filter", "Filters"],
  ["scorer", "Scorers"],
  ["picker", "Pickers"],
  ["data-producer", "Data producers"],
  ["saturation-detector", "Saturation detectors"],
  ["discovery", "Discovery"],
  ["data-source", "Data sources"],
  ["extractor", "Extractors"],
  ["parser", "Parsers"],
];

function pluginSection(definition: PluginDefinition): string {
  const rows = rowsOf(definition.parameters, "");
  const kinds = definition.kinds.length > 1 ? `\n\nKinds: ${definition.kinds.join(", ")}.` : "";
  const needs = (definition.needs ?? []).map((type) => `\`${type}\``).join(", ");
  const reads = needs === "" ? "" : `\n\nReads from ${needs}, created with defaults when the configuration has none.`;
  const parameters = rows.length === 0 ? "No parameters." : table(["parameter", ...settings.slice(1)], rows);
  return `#### \`${definition.type}\`\n\n${definition.summary}${kinds}${reads}\n\n${parameters}`;
}

function pluginsSection(): string {
  const left = new Set(registry.types);
  const sections = [...headings, ["", "Others"] as const].map(([kind, heading]) => {
    const types = [...left].filter((type) => {
      const kinds: readonly string[] = registry.get(type)?.kinds ?? [];
      // A detector that can also filter is looked for among detectors.
      if (kind === "filter" && kinds.includes("saturation-detector")) return false;
      return kind === "" || kinds.includes(kind);
    });
    for (const type of types) left.delete(type);
    const definitions = types.flatMap((type) => registry.get(type) ?? []);
    return definitions.length === 0 ? "" : `### ${heading}\n\n${definitions.map(pluginSection).join("\n\n")}`;
  });
  return ["## Plugins", ...sections.filter((section) => section !== "")].join("\n\n");
}

function renamedSection(): string {
  const rows = [...registry.deprecated].map(([type, { note }]) => [`\`${type}\``, note]);
  return `### Older type names\n\nAccepted with a warning.\n\n${table(["type", "now"], rows)}`;
}

function unbuiltSection(): string {
  const rows = [...registry.unbuilt]
    .filter(([type]) => registry.get(type) === undefined)
    .map(([type, waitsFor]) => [`\`${type}\``, waitsFor]);
  return `### Not built yet\n\nTypes of the reference picker that are refused at start, by name.\n\n${table(["type", "why"], rows)}`;
}

function flagsSection(): string {
  const groups = new Map<string, [string, FlagSpec][]>();
  for (const [name, spec] of Object.entries(eppFlags) as [string, FlagSpec][]) {
    const group = spec.refused === undefined ? (spec.group ?? "Other") : "Refused";
    groups.set(group, [...(groups.get(group) ?? []), [name, spec]]);
  }
  const sections = [...groups].map(([group, flags]) => {
    const rows = flags.map(([name, spec]) => {
      const shown = defaultText(spec);
      const meaning = spec.refused?.replace("{value}", "METRIC") ?? `${spec.help}${choicesText(spec)}`;
      return [
        `\`${name.length === 1 ? "-" : "--"}${name}\``,
        spec.placeholder ?? spec.type,
        shown === "" ? "" : `\`${shown}\``,
        meaning,
      ];
    });
    return `### ${group}\n\n${table(["flag", "value", "default", "meaning"], rows)}`;
  });
  const note = `Each flag has a variable: \`--drain-timeout\` is \`${environmentNameOf("drain-timeout")}\`; the flag wins.`;
  return [`## Flags of \`signalbox epp\`\n\n${note}`, ...sections].join("\n\n");
}

function variableTable(variables: readonly DynamoVariable[]): string {
  const rows = variables.map(({ name, fallback, meaning, noEffect }) => [
    `\`${name}\``,
    fallback,
    noEffect === undefined ? meaning : `${meaning} No effect${meaning.startsWith("In ") ? " else" : ""}: ${noEffect}.`,
  ]);
  return table(["variable", "default", "meaning"], rows);
}

function routerSettingsTable(): string {
  const known: Readonly<Record<string, Setting>> = settingTable;
  const rows = Object.entries(settingSchemas()).map(([name, schema]) => {
    const variables = (known[name]?.environment ?? []).map((variable) => `\`${variable}\``).join(", ");
    const fallback = schema["default"];
    const meaning = words(known[name]?.description ?? schema["description"]);
    return [
      `\`${name}\``,
      variables,
      typeOf(schema) + boundsOf(schema),
      fallback === undefined ? "" : `\`${JSON.stringify(fallback)}\``,
      schema["deprecated"] === true ? `Deprecated. ${meaning}` : meaning,
    ];
  });
  return table(["parameter", "variable", "type", "default", "meaning"], rows);
}

function metricsTable(): string {
  const rows = Object.values(createDynamoFamilies()).map(({ spec }) => [
    `\`${spec.exposures[0]?.name ?? ""}\``,
    spec.type,
    spec.labels.map((label) => `\`${label}\``).join(", "),
    spec.help,
  ]);
  return table(["metric", "type", "labels", "what"], rows);
}

/** The template with its tables. */
function dynamoText(): string {
  const tables: Readonly<Record<string, string>> = {
    "picker variables": variableTable(pickerVariables),
    "standalone variables": variableTable(standaloneVariables),
    "router settings": routerSettingsTable(),
    metrics: metricsTable(),
  };
  const note = `<!-- Written by scripts/gen-docs.ts from ${dynamoTemplate}. Run \`npm run gen\`. -->`;
  const text = readFileSync(dynamoTemplate, "utf8").replace(
    /\{\{(.+?)\}\}/g,
    (mark, name: string) => tables[name] ?? mark,
  );
  return `${note}\n\n${text}`;
}

const unformatted = [
  "<!-- Written by scripts/gen-docs.ts from the schema, the flags and the plugins; its first part is scripts/configuration-introduction.md. Run `npm run gen`. -->",
  readFileSync(introduction, "utf8").trim(),
  documentSection(),
  pluginsSection(),
  renamedSection(),
  unbuiltSection(),
  flagsSection(),
  "",
]
  .join("\n\n")
  .replace(/\n\n$/, "\n");

for (const [path, markdown] of [
  [page, unformatted],
  [dynamoPage, dynamoText()],
] as const) {
  const text = formatted(markdown);
  if (!process.argv.includes("--check")) writeFileSync(path, text);
  else if (readOr(path) !== text) {
    console.error(`${path} is stale: run npm run gen`);
    process.exitCode = 1;
  }
}

function readOr(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}

/** As the formatter would have it, which checks the page too. */
function formatted(markdown: string): string {
  const args = ["node_modules/.bin/biome", "format", `--stdin-file-path=${page}`];
  const run = spawnSync(process.execPath, args, { input: markdown, encoding: "utf8" });
  if (run.status !== 0) throw new Error(`biome cannot format ${page}: ${run.stderr}`);
  return run.stdout;
}
