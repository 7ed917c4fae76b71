/** What a subcommand is: its name, its flags, its help, and a run that resolves to the exit code. */
import { describeFlags, wrapText } from "../config/flag-help.ts";
import { environmentNameOf, type FlagTable, type FlagValues, parseFlags } from "../config/flags.ts";

export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  run(argv: readonly string[], environment: Environment): Promise<number>;
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** Settings after variables of a peer were read into them. */
export interface Adapted<Values = unknown> {
  readonly values: Values;
  readonly warnings: readonly string[];
  readonly faults: readonly string[];
}

export interface CommandSpec<Table extends FlagTable> {
  readonly name: string;
  readonly summary: string;
  /** Paragraphs after the usage line. */
  readonly description: string;
  readonly examples: readonly string[];
  readonly flags: Table;
  /** Reads variables of a peer whose place the command takes. `given`: flags that were given, which go before them. */
  adapt?(values: FlagValues<Table>, given: ReadonlySet<string>, environment: Environment): Adapted<FlagValues<Table>>;
  /** Faults a single flag cannot show, e.g. two that exclude each other. */
  validate?(values: FlagValues<Table>, given: ReadonlySet<string>): readonly string[];
  run(values: FlagValues<Table>, given: ReadonlySet<string>, warnings: readonly string[]): Promise<number>;
}

/** Exit codes: 0 done, 1 failed at run time, 2 unusable command line or configuration. */
export const exitCode = { ok: 0, failed: 1, usage: 2 } as const;

function environmentNote(flags: FlagTable): readonly string[] {
  const name = Object.keys(flags).find((flag) => flag.includes("-")) ?? Object.keys(flags)[0] ?? "";
  return [
    `Every flag has a variable: --${name} is ${environmentNameOf(name)}. The flag wins.`,
    "Values: durations like 50ms, 30s, 1m30s; bytes like 4194304, 64Mi; lists by commas or by repeating",
    "the flag; --flag alone is true, --flag=false is false.",
    "Exit codes: 0 done, 1 failed while running, 2 unusable command line or configuration.",
  ];
}

export function defineCommand<const Table extends FlagTable>(spec: CommandSpec<Table>): Command {
  const help = [
    `Usage: signalbox ${spec.name} [flags]`,
    "",
    ...spec.description.split("\n").flatMap((paragraph) => (paragraph === "" ? [""] : wrapText(paragraph, 100))),
    "",
    "Examples:",
    ...spec.examples.map((example) => `  ${example}`),
    "",
    describeFlags(spec.flags),
    "",
    ...environmentNote(spec.flags),
  ].join("\n");
  return {
    name: spec.name,
    summary: spec.summary,
    async run(argv, environment) {
      const parsed = parseFlags(spec.flags, argv, environment);
      if (parsed.helpWanted) {
        process.stdout.write(`${help}\n`);
        return exitCode.ok;
      }
      const unchanged = { values: parsed.values, warnings: [], faults: [] };
      const adapted = spec.adapt?.(parsed.values, parsed.given, environment) ?? unchanged;
      const early = [
        ...parsed.faults,
        ...parsed.positional.map((argument) => `unexpected argument ${JSON.stringify(argument)}`),
        ...adapted.faults,
      ];
      const faults = early.length > 0 ? early : (spec.validate?.(adapted.values, parsed.given) ?? []);
      if (faults.length > 0) {
        for (const fault of faults) process.stderr.write(`signalbox ${spec.name}: ${fault}\n`);
        process.stderr.write(`See signalbox ${spec.name} --help.\n`);
        return exitCode.usage;
      }
      return await spec.run(adapted.values, parsed.given, [...parsed.warnings, ...adapted.warnings]);
    },
  };
}
