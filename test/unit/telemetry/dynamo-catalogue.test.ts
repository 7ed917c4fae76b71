/** The families that Dynamo has too, against what its own frontend shows. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "@jest/globals";
import { createDynamoFamilies, logBuckets } from "../../../src/telemetry/dynamo-catalogue.ts";
import { createMetrics } from "../../../src/telemetry/metrics.ts";

interface Recorded {
  readonly type: string;
  readonly labels: readonly string[];
  readonly buckets?: readonly string[];
}

const recorded = (
  JSON.parse(readFileSync(join(import.meta.dirname, "../../fixtures/dynamo/router-metrics.json"), "utf8")) as {
    readonly families: Readonly<Record<string, Recorded>>;
  }
).families;

const ours = new Map(
  Object.values(createDynamoFamilies()).map(({ spec }) => [spec.exposures[0]?.name ?? "", spec] as const),
);

/** Which process counts: Prometheus' own `instance` label says so of a picker. */
const ofTheProcess = new Set(["router_id", "worker_id"]);

describe("Dynamo's metric families", () => {
  const shared = Object.entries(recorded).filter(([name]) => ours.has(name));

  it("are most of those that Dynamo's router has", () => {
    expect(shared.length).toBeGreaterThanOrEqual(9);
  });

  it.each(shared)("%s has Dynamo's type, labels and buckets", (name, { type, labels, buckets }) => {
    const spec = ours.get(name);
    expect(spec?.type).toBe(type);
    expect([...(spec?.labels ?? [])].sort()).toEqual(labels.filter((label) => !ofTheProcess.has(label)));
    expect(spec?.buckets?.map(String)).toEqual(buckets);
  });

  it("have names of their own", () => {
    expect(ours.size).toBe(Object.keys(createDynamoFamilies()).length);
  });

  it("stay off the page until something is counted", async () => {
    const metrics = createMetrics({ streamMetrics: false, version: "1" });
    expect(await metrics.render()).not.toContain("dynamo_");
    metrics.dynamo.cachedTokens.series("tiny").observe(0);
    expect(await metrics.render()).toContain('dynamo_epp_cached_tokens_bucket{model="tiny",le="0"} 1');
  });
});

describe("logarithmic buckets", () => {
  it.each([
    // Of dynamo_frontend_request_duration_seconds and dynamo_frontend_output_sequence_tokens.
    [1, 512, 10, [0, 2, 4, 8, 16, 32, 64, 130, 260, 510]],
    [50, 32_000, 10, [0, 100, 210, 430, 880, 1800, 3700, 7600, 16_000, 32_000]],
  ] as const)("from %d to %d in %d steps are Dynamo's", (least, most, count, expected) => {
    expect(logBuckets(least, most, count)).toEqual(expected);
  });
});
