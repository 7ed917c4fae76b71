import { describe, expect, it } from "@jest/globals";
import { type BusyThresholds, OverloadWatch } from "../../../../src/prefill-router/stage/overload.ts";

const none: BusyThresholds = {
  activeDecodeBlocks: undefined,
  activePrefillTokens: undefined,
  activePrefillTokensFraction: undefined,
};

function watching(thresholds: Partial<BusyThresholds>, totalKvBlocks: number | undefined = 100, maxTokens?: number) {
  const watch = new OverloadWatch({ ...none, ...thresholds });
  watch.reserveSlots(4);
  watch.clear(1);
  watch.setCapacity(1, totalKvBlocks, maxTokens);
  return watch;
}

describe("a busy rank", () => {
  it("has more prefill tokens than the threshold, strictly", () => {
    const watch = watching({ activePrefillTokens: 100 });
    expect(watch.isBusy(1)).toBe(false);
    watch.booked(1, 0, 100);
    expect(watch.isBusy(1)).toBe(false);
    watch.booked(1, 0, 101);
    expect(watch.isBusy(1)).toBe(true);
  });

  it("has more prefill tokens than whole tokens of a share of its batch", () => {
    const watch = watching({ activePrefillTokensFraction: 0.5 }, undefined, 201);
    watch.booked(1, 0, 100);
    expect(watch.isBusy(1)).toBe(false);
    watch.booked(1, 0, 100.5);
    expect(watch.isBusy(1)).toBe(true);
  });

  it("is not found without a batch size but far above any", () => {
    const watch = watching({ activePrefillTokensFraction: 1 });
    watch.booked(1, 0, 1e6);
    expect(watch.isBusy(1)).toBe(false);
  });

  it("uses more of its blocks than the threshold, by either word, until neither says so", () => {
    const watch = watching({ activeDecodeBlocks: 0.8 });
    watch.booked(1, 80, 0);
    expect(watch.isBusy(1)).toBe(false);
    watch.reported(1, { kvUsedBlocks: 81 });
    expect(watch.isBusy(1)).toBe(true);
    watch.booked(1, 10, 0);
    expect(watch.isBusy(1)).toBe(true);
    watch.reported(1, { kvUsedBlocks: 10, activeDecodeBlocks: 90 });
    expect(watch.isBusy(1)).toBe(true);
    watch.reported(1, { activeDecodeBlocks: 90, activePrefillTokens: 5 });
    expect(watch.isBusy(1)).toBe(true);
    watch.booked(1, 80, 0);
    expect(watch.isBusy(1)).toBe(false);
  });

  it("is unknown without a capacity", () => {
    for (const total of [undefined, 0]) {
      const watch = watching({ activeDecodeBlocks: 0.1 });
      watch.setCapacity(1, total, undefined);
      watch.booked(1, 1000, 0);
      expect(watch.isBusy(1)).toBe(false);
    }
  });

  it("is judged anew when thresholds change, and forgotten with its slot", () => {
    const watch = watching({ activeDecodeBlocks: 0.5 });
    expect(watch.isConfigured).toBe(true);
    watch.booked(1, 60, 0);
    expect(watch.isBusy(1)).toBe(true);
    watch.setThresholds({ ...none, activeDecodeBlocks: 0.7 });
    expect(watch.isBusy(1)).toBe(false);
    watch.setThresholds({ ...none, activeDecodeBlocks: 0.5 });
    expect(watch.isBusy(1)).toBe(true);
    watch.reserveSlots(64);
    expect(watch.isBusy(1)).toBe(true);
    watch.clear(1);
    expect(watch.isBusy(1)).toBe(false);
    watch.setThresholds(none);
    expect(watch.isConfigured).toBe(false);
  });
});
