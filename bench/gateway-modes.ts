/** CPU per request of each way a gateway can be set up (deploy/envoy), for an answer of 200 events and bodies of 4 and 64 KiB. */
import type { GatewayMode } from "./load/script.ts";
import { type Measurement, repeat } from "./measurement.ts";
import { runLoad, withPicker } from "./rig.ts";

const modes: readonly GatewayMode[] = ["full-duplex", "response-none", "buffered"];
const sizes = [
  ["4k", "4 KiB", 4 * 1024],
  ["64k", "64 KiB", 64 * 1024],
] as const;

export const gatewayModes: Measurement = {
  name: "modes",
  what: "CPU per request by gateway configuration, answers of 200 events",
  isLatency: false,
  figures: modes.flatMap((mode) =>
    sizes.map(([key, title]) => ({
      name: `mode-${mode}-${key}-cpu`,
      title: `CPU per request with 200 events, ${mode}, ${title}`,
      unit: "µs",
      digits: 0,
    })),
  ),
  measure: (context) =>
    withPicker(context.start, {}, (picker) =>
      repeat(context, async () => {
        const run: Record<string, number> = {};
        for (const mode of modes) {
          for (const [key, , bodyBytes] of sizes) {
            const load = runLoad(picker, {
              warmupMs: context.warmupMs / 2,
              measureMs: context.measureMs / 2,
              shape: { mode, bodyBytes, responseChunks: 200 },
            });
            // A peer may not know a mode; ours must.
            const result = context.isOurs ? await load : await load.catch(() => undefined);
            if (result !== undefined) run[`mode-${mode}-${key}-cpu`] = result.pickerMicrosPerStream;
          }
        }
        return run;
      }),
    ),
};
