/** The part of docs/performance.md about Dynamo workers: ours and Dynamo's own code side by side, and the bars. */
import { bars } from "./bars.ts";
import { type FigureSpec, type Measurement, median, type Part } from "./measurement.ts";
import { cell, machine, number, type ReportInput, valuesOf, verdictOf } from "./report.ts";
import { kubernetesHeading } from "./report-kubernetes.ts";

export const dynamoHeading = "## Before Dynamo workers";

/** How many times better ours is: "2.1×"; below 1 it is worse. */
function ratio(figure: FigureSpec, ours: readonly number[], dynamo: readonly number[]): string {
  if (ours.length === 0 || dynamo.length === 0) return "–";
  const [mine, theirs] = [median(ours), median(dynamo)];
  const times = figure.isRate === true ? mine / theirs : theirs / mine;
  return Number.isFinite(times) ? `${times.toFixed(times < 10 ? 2 : 0)}×` : "–";
}

function row(input: ReportInput, measurement: Measurement, figure: FigureSpec): string {
  const [column] = input.columns;
  const ours = column === undefined ? [] : valuesOf(column, measurement, figure.name);
  const dynamo =
    column === undefined || figure.dynamo === undefined ? [] : valuesOf(column, measurement, figure.dynamo);
  const bar = bars.get(figure.name);
  const limit = bar === undefined ? "–" : `${bar.isLeast === true ? "≥" : "≤"} ${number(bar.limit, 0)} ${figure.unit}`;
  const verdict = verdictOf(figure, ours);
  const cells = [
    figure.unit === "" ? figure.title : `${figure.title}, ${figure.unit}`,
    limit,
    cell(ours, figure.digits),
    cell(dynamo, figure.digits),
    ratio(figure, ours, dynamo),
    verdict === "missed" ? "**missed**" : verdict,
  ];
  return `| ${cells.join(" | ")} |`;
}

export function dynamoPart(input: ReportInput): string {
  const rows = input.measurements.flatMap((measurement) =>
    measurement.figures.map((figure) => row(input, measurement, figure)),
  );
  return `${dynamoHeading}

What the picker does for Dynamo workers, measured in one process, and Dynamo 1.6.1's own code on the same work in the same run, called from its wheels (through Python, where it has no other door). Median of ${input.runs} runs, in brackets the least and the most of them; ${machine()}; ${input.date.toISOString().slice(0, 10)}, load average ${input.loadBefore.toFixed(1)} at the start.

| what | bar | Signalbox | Dynamo | ours is better by | verdict |
| --- | --- | --- | --- | --- | --- |
${rows.join("\n")}

- An insert is one block stored by one worker. Shared: 64 workers store the same blocks, as a popular prefix is; own: each stores blocks that nobody else has, so that every insert is a new entry somewhere in a table of over 100 MB, and the processor's caches and page tables are what is measured (on huge pages: \`GLIBC_TUNABLES=glibc.malloc.hugetlb=1\`, which a picker of many million blocks may be started with, too).
- Selection is choosing among 256 workers with eight requests each. Dynamo's figure is its selection service asked for a prompt shorter than a block, so that it neither hashes nor asks its index, through Python.
- A decision is what lies between a request's body and its headers: chat template and tokens, block hashes, selection over the workers, and the books of the request until it ends. Every prompt is new, of words that occur in this project's documentation. Dynamo's figure is Hugging Face's tokenizers, which its frontend uses, for the tokens alone.
- Recovery: a process serves tree dumps of 20 workers with 100,000 blocks each over the request plane, one event a block, as Dynamo's indexer dumps them; request plane, codec, ingest and index are the picker's own, and decisions of 4 KiB prompts are due every 5 ms in the same process. A decision's time counts from when it was due.
- Hit rates: one multi-turn trace (a minute in which 400 conversations begin, eight system prompts, workers that run five times as fast as a real engine), replayed in its own time through Dynamo's frontend in kv mode, and through Envoy, the picker and Dynamo's frontend in direct mode; four mocker workers with 2,048 blocks each (disaggregated: two of each kind), started anew for each. The workers' own counts of cached tokens say how much was found. Dynamo's frontend delays small writes until the one before is acknowledged (Nagle), so a client that keeps its connections waits up to 40 ms for a first token or an end; behind Envoy as \`deploy/dynamo/envoy.yaml\` has it, it does not.

\`\`\`sh
npm run bench -- --part dynamo                        # this part alone, and nothing else on the page changes
npm run bench -- --quick --only kv-index,kv-decoding  # some of it; writes nothing
npm run bench -- --only dynamo-recovery               # the recovery
npm run bench -- --only dynamo-hit-rate               # the hit rates
DYNAMO_PYTHON=/path/to/python npm run bench -- …      # an interpreter with the wheels, instead of what make dynamo installs
\`\`\`
`;
}

/** The page's three parts, in their order; each may be missing. */
export function splitPage(page: string): Readonly<Record<Part, string>> {
  const [rest, kubernetes] = splitAt(page, kubernetesHeading);
  const [picker, dynamo] = splitAt(rest, dynamoHeading);
  return { picker, dynamo, kubernetes };
}

function splitAt(page: string, heading: string): readonly [string, string] {
  if (page.startsWith(`${heading}\n`)) return ["", page];
  const at = page.indexOf(`\n${heading}\n`);
  return at < 0 ? [page, ""] : [`${page.slice(0, at).trimEnd()}\n`, page.slice(at + 1)];
}
