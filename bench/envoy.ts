/** What a picker adds to the time to first byte through a real Envoy at 200 requests a second, against the same Envoy straight to the model server. */
import { fileURLToPath } from "node:url";
import { findEnvoy, startEnvoy } from "../src/app/envoy.ts";
import { startDirectEnvoy } from "./direct-envoy.ts";
import type { FirstByteOptions, FirstByteResult } from "./load/first-byte.ts";
import { type Context, type Measurement, type Run, repeat } from "./measurement.ts";
import { anyCpu, clientCpu } from "./processors.ts";
import { runLoad, startProcess, withPicker } from "./rig.ts";

const ratePerSecond = 200;
const sizes = [
  ["4k", "4 KiB", 4 * 1024],
  ["64k", "64 KiB", 64 * 1024],
] as const;

async function firstByte(options: FirstByteOptions): Promise<readonly FirstByteResult[]> {
  const file = fileURLToPath(new URL("load/first-byte.ts", import.meta.url));
  const client = startProcess(clientCpu, [process.execPath, file, JSON.stringify(options)]);
  try {
    const results = await client.line(
      (line) =>
        line.startsWith('{"results"')
          ? (JSON.parse(line) as { results: readonly FirstByteResult[] }).results
          : undefined,
      options.warmupMs + options.measureMs + 30_000,
    );
    const failures = results.reduce((sum, result) => sum + result.failures, 0);
    if (failures > 0) throw new Error(`${failures} requests through Envoy failed`);
    return results;
  } finally {
    await client.close();
  }
}

function added(key: string, [through, direct]: readonly FirstByteResult[]): Run {
  if (through === undefined || direct === undefined) throw new Error("the client did not report both targets");
  return {
    [`envoy-${key}-p50`]: through.p50Ms - direct.p50Ms,
    [`envoy-${key}-p99`]: through.p99Ms - direct.p99Ms,
  };
}

function measure(context: Context): Promise<readonly Run[]> {
  const binary = findEnvoy(process.env);
  return withPicker(context.start, {}, async (picker, upstream) => {
    const through = await startEnvoy({
      mode: "full-duplex",
      binary,
      picker: { port: picker.port, tls: false },
      listenPort: 0,
      concurrency: 1,
    });
    try {
      const direct = await startDirectEnvoy(binary, anyCpu, upstream.ports[0] ?? 0);
      try {
        const urls = [through.url, direct.url];
        // Compiled once and for good: at 200 requests a second a just-started process would be compiling all the while.
        await runLoad(picker, { warmupMs: 5 * context.warmupMs, measureMs: context.warmupMs });
        return await repeat(context, async (index) => {
          const run: Record<string, number> = {};
          for (const [key, , bodyBytes] of sizes) {
            const warmupMs = index === 0 ? 2 * context.warmupMs : context.warmupMs / 2;
            const options = { urls, bodyBytes, ratePerSecond, warmupMs, measureMs: 2 * context.measureMs };
            Object.assign(run, added(key, await firstByte(options)));
          }
          return run;
        });
      } finally {
        await direct.close();
      }
    } finally {
      await through.close();
    }
  });
}

export const envoyFirstByte: Measurement = {
  name: "envoy",
  what: "time added to the first byte through Envoy at 200 requests a second",
  isLatency: true,
  figures: sizes.flatMap(([key, title]) => [
    { name: `envoy-${key}-p50`, title: `Added to first byte through Envoy, ${title}, p50`, unit: "ms", digits: 2 },
    { name: `envoy-${key}-p99`, title: `Added to first byte through Envoy, ${title}, p99`, unit: "ms", digits: 2 },
  ]),
  measure,
};
