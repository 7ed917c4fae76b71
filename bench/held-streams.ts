/** Resident memory of a fresh picker with 1,000 streams held: body of 64 KiB sent and routed, answer begun and not ended. */
import { residentBytes } from "./load/process-cost.ts";
import { type Measurement, repeat } from "./measurement.ts";
import { holdStreams, withPicker } from "./rig.ts";

const MiB = 1024 * 1024;
const count = 1_000;

export const heldStreams: Measurement = {
  name: "held",
  what: "memory with 1,000 held streams of 64 KiB",
  isLatency: false,
  figures: [
    { name: "idle-resident", title: "Resident memory, idle, 4 endpoints", unit: "MiB", digits: 0 },
    { name: "held-1000-resident", title: "Resident memory, 1,000 held streams of 64 KiB", unit: "MiB", digits: 0 },
  ],
  measure: (context) =>
    repeat(context, () =>
      withPicker(context.start, {}, async (picker) => {
        const idle = residentBytes(picker.pid) / MiB;
        const held = await holdStreams(picker, count, { bodyBytes: 64 * 1024 });
        const resident = residentBytes(picker.pid) / MiB;
        await held.close();
        return { "idle-resident": idle, "held-1000-resident": resident };
      }),
    ),
};
