/**
 * Writes the Grafana dashboard from scripts/dashboard/panels.ts to deploy/grafana, and it and the alert rules of deploy/prometheus into the charts, which
 * can read no file outside themselves. With --check nothing is written: it fails when a file differs.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parse, stringify } from "yaml";
import { type Panel, rows } from "./dashboard/panels.ts";

const chartFolders = ["charts/signalbox", "charts/signalbox-standalone"];
const columns = 24;
const width = 8;
const height = 7;
const source = { type: "prometheus", uid: "$datasource" };

function graph({ title, unit, description, queries }: Panel, id: number, x: number, y: number): object {
  return {
    id,
    type: "timeseries",
    title,
    description,
    datasource: source,
    gridPos: { x, y, w: width, h: height },
    fieldConfig: { defaults: { unit, min: 0, custom: { fillOpacity: 5, showPoints: "never" } }, overrides: [] },
    options: { legend: { displayMode: "list", placement: "bottom" }, tooltip: { mode: "multi", sort: "desc" } },
    targets: queries.map(({ expr, legend }, index) => ({
      refId: String.fromCharCode(65 + index),
      datasource: source,
      expr,
      legendFormat: legend,
    })),
  };
}

function layOut(): readonly object[] {
  const laid: object[] = [];
  let y = 0;
  for (const { title, panels } of rows) {
    laid.push({
      id: laid.length + 1,
      type: "row",
      title,
      collapsed: false,
      gridPos: { x: 0, y, w: columns, h: 1 },
      panels: [],
    });
    y++;
    for (const [index, panel] of panels.entries()) {
      const x = (index * width) % columns;
      laid.push(graph(panel, laid.length + 1, x, y));
      if (x + width === columns || index === panels.length - 1) y += height;
    }
  }
  return laid;
}

function variable(name: string, label: string, values: string): object {
  return {
    name,
    label,
    type: "query",
    datasource: source,
    query: { query: values, refId: name },
    refresh: 2,
    multi: true,
    includeAll: true,
    allValue: ".+",
    current: { text: "All", value: "$__all" },
    sort: 1,
  };
}

const dashboard = {
  uid: "signalbox",
  title: "Signalbox",
  description: "Endpoint pickers, what they decide, and the model servers that they choose among.",
  tags: ["signalbox", "inference"],
  schemaVersion: 39,
  editable: true,
  timezone: "",
  refresh: "30s",
  time: { from: "now-1h", to: "now" },
  templating: {
    list: [
      { name: "datasource", label: "Prometheus", type: "datasource", query: "prometheus" },
      variable("job", "Job", "label_values(llm_d_epp_info, job)"),
      variable("instance", "Picker", 'label_values(llm_d_epp_info{job=~"$job"}, instance)'),
    ],
  },
  panels: layOut(),
};

/** As the repository's formatter would leave it. */
function formatted(value: unknown): string {
  const biome = ["node_modules/.bin/biome", "format", "--stdin-file-path=signalbox.json"];
  const { status, stdout, stderr } = spawnSync(process.execPath, biome, {
    input: JSON.stringify(value),
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`the dashboard cannot be formatted: ${stderr}`);
  return stdout;
}

const dashboardText = formatted(dashboard);
const alerts = parse(readFileSync("deploy/prometheus/alerts.yaml", "utf8")) as { readonly spec: object };
const alertsText = `# Of deploy/prometheus/alerts.yaml.\n${stringify(alerts.spec, { lineWidth: 0 })}`;
type File = readonly [place: string, text: string];
const files: readonly File[] = [
  ["deploy/grafana/signalbox.json", dashboardText],
  ...chartFolders.flatMap((folder): readonly File[] => [
    [`${folder}/dashboards/signalbox.json`, dashboardText],
    [`${folder}/dashboards/alerts.yaml`, alertsText],
  ]),
];
for (const [place, text] of files) {
  const isCurrent = existsSync(place) && readFileSync(place, "utf8") === text;
  if (isCurrent) continue;
  if (process.argv.includes("--check")) {
    console.error(`${place} is stale (run npm run gen)`);
    process.exitCode = 1;
  } else {
    mkdirSync(dirname(place), { recursive: true });
    writeFileSync(place, text);
  }
}
