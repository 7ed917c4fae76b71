/**
 * Families → Prometheus text (version 0.0.4). A page may have tens of thousands of lines, so it is written in slices of about a millisecond
 * with the event loop let in between; one series is always written whole, so a histogram's buckets, sum and count agree.
 */
import type { Exposure, Family, FamilyType, Series } from "./families.ts";

const sliceMs = 1;
/** Series between two looks at the clock. */
const seriesPerLook = 16;

interface Total {
  value: number;
  count: number;
  readonly bucketCounts: Float64Array;
}

/** One family as it is shown: alone, or beside its namesakes of other pools, told apart by a label more. */
export interface ShownFamily {
  readonly family: Family;
  /** Undefined: the family is the only one of its name. */
  readonly pool: string | undefined;
}

/** The text of the families in order, every exposure of each. `now`: monotonic milliseconds. */
export async function renderFamilies(families: readonly Family[], now: () => number): Promise<string> {
  return await renderNamesakes(
    families.map((family) => [{ family, pool: undefined }]),
    now,
  );
}

/** The same where several families have one name: each group holds those of one specification, and is not empty. */
export async function renderNamesakes(groups: readonly (readonly ShownFamily[])[], now: () => number): Promise<string> {
  let page = "";
  let sliceEndsMs = now() + sliceMs;
  let untilLook = seriesPerLook;
  for (const group of groups) {
    const spec = group[0]?.family.spec;
    if (spec === undefined) continue;
    for (const exposure of spec.exposures) {
      const { type, help } = spec;
      page += `# HELP ${exposure.name} ${escapeHelp(help)}\n# TYPE ${exposure.name} ${type}\n`;
      const bucketTexts = (spec.buckets ?? []).map((bound) => `le="${bound}"} `);
      for (const [labels, total] of totalsOfAll(group, exposure)) {
        page += samplesOf(type, exposure.name, labels, total, bucketTexts);
        if (--untilLook > 0) continue;
        untilLook = seriesPerLook;
        if (now() < sliceEndsMs) continue;
        await new Promise((resolve) => setImmediate(resolve));
        sliceEndsMs = now() + sliceMs;
      }
    }
  }
  return page;
}

function* totalsOfAll(group: readonly ShownFamily[], exposure: Exposure): Iterable<readonly [string, Total]> {
  for (const { family, pool } of group) {
    const poolText = pool === undefined ? "" : `pool="${escapeLabel(pool)}"`;
    for (const [labels, total] of totalsOf(family, exposure)) {
      yield poolText === "" ? [labels, total] : [labels === "" ? poolText : `${poolText},${labels}`, total];
    }
  }
}

/** Label text → total. Series that differ only in labels this exposure hides are added up. */
function totalsOf(family: Family, exposure: Exposure): Iterable<readonly [string, Total]> {
  const { labels, spec } = { labels: exposure.labels, spec: family.spec };
  if (labels.length === spec.labels.length) return shown(family, exposure);
  const totals = new Map<string, Total>();
  for (const series of family.all()) {
    const text = labelText(exposure, series.labelValues);
    const total = totals.get(text);
    if (total === undefined) {
      totals.set(text, { value: series.value, count: series.count, bucketCounts: series.bucketCounts.slice() });
    } else {
      addTo(total, series);
    }
  }
  return totals;
}

function* shown(family: Family, exposure: Exposure): Iterable<readonly [string, Total]> {
  for (const series of family.all()) yield [labelText(exposure, series.labelValues), series];
}

function addTo(total: Total, series: Series): void {
  total.value += series.value;
  total.count += series.count;
  for (let index = 0; index < total.bucketCounts.length; index++) {
    total.bucketCounts[index] = (total.bucketCounts[index] ?? 0) + (series.bucketCounts[index] ?? 0);
  }
}

function samplesOf(
  type: FamilyType,
  name: string,
  labels: string,
  total: Total,
  bucketTexts: readonly string[],
): string {
  const braced = labels === "" ? " " : `{${labels}} `;
  if (type !== "histogram") return `${name}${braced}${numberText(total.value)}\n`;
  const opened = labels === "" ? `${name}_bucket{` : `${name}_bucket{${labels},`;
  let text = "";
  let cumulative = 0;
  for (let index = 0; index < bucketTexts.length; index++) {
    cumulative += total.bucketCounts[index] ?? 0;
    text += `${opened}${bucketTexts[index]}${cumulative}\n`;
  }
  text += `${opened}le="+Inf"} ${total.count}\n`;
  return `${text}${name}_sum${braced}${numberText(total.value)}\n${name}_count${braced}${total.count}\n`;
}

function labelText(exposure: Exposure, values: readonly string[]): string {
  let text = "";
  for (const { name, from } of exposure.labels) {
    text += `${text === "" ? "" : ","}${name}="${escapeLabel(values[from] ?? "")}"`;
  }
  return text;
}

function escapeLabel(value: string): string {
  return /[\\"\n]/.test(value) ? value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n") : value;
}

function escapeHelp(help: string): string {
  return help.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function numberText(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return "+Inf";
  if (value === Number.NEGATIVE_INFINITY) return "-Inf";
  return String(value);
}
