/** What a release must not exceed, and what the reference picker was measured at on a machine of this kind. A bar is never moved to fit a result. */

export interface Bar {
  readonly limit: number;
  /** The figure must not be below the limit; without this, not above. */
  readonly isLeast?: true;
  /** The reference picker's figure, measured apart from this run; undefined where there is none. */
  readonly reference?: string;
}

/** By the name of a figure. */
export const bars: ReadonlyMap<string, Bar> = new Map([
  ["stream-4k-cpu", { limit: 110, reference: "326 (295 at its leanest settings)" }],
  ["stream-64k-cpu", { limit: 350, reference: "1,920" }],
  ["stream-400k-cpu", { limit: 2_000, reference: "10,800" }],
  ["sse-chunk-cpu", { limit: 5, reference: "8" }],
  ["open-loop-p99", { limit: 3, reference: "19 to 32" }],
  ["scrape-cpu", { limit: 60, reference: "1,500" }],
  ["scrape-100-share", { limit: 12, reference: "300 (three cores)" }],
  ["held-1000-resident", { limit: 250, reference: "739" }],
  ["envoy-4k-p99", { limit: 4, reference: "10" }],
  ["envoy-64k-p99", { limit: 8, reference: "44" }],
  ["kv-insert-shared", { limit: 10, isLeast: true }],
  ["kv-match-shared", { limit: 10 }],
  ["kv-block-bytes", { limit: 64 }],
  ["recovery-msgpack-seconds", { limit: 10 }],
  ["recovery-msgpack-p99", { limit: 20 }],
  ["decision-4k-cpu", { limit: 300 }],
  ["decision-4000-cpu", { limit: 1_200 }],
  ["selection-256-cpu", { limit: 50 }],
  ["selection-256-shrinking-cpu", { limit: 50 }],
  ["fleet-ready-seconds", { limit: 10 }],
  ["fleet-resident", { limit: 300 }],
  ["readiness-p99", { limit: 100 }],
  ["cold-start-seconds", { limit: 2 }],
  ["late-server-seconds", { limit: 2 }],
]);

export function meets(bar: Bar, value: number): boolean {
  return bar.isLeast === true ? value >= bar.limit : value <= bar.limit;
}

/** Figures of the reference without a bar of ours. */
export const referenceOnly: ReadonlyMap<string, string> = new Map([
  ["stream-4k-rate", "3,000"],
  ["stream-64k-rate", "500 to 534"],
  ["stream-400k-rate", "93"],
  ["open-loop-p50", "0.32 to 0.39"],
  ["envoy-4k-p50", "1.4"],
  ["envoy-64k-p50", "8.4"],
]);
