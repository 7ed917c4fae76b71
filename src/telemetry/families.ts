/**
 * Metric families as accumulators that the hot path writes by index: a series is two or three numbers and a row of buckets, found once a
 * label set and kept. prom-client renders them when /metrics is read (RenderedFamily), in both name generations where there are two.
 */

export type FamilyType = "counter" | "gauge" | "histogram";

/** How a family is exposed: its name and which labels it shows. A label may be shown under another name. */
export interface Exposure {
  readonly name: string;
  readonly labels: readonly { readonly name: string; readonly from: number }[];
}

export interface FamilySpec {
  readonly type: FamilyType;
  readonly help: string;
  /** Label names of a series, in the order of its values. */
  readonly labels: readonly string[];
  /** Upper bounds without +Inf; [] for counters and gauges. */
  readonly buckets?: readonly number[];
  readonly exposures: readonly Exposure[];
}

/** One label set of one family. */
export class Series {
  readonly labelValues: readonly string[];
  readonly #bounds: readonly number[];
  /** Observations per bucket, the last being +Inf; not cumulative. */
  readonly bucketCounts: Float64Array;
  value = 0;
  count = 0;

  constructor(labelValues: readonly string[], bounds: readonly number[]) {
    this.labelValues = labelValues;
    this.#bounds = bounds;
    this.bucketCounts = new Float64Array(bounds.length === 0 ? 0 : bounds.length + 1);
  }

  add(amount: number): void {
    this.value += amount;
  }

  set(value: number): void {
    this.value = value;
  }

  observe(value: number): void {
    const bounds = this.#bounds;
    let low = 0;
    let high = bounds.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (value <= (bounds[middle] ?? 0)) high = middle;
      else low = middle + 1;
    }
    this.bucketCounts[low] = (this.bucketCounts[low] ?? 0) + 1;
    this.value += value;
    this.count++;
  }
}

export class Family {
  readonly spec: FamilySpec;
  readonly #bounds: readonly number[];
  readonly #series = new Map<string, Series>();

  constructor(spec: FamilySpec) {
    this.spec = spec;
    this.#bounds = spec.buckets ?? [];
  }

  /** The series of these label values, made on first use. Keep the result where it is written often. */
  series(...labelValues: readonly string[]): Series {
    const key = labelValues.join("\u0000");
    let series = this.#series.get(key);
    if (series === undefined) {
      series = new Series(labelValues, this.#bounds);
      this.#series.set(key, series);
    }
    return series;
  }

  all(): Iterable<Series> {
    return this.#series.values();
  }

  /** Forgets every series: for gauges that are rebuilt at each collection. */
  clear(): void {
    this.#series.clear();
  }
}

interface Sample {
  readonly value: number;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly metricName?: string;
}

/** What prom-client's Registry needs of a metric: a name and a get. */
export class RenderedFamily {
  readonly name: string;
  readonly #family: Family;
  readonly #exposure: Exposure;

  constructor(family: Family, exposure: Exposure) {
    this.#family = family;
    this.#exposure = exposure;
    this.name = exposure.name;
  }

  get(): Promise<unknown> {
    return Promise.resolve(this.#render());
  }

  #render(): { name: string; help: string; type: string; aggregator: "sum"; values: Sample[] } {
    const { spec } = this.#family;
    const values: Sample[] = [];
    for (const merged of this.#merged()) {
      if (spec.type !== "histogram") {
        values.push({ value: merged.value, labels: merged.labels });
        continue;
      }
      let cumulative = 0;
      for (const [index, bound] of (spec.buckets ?? []).entries()) {
        cumulative += merged.bucketCounts[index] ?? 0;
        values.push({ value: cumulative, labels: { ...merged.labels, le: bound }, metricName: `${this.name}_bucket` });
      }
      values.push({ value: merged.count, labels: { ...merged.labels, le: "+Inf" }, metricName: `${this.name}_bucket` });
      values.push({ value: merged.value, labels: merged.labels, metricName: `${this.name}_sum` });
      values.push({ value: merged.count, labels: merged.labels, metricName: `${this.name}_count` });
    }
    return { name: this.name, help: spec.help, type: spec.type, aggregator: "sum", values };
  }

  /** Series that differ only in labels this exposure hides are added up. */
  #merged(): Iterable<{ labels: Record<string, string>; value: number; count: number; bucketCounts: Float64Array }> {
    const byKey = new Map<
      string,
      { labels: Record<string, string>; value: number; count: number; bucketCounts: Float64Array }
    >();
    for (const series of this.#family.all()) {
      const labels: Record<string, string> = {};
      for (const { name, from } of this.#exposure.labels) labels[name] = series.labelValues[from] ?? "";
      const key = Object.values(labels).join("\u0000");
      const merged = byKey.get(key);
      if (merged === undefined) {
        byKey.set(key, { labels, value: series.value, count: series.count, bucketCounts: series.bucketCounts.slice() });
        continue;
      }
      merged.value += series.value;
      merged.count += series.count;
      for (let index = 0; index < merged.bucketCounts.length; index++) {
        merged.bucketCounts[index] = (merged.bucketCounts[index] ?? 0) + (series.bucketCounts[index] ?? 0);
      }
    }
    return byKey.values();
  }
}
