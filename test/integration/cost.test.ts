/**
 * What a request costs, with bounds far above what docs/performance.md reports: a change that makes it several times dearer fails here.
 * Processor time and allocated bytes only; never wall-clock time, which says more about the machine than about the picker.
 */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { allocationOptions, bytesPerStream } from "../../bench/allocation.ts";
import { type Picker, runLoad, startSignalbox, startUpstream, type Upstream } from "../../bench/rig.ts";

/** 2.5 times the measured medians: the picker's time as a multiple of the load client's, which a slow machine slows as much. */
const mostTimesTheClient = 2.5 * 11;
const mostBytesPerStream = 2.5 * 31 * 1024;
const runs = 3;

describe("a stream of 4 KiB at 32 at once", () => {
  let upstream: Upstream;
  let picker: Picker;
  beforeAll(async () => {
    upstream = await startUpstream(4);
    picker = await startSignalbox({ endpoints: upstream.ports, nodeOptions: allocationOptions });
    await runLoad(picker, { warmupMs: 1_000, measureMs: 200 });
  }, 60_000);
  afterAll(async () => {
    await picker?.close();
    await upstream?.close();
  });

  it("costs no more processor time than its bound, in the best of three runs", async () => {
    const times: number[] = [];
    for (let i = 0; i < runs; i++) {
      const load = await runLoad(picker, { warmupMs: 200, measureMs: 500 });
      times.push(load.pickerMicrosPerStream / load.clientMicrosPerStream);
    }
    expect(Math.min(...times)).toBeLessThan(mostTimesTheClient);
  }, 60_000);

  it("allocates no more on the heap than its bound, in the best of three runs", async () => {
    const bytes: number[] = [];
    for (let i = 0; i < runs; i++) bytes.push(await bytesPerStream(picker, 200, 800));
    // Less than a plain object's worth would mean that nothing was counted.
    expect(Math.min(...bytes)).toBeGreaterThan(1024);
    expect(Math.min(...bytes)).toBeLessThan(mostBytesPerStream);
  }, 60_000);
});
