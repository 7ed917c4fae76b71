/**
 * Bytes allocated on the JavaScript heap per 4 KiB stream, as V8 counts them between collections (--trace-gc-nvp). Memory outside the
 * heap (what sockets read into) is not in it.
 */
import { type Measurement, repeat } from "./measurement.ts";
import { type Picker, runLoad, startSignalbox, withPicker } from "./rig.ts";

/** Bytes allocated since the collection before, from a line of --trace-gc-nvp; undefined for other lines. */
export function allocatedBytes(line: string): number | undefined {
  const found = / allocated=(\d+)/.exec(line);
  return found === null ? undefined : Number(found[1]);
}

/** One run's bytes per stream. Collections at either end are off by a part of one, of some hundred. */
export async function bytesPerStream(picker: Picker, warmupMs: number, measureMs: number): Promise<number> {
  let bytes = 0;
  let counts = false;
  const stopListening = picker.process.onLine((line) => {
    const allocated = allocatedBytes(line);
    if (allocated !== undefined && counts) bytes += allocated;
  });
  const result = await runLoad(picker, { warmupMs, measureMs }, () => {
    counts = true;
  });
  stopListening();
  return bytes / result.streams;
}

export const allocationOptions = ["--trace-gc-nvp"];

export const allocation: Measurement = {
  name: "allocation",
  what: "JavaScript heap bytes allocated per 4 KiB stream",
  isLatency: false,
  figures: [{ name: "stream-4k-heap", title: "Heap bytes allocated per stream, 4 KiB", unit: "KiB", digits: 1 }],
  measure: (context) =>
    context.isOurs
      ? withPicker(startSignalbox, { nodeOptions: allocationOptions }, (picker) =>
          repeat(context, async () => ({
            "stream-4k-heap": (await bytesPerStream(picker, context.warmupMs, context.measureMs)) / 1024,
          })),
        )
      : Promise.resolve([]),
};
