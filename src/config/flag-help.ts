/** The flags part of --help: grouped, aligned, at most 100 columns wide, each flag with its default. */
import { formatBytes, formatDuration } from "../scheduling/contracts.ts";
import type { FlagSpec, FlagTable } from "./flags.ts";

const width = 100;
const column = 38;

/** The default as it would be typed; "" for none. */
export function defaultText(spec: FlagSpec): string {
  switch (spec.type) {
    case "string":
      return spec.default === "" ? "" : JSON.stringify(spec.default);
    case "bool":
    case "int":
    case "number":
      return String(spec.default);
    case "duration":
      return formatDuration(spec.default);
    case "bytes":
      return formatBytes(spec.default);
    case "strings":
    case "ints":
      return spec.default.join(",");
    default:
      return spec satisfies never;
  }
}

/** Lines of at most `columns` characters, broken at blanks. */
export function wrapText(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return line === "" ? lines : [...lines, line];
}

/** Flags that are only accepted, or only refused, are left out. */
export function describeFlags(table: FlagTable): string {
  const groups = new Map<string, string[]>();
  for (const [name, spec] of Object.entries(table)) {
    if (spec.deprecated !== undefined || spec.refused !== undefined) continue;
    const placeholder = spec.type === "bool" ? "" : ` ${spec.placeholder ?? spec.type}`;
    const spelling = name.length === 1 ? `  -${name}` : `      --${name}`;
    const head = `${spec.short === undefined || name.length === 1 ? spelling : `  -${spec.short}, --${name}`}${placeholder}`;
    const shown = defaultText(spec);
    const lines = wrapText(
      `${spec.help}${choicesText(spec)}${shown === "" ? "" : ` (default ${shown})`}`,
      width - column,
    );
    const entry = head.length < column ? [head.padEnd(column) + (lines.shift() ?? "")] : [head];
    for (const line of lines) entry.push(" ".repeat(column) + line);
    const group = spec.group ?? "Flags";
    groups.set(group, [...(groups.get(group) ?? []), ...entry]);
  }
  return [...groups].map(([group, lines]) => `${group}:\n${lines.join("\n")}`).join("\n\n");
}

/** " One of a, b." for a flag with a set of values. */
export function choicesText(spec: FlagSpec): string {
  if (spec.type !== "string" || spec.oneOf === undefined) return "";
  return ` One of ${spec.oneOf.filter((choice) => choice !== "").join(", ")}.`;
}
