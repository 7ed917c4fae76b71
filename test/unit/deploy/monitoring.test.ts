/** The Grafana dashboard and the alert rules of deploy/: every expression is PromQL, and asks for metrics that the picker shows under labels that they have. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "@jest/globals";
import { parser } from "@prometheus-io/lezer-promql";
import { parse } from "yaml";
import { createFamilies } from "../../../src/telemetry/catalogue.ts";
import { createMetrics } from "../../../src/telemetry/metrics.ts";

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: { readonly severity: string };
  readonly annotations: { readonly summary: string; readonly description: string };
}

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
}

const { panels } = JSON.parse(readFileSync("deploy/grafana/signalbox.json", "utf8")) as {
  readonly panels: readonly Panel[];
};
const { spec } = parse(readFileSync("deploy/prometheus/alerts.yaml", "utf8")) as {
  readonly spec: { readonly groups: readonly { readonly rules: readonly Rule[] }[] };
};
const rules = spec.groups.flatMap((group) => group.rules);
const expressions = [
  ...panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title, expr }))),
  ...rules.map(({ alert, expr }) => ({ title: alert, expr })),
];

/** Every name that a page of the picker can hold, with its labels; those that Prometheus itself gives a scrape are in all of them. */
async function shown(): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const scraped = ["job", "instance", "namespace"];
  const names = new Map<string, ReadonlySet<string>>();
  for (const { spec: family } of Object.values(createFamilies())) {
    for (const { name, labels } of family.exposures) {
      const all = [...labels.map((label) => label.name), ...scraped];
      const suffixes = family.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
      for (const suffix of suffixes) names.set(name + suffix, new Set(suffix === "_bucket" ? [...all, "le"] : all));
    }
  }
  const page = await createMetrics({ streamMetrics: true, version: "0" }).render();
  for (const [, name = ""] of page.matchAll(/^((?:process|nodejs)_\w+)/gm)) names.set(name, new Set(scraped));
  return names;
}

interface Parsed {
  readonly faults: readonly string[];
  readonly metrics: readonly string[];
  readonly labels: readonly string[];
}

function read(expr: string): Parsed {
  const text = expr.replaceAll("$__rate_interval", "5m");
  const faults: string[] = [];
  const metrics: string[] = [];
  const labels: string[] = [];
  parser.parse(text).iterate({
    enter({ type, from, to }) {
      if (type.isError) faults.push(`${text.slice(0, from)}<here>${text.slice(from)}`);
      if (type.name === "Identifier") metrics.push(text.slice(from, to));
      if (type.name === "LabelName") labels.push(text.slice(from, to));
    },
  });
  return { faults, metrics, labels };
}

describe.each(expressions)("$title: $expr", ({ expr }) => {
  it("is PromQL about metrics of the catalogue and labels of theirs", async () => {
    const { faults, metrics, labels } = read(expr);
    expect(faults).toEqual([]);
    expect(metrics.length).toBeGreaterThan(0);
    const known = await shown();
    expect(metrics.filter((metric) => !known.has(metric))).toEqual([]);
    const theirs = new Set(metrics.flatMap((metric) => [...(known.get(metric) ?? [])]));
    expect(labels.filter((label) => !theirs.has(label))).toEqual([]);
  });
});

describe("the reader of expressions", () => {
  it.each([
    ["sum(rate(a[5m])", "an open parenthesis"],
    ["a{b=}", "a matcher without a value"],
    ["rate(a[5 minutes])", "a duration that is none"],
  ])("finds a fault in %s: %s", (expr) => {
    expect(read(expr).faults).not.toEqual([]);
  });

  it("finds names of metrics and labels", () => {
    expect(read('sum by (c) (rate(a{b="x"}[5m])) / d')).toEqual({
      faults: [],
      metrics: ["a", "d"],
      labels: ["c", "b"],
    });
  });
});

describe("the dashboard", () => {
  it("gives each panel an id and a place of its own", () => {
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    for (const [index, { gridPos: a }] of panels.entries()) {
      for (const { gridPos: b } of panels.slice(index + 1)) {
        const apart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
        expect({ a, b, apart }).toMatchObject({ apart: true });
      }
      expect(a.x + a.w).toBeLessThanOrEqual(24);
    }
  });

  it("names in legends only labels that the query leaves", () => {
    for (const { targets = [] } of panels) {
      for (const { expr, legendFormat } of targets) {
        const named = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label = ""]) => label);
        const kept = /\bby \(([^)]*)\)/.exec(expr)?.[1]?.split(", ");
        if (kept !== undefined) expect(kept).toEqual(expect.arrayContaining(named));
      }
    }
  });
});

describe("the alert rules", () => {
  it("have names of their own, a severity and words for whoever is woken", () => {
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
    for (const { alert, labels, annotations } of rules) {
      expect(alert).toMatch(/^Signalbox[A-Z]/);
      expect(["critical", "warning"]).toContain(labels.severity);
      expect(annotations.description.length).toBeGreaterThan(40);
    }
  });
});
