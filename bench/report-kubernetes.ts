/** The part of docs/performance.md about clusters: what was measured over a real API server, and the bars. */
import { bars } from "./bars.ts";
import type { FigureSpec, Measurement } from "./measurement.ts";
import { cell, machine, number, type ReportInput, valuesOf, verdictOf } from "./report.ts";

export const kubernetesHeading = "## In Kubernetes";

function row(input: ReportInput, measurement: Measurement, figure: FigureSpec): string {
  const [column] = input.columns;
  const values = column === undefined ? [] : valuesOf(column, measurement, figure.name);
  const bar = bars.get(figure.name);
  const verdict = verdictOf(figure, values);
  const cells = [
    `${figure.title}, ${figure.unit}`,
    bar === undefined ? "–" : `≤ ${number(bar.limit, 0)} ${figure.unit}`,
    cell(values, figure.digits),
    verdict === "missed" ? "**missed**" : verdict,
  ];
  return `| ${cells.join(" | ")} |`;
}

export function kubernetesPart(input: ReportInput): string {
  const rows = input.measurements.flatMap((measurement) =>
    measurement.figures.map((figure) => row(input, measurement, figure)),
  );
  return `${kubernetesHeading}

The picker over a real kube-apiserver and etcd on the same machine. Median of ${input.runs} runs, in brackets the least and the most of them; ${machine()}; ${input.date.toISOString().slice(0, 10)}, load average ${input.loadBefore.toFixed(1)} at the start.

| what | bar | Signalbox | verdict |
| --- | --- | --- | --- |
${rows.join("\n")}

- Pods are as large as those of engines are in a cluster, 9.6 kB of JSON each. Each has an address of its own, at which an engine serves metrics; all of them are scraped while the figures are taken.
- A readiness change counts from the API server's answer to whoever made it until the picker's decision for a request that may go to no other pod follows it, in the pool of 10,000.
- The start of the process counts from its spawning: Node's own start is in it. In the last row the process has been waiting for an API server that starts late.

\`\`\`sh
npm run bench -- --part kubernetes      # this part alone, and nothing else on the page changes
npm run bench -- --quick --only kubernetes-fleet
\`\`\`
`;
}
