/** CPU of reading engine metrics: 100 endpoints with pages of 42 KB, at full pace (a trickle of requests keeps it) and when nothing comes. */
import { cpuMicros } from "./load/process-cost.ts";
import { type Measurement, repeat } from "./measurement.ts";
import { runLoad, withPicker } from "./rig.ts";

const endpoints = 100;
/** Ours slows down this long after the last request. */
const untilIdleMs = 6_500;

export const scraping: Measurement = {
  name: "scraping",
  what: "CPU of scraping 100 endpoints every 50 ms, and when idle",
  isLatency: false,
  figures: [
    { name: "scrape-cpu", title: "CPU per scrape of a 42 KB page", unit: "µs", digits: 0 },
    { name: "scrape-100-share", title: "100 endpoints every 50 ms, share of a core", unit: "%", digits: 1 },
    { name: "scrape-100-pace", title: "Scrapes per second of those", unit: "/s", digits: 0 },
    { name: "idle-100-share", title: "100 endpoints, no traffic, share of a core", unit: "%", digits: 1 },
  ],
  measure: (context) =>
    withPicker(context.start, { endpoints, args: ["--refresh-metrics-interval=50ms"] }, async (picker, upstream) => {
      const trickle = { ratePerSecond: 5, warmupMs: 500, measureMs: 2 * context.measureMs };
      const busy = await repeat(context, async () => {
        let before = 0;
        let pages = 0;
        let fromMs = 0;
        const counted = Promise.withResolvers<void>();
        await runLoad(picker, trickle, () => {
          void upstream.pagesServed().then((served) => {
            before = cpuMicros(picker.pid);
            pages = served;
            fromMs = performance.now();
            counted.resolve();
          }, counted.reject);
        });
        await counted.promise;
        const scrapes = (await upstream.pagesServed()) - pages;
        const seconds = (performance.now() - fromMs) / 1000;
        const micros = cpuMicros(picker.pid) - before;
        return {
          "scrape-cpu": micros / scrapes,
          "scrape-100-share": micros / seconds / 10_000,
          "scrape-100-pace": scrapes / seconds,
        };
      });
      await new Promise((resolve) => setTimeout(resolve, untilIdleMs));
      const idle = await repeat(context, async () => {
        const before = cpuMicros(picker.pid);
        await new Promise((resolve) => setTimeout(resolve, context.measureMs));
        return { "idle-100-share": (cpuMicros(picker.pid) - before) / context.measureMs / 10 };
      });
      return busy.map((run, i) => ({ ...run, ...idle[i] }));
    }),
};
