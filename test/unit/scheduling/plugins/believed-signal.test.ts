import { describe, expect, it } from "@jest/globals";
import type { Endpoint } from "../../../../src/scheduling/contracts.ts";
import { readSignal, scoreLowest } from "../../../../src/scheduling/plugins/scorers/believed-signal.ts";
import { cycle, endpoint } from "../cycle-fixtures.ts";

function aged(slot: number, waiting: number, updatedAtMs: number): Endpoint {
  const made = endpoint(slot, { waiting });
  return { ...made, metrics: { ...made.metrics, updatedAtMs } };
}

const at = (nowMs: number) => cycle({}, undefined, nowMs);

describe("engine signals by their age", () => {
  it("are taken as they are up to the staleness threshold", () => {
    const values = new Float64Array(2);
    expect(readSignal(at(12_000), [aged(0, 4, 10_000), aged(1, 8, 11_000)], "waitingRequests", values)).toBe(true);
    expect([...values]).toEqual([4, 8]);
  });

  it("fade toward the candidates' mean beyond it, and never jump", () => {
    const values = new Float64Array(2);
    const endpoints = [aged(0, 0, 10_000), aged(1, 8, 100_000)];
    let last = 0;
    for (let nowMs = 12_000; nowMs < 30_000; nowMs += 100) {
      readSignal(at(nowMs), endpoints, "waitingRequests", values);
      const value = values[0] ?? Number.NaN;
      expect(value).toBeGreaterThanOrEqual(last);
      expect(value - last).toBeLessThan(0.2);
      last = value;
    }
    expect(last).toBeGreaterThan(3.9);
    expect(last).toBeLessThan(4);
  });

  it("are the mean for an endpoint that was never scraped", () => {
    const scores = new Float64Array(3);
    scoreLowest(
      at(2000),
      [aged(0, 0, 1000), aged(1, 10, 1000), endpoint(2, { scraped: false })],
      "waitingRequests",
      scores,
    );
    expect([...scores]).toEqual([1, 0, 0.5]);
  });

  it("say nothing when no endpoint was ever scraped", () => {
    const scores = new Float64Array(2);
    expect(readSignal(at(2000), [endpoint(0, { scraped: false, waiting: 7 })], "waitingRequests", scores)).toBe(false);
    scoreLowest(
      at(2000),
      [endpoint(0, { scraped: false }), endpoint(1, { scraped: false })],
      "runningRequests",
      scores,
    );
    expect([...scores]).toEqual([1, 1]);
  });
});
