/** docs/performance.md from the medians of a run: machine, bars and results, how to repeat it. */
import { execFileSync } from "node:child_process";
import { cpus, loadavg, totalmem } from "node:os";
import { bars, meets, referenceOnly } from "./bars.ts";
import { type FigureSpec, type Measurement, median, type Run } from "./measurement.ts";

export interface Column {
  readonly name: string;
  /** Runs by measurement. */
  readonly runs: ReadonlyMap<string, readonly Run[]>;
}

export interface ReportInput {
  readonly measurements: readonly Measurement[];
  readonly columns: readonly Column[];
  readonly runs: number;
  readonly seconds: number;
  readonly loadBefore: number;
  /** Of the processes whose latency was measured. */
  readonly nice: number;
  readonly date: Date;
}

export function valuesOf(column: Column, measurement: Measurement, figure: string): number[] {
  return (column.runs.get(measurement.name) ?? [])
    .map((run) => run[figure])
    .filter((value): value is number => value !== undefined);
}

export function number(value: number, digits: number): string {
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** "median (least to most)". */
export function cell(values: readonly number[], digits: number): string {
  if (values.length === 0) return "–";
  const middle = number(median(values), digits);
  if (values.length === 1) return middle;
  return `${middle} (${number(Math.min(...values), digits)} to ${number(Math.max(...values), digits)})`;
}

export type Verdict = "met" | "missed" | "–";

export function verdictOf(figure: FigureSpec, values: readonly number[]): Verdict {
  const bar = bars.get(figure.name);
  if (bar === undefined || values.length === 0) return "–";
  return meets(bar, median(values)) ? "met" : "missed";
}

function row(input: ReportInput, measurement: Measurement, figure: FigureSpec): string {
  const bar = bars.get(figure.name);
  const limit = bar === undefined ? "–" : `≤ ${number(bar.limit, 0)} ${figure.unit}`;
  const cells = input.columns.map((column) => cell(valuesOf(column, measurement, figure.name), figure.digits));
  const [ours] = input.columns;
  const verdict = ours === undefined ? "–" : verdictOf(figure, valuesOf(ours, measurement, figure.name));
  const reference = bar?.reference ?? referenceOnly.get(figure.name) ?? "–";
  const columns = [
    `${figure.title}, ${figure.unit}`,
    limit,
    ...cells,
    verdict === "missed" ? "**missed**" : verdict,
    reference,
  ];
  return `| ${columns.join(" | ")} |`;
}

export function machine(): string {
  const [first] = cpus();
  const kernel = execFileSync("uname", ["-sr"], { encoding: "utf8" }).trim();
  const memory = Math.round(totalmem() / 2 ** 30);
  return `${cpus().length} × ${first?.model.trim() ?? "unknown"}, ${memory} GiB, ${kernel}, Node ${process.version}`;
}

export function report(input: ReportInput): string {
  const header = ["what", "bar", ...input.columns.map((column) => column.name), "verdict", "reference ¹"];
  const rows = input.measurements.flatMap((measurement) =>
    measurement.figures.map((figure) => row(input, measurement, figure)),
  );
  return `# Performance

Written by \`npm run bench\`; do not edit. Median of ${input.runs} runs, in brackets the least and the most of them.

- Machine: ${machine()}.
- ${input.date.toISOString().slice(0, 10)}, ${Math.round(input.seconds)} s. Load average ${input.loadBefore.toFixed(1)} at the start, ${(loadavg()[0] ?? 0).toFixed(1)} at the end (the benchmark itself is about 2): what is more came from others on the machine, and latencies suffer from it more than CPU figures.
- ${input.nice === 0 ? "Everything was measured at the usual priority." : `Latencies were measured at nice ${input.nice}, so that others on the machine do not stand in the way; CPU and memory at the usual priority.`}
- The picker runs on one core, plaintext, default configuration, 4 endpoints with metrics pages of 42 KB scraped every 50 ms; the load client runs on another core.
- CPU is that of all threads of the picker's process, from \`/proc/PID/task/*/schedstat\`; scraping and garbage collection are in it.

| ${header.join(" | ")} |
| ${header.map(() => "---").join(" | ")} |
${rows.join("\n")}

¹ The reference picker (llm-d-router, Go), measured apart from this run with a client of the same kind on a machine of this kind, the cost of its page parsing taken off. Not from this run: \`PEER_EPP\` measures it, or any other picker, beside ours.

## What a stream is

Twelve request headers, the body in messages of 64 KiB at most and an empty last one, the header reply and the body replies; the answer's headers, its events of about 220 bytes one at a time, each after the echo of the one before, and the empty last one; then a reset, as Envoy ends it. Two events unless said otherwise; 32 streams at once on 2 connections.
Bodies are the same in every stream except where they are said to be new. Called by Istio: the call names a cluster (outbound|9002||…) as its authority, which node refuses, so that its bytes go through a filter in JavaScript on their way to the HTTP/2 library. Decisions per second and core is what one core does when it runs nothing else. A held stream has its body routed and its answer's headers through. Time added through Envoy is the percentile with the picker less the percentile of the same Envoy without it, both under load at once, everything on the same cores.

## The load client

\`bench/load\` speaks HTTP/2 on raw sockets with pre-encoded messages and costs less than any picker: 25 to 31 µs of its own per 4 KiB stream and 79 to 88 µs per 64 KiB stream, where a native client (C, libnghttp2) took 21 to 24 and 57 to 61 in the same minutes. The two charge the picker alike: 109 to 123 µs against 104 to 152 for 4 KiB, 289 to 310 against 251 to 262 for 64 KiB.

## To repeat it

\`\`\`sh
make bench                                   # everything, about ten minutes; rewrites this page
npm run bench -- --quick                     # one short run of each; writes nothing
npm run bench -- --only stream,sse           # some of it; writes nothing
sudo npm run bench -- --nice=-15             # latencies on a machine that others use, too
PEER_EPP=/path/to/epp npm run bench          # another picker beside ours (reference's flags; PEER_EPP_ARGS replaces them)
\`\`\`
`;
}

/** The same rows for a terminal. */
export function summary(input: ReportInput): string {
  const lines: string[] = [];
  for (const measurement of input.measurements) {
    for (const figure of measurement.figures) {
      const bar = bars.get(figure.name);
      const cells = input.columns.map((column) => cell(valuesOf(column, measurement, figure.name), figure.digits));
      const [ours] = input.columns;
      const verdict = ours === undefined ? "–" : verdictOf(figure, valuesOf(ours, measurement, figure.name));
      const limit = bar === undefined ? "" : `  bar ${number(bar.limit, 0)}: ${verdict}`;
      const dynamo =
        figure.dynamo === undefined || ours === undefined ? [] : valuesOf(ours, measurement, figure.dynamo);
      const theirs = dynamo.length === 0 ? "" : `  Dynamo ${cell(dynamo, figure.digits)}`;
      lines.push(`${figure.title.padEnd(52)} ${figure.unit.padEnd(4)} ${cells.join("   ")}${theirs}${limit}`);
    }
  }
  return lines.join("\n");
}
