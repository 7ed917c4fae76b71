/** Time from the end of the body to the decision when 1,000 requests of 4 KiB arrive each second, whatever the picker does meanwhile. */
import { type Measurement, repeat } from "./measurement.ts";
import { runLoad, withPicker } from "./rig.ts";

export const decisionLatency: Measurement = {
  name: "latency",
  what: "decision latency at 1,000 requests a second, 4 KiB",
  isLatency: true,
  figures: [
    { name: "open-loop-p50", title: "Decision at 1,000 requests/s, p50", unit: "ms", digits: 2 },
    { name: "open-loop-p99", title: "Decision at 1,000 requests/s, p99", unit: "ms", digits: 2 },
  ],
  measure: (context) =>
    withPicker(context.start, {}, async (picker) => {
      // Compiled once and for good: at 1,000 requests a second a just-started process is still compiling for half a minute.
      await runLoad(picker, { warmupMs: 5 * context.warmupMs, measureMs: context.warmupMs });
      return repeat(context, async () => {
        const result = await runLoad(picker, {
          ratePerSecond: 1_000,
          warmupMs: context.warmupMs / 2,
          measureMs: 2 * context.measureMs,
        });
        return { "open-loop-p50": result.decisionP50Ms, "open-loop-p99": result.decisionP99Ms };
      });
    }),
};
