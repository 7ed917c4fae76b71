/**
 * Command-line flags as pflag spells them (`--flag value`, `--flag=value`, `--bool`, `--bool=false`, `-v 4`), each with an environment
 * equivalent: SIGNALBOX_ and the name in upper snake case; the command line wins. All faults are reported at once.
 */
import { formatDuration, parseBytes, parseDuration } from "../scheduling/contracts.ts";
import { didYouMean } from "./nearest-name.ts";

interface FlagBase {
  /** One sentence for --help, without the default. */
  readonly help: string;
  readonly group?: string;
  /** One letter, for `-v`. */
  readonly short?: string;
  /** Accepted, warned about and ignored: why. */
  readonly deprecated?: string;
  /** A fault when it is given a value: what to do instead. `{value}` stands for the value. */
  readonly refused?: string;
  /** Shown in place of the type in --help. */
  readonly placeholder?: string;
}

export type FlagSpec = FlagBase &
  (
    | { readonly type: "string"; readonly default: string; readonly oneOf?: readonly string[] }
    | { readonly type: "bool"; readonly default: boolean }
    | { readonly type: "int"; readonly default: number; readonly min?: number; readonly max?: number }
    | { readonly type: "number"; readonly default: number; readonly min?: number; readonly max?: number }
    /** Milliseconds. */
    | { readonly type: "duration"; readonly default: number; readonly minMs?: number }
    | { readonly type: "bytes"; readonly default: number; readonly min?: number }
    | { readonly type: "strings"; readonly default: readonly string[] }
    | { readonly type: "ints"; readonly default: readonly number[] }
  );

export type FlagTable = Readonly<Record<string, FlagSpec>>;

type ValueOf<Spec extends FlagSpec> = Spec["type"] extends "string"
  ? string
  : Spec["type"] extends "bool"
    ? boolean
    : Spec["type"] extends "strings"
      ? readonly string[]
      : Spec["type"] extends "ints"
        ? readonly number[]
        : number;

export type FlagValues<Table extends FlagTable> = { readonly [Name in keyof Table]: ValueOf<Table[Name]> };

export interface ParsedFlags<Table extends FlagTable> {
  readonly values: FlagValues<Table>;
  /** Names given on the command line or in the environment. */
  readonly given: ReadonlySet<string>;
  readonly warnings: readonly string[];
  readonly faults: readonly string[];
  readonly helpWanted: boolean;
  readonly positional: readonly string[];
}

export function environmentNameOf(flag: string): string {
  return `SIGNALBOX_${flag.replaceAll("-", "_").toUpperCase()}`;
}

/** What Kubernetes puts into SERVICE_PORT variables of every pod: a Service called "signalbox-grpc" would set --grpc-port. */
const serviceLink = /^(tcp|udp|sctp):\/\//;

type Reading = { readonly value: unknown } | { readonly fault: string };

function readNumber(text: string, spec: { readonly min?: number; readonly max?: number }, whole: boolean): Reading {
  const value = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value) || (whole && !Number.isSafeInteger(value))) {
    return { fault: `expected ${whole ? "a whole number" : "a number"}` };
  }
  if (spec.min !== undefined && value < spec.min) return { fault: `must be at least ${spec.min}` };
  if (spec.max !== undefined && value > spec.max) return { fault: `must be at most ${spec.max}` };
  return { value };
}

function readBool(text: string): Reading {
  if (["1", "t", "T", "true", "TRUE", "True"].includes(text)) return { value: true };
  if (["0", "f", "F", "false", "FALSE", "False"].includes(text)) return { value: false };
  return { fault: "expected true or false" };
}

function splitList(text: string): string[] {
  return text === "" ? [] : text.split(",").map((item) => item.trim());
}

function readValue(spec: FlagSpec, text: string): Reading {
  switch (spec.type) {
    case "string":
      if (spec.oneOf !== undefined && !spec.oneOf.includes(text))
        return { fault: `must be one of ${spec.oneOf.filter((choice) => choice !== "").join(", ")}` };
      return { value: text };
    case "bool":
      return readBool(text);
    case "int":
      return readNumber(text, spec, true);
    case "number":
      return readNumber(text, spec, false);
    case "duration": {
      const value = parseDuration(text);
      if (value === undefined) return { fault: 'expected a duration like "50ms", "30s" or "1m30s"' };
      if (value < (spec.minMs ?? 0)) return { fault: `must be at least ${formatDuration(spec.minMs ?? 0)}` };
      return { value };
    }
    case "bytes": {
      const value = parseBytes(text);
      if (value === undefined) return { fault: 'expected a number of bytes like "4194304" or "64Mi"' };
      if (value < (spec.min ?? 0)) return { fault: `must be at least ${spec.min}` };
      return { value };
    }
    case "strings":
      return { value: splitList(text) };
    case "ints": {
      const numbers = splitList(text).map((item) => readNumber(item, { min: 0 }, true));
      const fault = numbers.find((item) => "fault" in item);
      return fault ?? { value: numbers.map((item) => ("value" in item ? item.value : 0)) };
    }
    default:
      return spec satisfies never;
  }
}

/** Reads a command line (without program and command names) and the environment. Never throws: faults are in the result. */
export function parseFlags<const Table extends FlagTable>(
  table: Table,
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): ParsedFlags<Table> {
  const values: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(table)) values[name] = spec.default;
  const given = new Set<string>();
  const fromArgv = new Set<string>();
  const warnings: string[] = [];
  const faults: string[] = [];
  const positional: string[] = [];
  let helpWanted = false;

  const take = (name: string, spec: FlagSpec, text: string, shown: string): void => {
    if (spec.refused !== undefined) {
      if (text !== "") faults.push(`${shown} is not accepted: ${spec.refused.replaceAll("{value}", () => text)}`);
      return;
    }
    if (spec.deprecated !== undefined) warnings.push(`${shown} is deprecated: ${spec.deprecated}`);
    const reading = readValue(spec, text);
    if ("fault" in reading) {
      faults.push(`${shown}: invalid value ${JSON.stringify(text)}: ${reading.fault}`);
      return;
    }
    const isRepeatedList = fromArgv.has(name) && Array.isArray(reading.value);
    values[name] = isRepeatedList ? [...(values[name] as unknown[]), ...(reading.value as unknown[])] : reading.value;
    given.add(name);
  };

  for (const [name, spec] of Object.entries(table)) {
    const variable = environmentNameOf(name);
    const text = environment[variable];
    // Empty is unset: a manifest often passes a variable on that nobody filled in.
    if (text === undefined || text === "") continue;
    if (spec.type !== "string" && serviceLink.test(text)) {
      warnings.push(`${variable} is ignored: Kubernetes sets it for a Service of that name`);
      continue;
    }
    take(name, spec, text, variable);
  }

  const byShort = new Map(
    Object.entries(table).flatMap(([name, spec]) => (spec.short ? [[spec.short, name] as const] : [])),
  );
  for (let index = 0; index < argv.length; index++) {
    const argument = argv[index] ?? "";
    if (argument === "--") {
      positional.push(...argv.slice(index + 1));
      break;
    }
    if (argument === "--help" || argument === "-h") {
      helpWanted = true;
      continue;
    }
    let name: string | undefined;
    let text: string | undefined;
    if (argument.startsWith("--")) {
      const equals = argument.indexOf("=");
      name = equals < 0 ? argument.slice(2) : argument.slice(2, equals);
      text = equals < 0 ? undefined : argument.slice(equals + 1);
    } else if (argument.startsWith("-") && argument.length > 1) {
      name = byShort.get(argument.charAt(1));
      const rest = argument.slice(2);
      text = rest === "" ? undefined : rest.replace(/^=/, "");
    } else {
      positional.push(argument);
      continue;
    }
    const spec = name !== undefined && Object.hasOwn(table, name) ? table[name] : undefined;
    if (name === undefined || spec === undefined) {
      const known = Object.keys(table).filter((flag) => flag.length > 1);
      faults.push(`unknown flag: ${argument.split("=")[0]}${didYouMean(name ?? "", known, "--")}`);
      continue;
    }
    const shown = argument.startsWith("--") ? `--${name}` : argument.slice(0, 2);
    if (text === undefined) {
      if (spec.type === "bool") text = "true";
      else if (index + 1 < argv.length) text = argv[++index] ?? "";
      else {
        faults.push(`${shown}: needs a value`);
        continue;
      }
    }
    take(name, spec, text, shown);
    fromArgv.add(name);
  }
  return { values: values as FlagValues<Table>, given, warnings, faults, helpWanted, positional };
}
