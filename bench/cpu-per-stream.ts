/** CPU per whole stream (request, decision, answer of two events) and streams per second at 32 concurrent, by size of the body. */
import { type Context, type FigureSpec, type Measurement, type Run, repeat } from "./measurement.ts";
import { runLoad, withPicker } from "./rig.ts";

/** As Istio names the cluster of a picker, and calls it. */
const istio = "outbound|9002||signalbox.inference.svc.cluster.local";
const direct = [
  ["4k", "4 KiB", { bodyBytes: 4 * 1024 }],
  ["4k-new", "4 KiB, every body new", { bodyBytes: 4 * 1024, distinct: true }],
  ["64k", "64 KiB", { bodyBytes: 64 * 1024 }],
  ["400k", "400 KiB", { bodyBytes: 400 * 1024 }],
] as const;
/** To a picker of its own: code that has seen both ways of a connection is slower on either. */
const byIstio = [
  ["4k-istio", "4 KiB, called by Istio", { bodyBytes: 4 * 1024, authority: istio }],
  ["64k-istio", "64 KiB, called by Istio", { bodyBytes: 64 * 1024, authority: istio }],
] as const;
type Sizes = typeof direct | typeof byIstio;

const figures: readonly FigureSpec[] = [
  ...[...direct, ...byIstio].flatMap(([key, title]) => [
    { name: `stream-${key}-cpu`, title: `CPU per stream, ${title}`, unit: "µs", digits: 0 },
    { name: `stream-${key}-rate`, title: `Decisions per second and core, ${title}`, unit: "/s", digits: 0 },
  ]),
  { name: "client-4k-cpu", title: "The load client's own CPU per stream, 4 KiB", unit: "µs", digits: 0 },
];

function measureSizes(context: Context, sizes: Sizes): Promise<readonly Run[]> {
  return withPicker(context.start, {}, (picker) =>
    repeat(context, async (index) => {
      const run: Record<string, number> = {};
      for (const [key, , shape] of sizes) {
        // A compiler that has not yet seen the load is not what a gateway meets: the first run warms up longer.
        const warmupMs = index === 0 ? 2 * context.warmupMs : context.warmupMs;
        const result = await runLoad(picker, { warmupMs, measureMs: context.measureMs, shape });
        run[`stream-${key}-cpu`] = result.pickerMicrosPerStream;
        // What the core does when nothing else runs on it; other processes may have had their share meanwhile.
        run[`stream-${key}-rate`] = 1e6 / result.pickerMicrosPerStream;
        if (key === "4k") run["client-4k-cpu"] = result.clientMicrosPerStream;
      }
      return run;
    }),
  );
}

async function measure(context: Context): Promise<readonly Run[]> {
  const runs = await measureSizes(context, direct);
  const runsByIstio = await measureSizes(context, byIstio);
  return runs.map((run, index) => ({ ...run, ...runsByIstio[index] }));
}

export const cpuPerStream: Measurement = {
  name: "stream",
  what: "CPU per stream and decisions per second, by body size",
  isLatency: false,
  figures,
  measure,
};
