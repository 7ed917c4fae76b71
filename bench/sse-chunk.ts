/** CPU per response body chunk in full duplex: 64 streams at once, 200 chunks of one event each, one after the other. */
import { type Measurement, repeat } from "./measurement.ts";
import { runLoad, withPicker } from "./rig.ts";

const long = 200;
const short = 2;

export const sseChunk: Measurement = {
  name: "sse",
  what: "CPU per SSE chunk at 64 streams",
  isLatency: false,
  figures: [{ name: "sse-chunk-cpu", title: "CPU per SSE chunk, 64 streams", unit: "µs", digits: 2 }],
  measure: (context) =>
    withPicker(context.start, {}, (picker) =>
      repeat(context, async () => {
        const timing = { warmupMs: context.warmupMs, measureMs: context.measureMs, concurrency: 64 };
        const with200 = await runLoad(picker, { ...timing, shape: { responseChunks: long } });
        const with2 = await runLoad(picker, { ...timing, shape: { responseChunks: short } });
        // The difference leaves out what a stream costs without its chunks.
        const micros = with200.pickerMicrosPerStream - with2.pickerMicrosPerStream;
        return { "sse-chunk-cpu": micros / (long - short) };
      }),
    ),
};
