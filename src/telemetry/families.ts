/**
 * Metric families as accumulators that the hot path writes by index: a series is two or three numbers and a row of buckets, found once a
 * label set and kept. They become text when /metrics is read (exposition.ts), in both name generations where there are two.
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

  get size(): number {
    return this.#series.size;
  }

  /** Forgets every series: for gauges that are rebuilt at each collection. */
  clear(): void {
    this.#series.clear();
  }

  /** Forgets the series that `isKept` says no to. Who kept one of them writes into nothing afterwards. */
  prune(isKept: (labelValues: readonly string[]) => boolean): void {
    for (const [key, series] of this.#series) {
      if (!isKept(series.labelValues)) this.#series.delete(key);
    }
  }
}
