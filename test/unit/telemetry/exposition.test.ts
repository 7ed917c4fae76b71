/** Whatever is in a label or a value, the page is one that a strict reader reads back. */
import { describe, expect, it } from "@jest/globals";
import { renderFamilies } from "../../../src/telemetry/exposition.ts";
import { Family } from "../../../src/telemetry/families.ts";
import fc from "../../properties.ts";
import { parsePage } from "./exposition-page.ts";

const labels = ["model", "tenant"];
const both = labels.map((name, from) => ({ name, from }));
const render = (families: readonly Family[]): Promise<string> => renderFamilies(families, () => 0);

function counter(name = "c_total"): Family {
  const exposures = [
    { name, labels: both },
    { name: `old_${name}`, labels: [{ name: "renamed", from: 1 }] },
  ];
  return new Family({ type: "counter", help: 'says "\\" and\nmore', labels, exposures });
}

describe("the text of a family", () => {
  it("reads back as the label values and values that went in", async () => {
    const name = fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom('a"b', "a\\", "\n", "\\n", '",x="'));
    const values = fc.uniqueArray(fc.tuple(name, name, fc.integer()), { selector: ([a, b]) => JSON.stringify([a, b]) });
    await fc.assert(
      fc.asyncProperty(values, async (series) => {
        // NUL separates label values inside: names of clients that hold one are folded before they get here.
        const usable = series.filter(([a, b]) => !a.includes("\u0000") && !b.includes("\u0000"));
        const family = counter();
        for (const [a, b, value] of usable) family.series(a, b).add(value);
        const samples = parsePage(await render([family])).get("c_total")?.samples ?? [];
        expect(samples.map((sample) => [sample.labels["model"], sample.labels["tenant"], sample.value])).toEqual(
          usable,
        );
      }),
      { numRuns: 200 },
    );
  });

  it("adds up what an exposure hides, under its other label name", async () => {
    const family = counter();
    family.series("a", "x").add(1);
    family.series("b", "x").add(2);
    family.series("a", "y").add(4);
    expect(parsePage(await render([family])).get("old_c_total")?.samples).toEqual([
      { name: "old_c_total", labels: { renamed: "x" }, value: 3 },
      { name: "old_c_total", labels: { renamed: "y" }, value: 4 },
    ]);
    expect([...family.all()].map(({ value }) => value)).toEqual([1, 2, 4]);
  });

  it("adds up histograms bucket by bucket, and leaves their series as they were", async () => {
    const exposures = [{ name: "h", labels: [] }];
    const family = new Family({ type: "histogram", help: "h", labels: ["x"], buckets: [0.5, 1], exposures });
    for (const [label, value] of [
      ["a", 0.5],
      ["b", 0.6],
      ["b", 2],
      ["a", -1],
    ] as const)
      family.series(label).observe(value);
    for (let again = 0; again < 2; again++) {
      const samples = parsePage(await render([family])).get("h")?.samples ?? [];
      expect(samples.map(({ name, labels: { le = "" }, value }) => [name + le, value])).toEqual([
        ["h_bucket0.5", 2],
        ["h_bucket1", 3],
        ["h_bucket+Inf", 4],
        ["h_sum", 2.1],
        ["h_count", 4],
      ]);
    }
  });

  it.each([
    [Infinity, Infinity],
    [-Infinity, -Infinity],
    [Number.NaN, Number.NaN],
    [1e300, 1e300],
    [-0.1, -0.1],
  ])("shows %d", async (value, shown) => {
    const family = counter();
    family.series("a", "b").set(value);
    expect(parsePage(await render([family])).get("c_total")?.samples[0]?.value).toBe(shown);
  });

  it.each([
    [0, 0],
    [2, 10],
  ])(
    "is written in slices when the clock moves %d ms a look, letting the event loop in %d times",
    async (stepMs, slices) => {
      const family = counter();
      for (let n = 0; n < 80; n++) family.series(`model-${n}`, `tenant-${n}`).add(1);
      let nowMs = 0;
      let turns = 0;
      let done = false;
      const turn = (): void => {
        turns++;
        if (!done) setImmediate(turn);
      };
      const page = renderFamilies([family], () => {
        nowMs += stepMs;
        return nowMs;
      });
      setImmediate(turn);
      expect(parsePage(await page).get("c_total")?.samples).toHaveLength(80);
      done = true;
      // 160 series in two exposures, a look at the clock every 16; the turn after the last slice may or may not come first.
      expect([slices, slices - 1]).toContain(turns);
    },
  );

  it("of a family without series is its announcement alone", async () => {
    const family = parsePage(await render([counter()])).get("c_total");
    expect(family).toEqual({ name: "c_total", type: "counter", help: 'says "\\\\" and\\nmore', samples: [] });
  });
});
