/** CPU per stream of both gRPC transports, one after the other in each run. The cheaper one is the default of --transport. */
import { type Measurement, type Run, repeat } from "./measurement.ts";
import { runLoad, startSignalbox, withPicker } from "./rig.ts";

const transports = ["http2", "grpc-js"] as const;
const shapes = [
  ["4k", "4 KiB", { bodyBytes: 4 * 1024 }],
  ["64k", "64 KiB", { bodyBytes: 64 * 1024 }],
  ["200-events", "4 KiB, answer of 200 events", { bodyBytes: 4 * 1024, responseChunks: 200 }],
] as const;

export const transportComparison: Measurement = {
  name: "transports",
  what: "CPU per stream of --transport=http2 and grpc-js",
  isLatency: false,
  figures: transports.flatMap((transport) =>
    shapes.map(([key, title]) => ({
      name: `transport-${transport}-${key}-cpu`,
      title: `CPU per stream, ${transport}, ${title}`,
      unit: "µs",
      digits: 0,
    })),
  ),
  async measure(context): Promise<readonly Run[]> {
    if (!context.isOurs) return [];
    const perTransport: Run[][] = [];
    for (const transport of transports) {
      perTransport.push(
        await withPicker(startSignalbox, { args: [`--transport=${transport}`] }, async (picker) => {
          await runLoad(picker, { warmupMs: context.warmupMs, measureMs: context.warmupMs });
          return repeat(context, async () => {
            const run: Record<string, number> = {};
            for (const [key, , shape] of shapes) {
              const timing = { warmupMs: context.warmupMs / 2, measureMs: context.measureMs / 2 };
              const result = await runLoad(picker, { ...timing, shape });
              run[`transport-${transport}-${key}-cpu`] = result.pickerMicrosPerStream;
            }
            return run;
          });
        }),
      );
    }
    return Array.from({ length: context.runs }, (_, i) => Object.assign({}, ...perTransport.map((runs) => runs[i])));
  },
};
