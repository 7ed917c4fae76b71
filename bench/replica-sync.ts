/** What it costs a picker that two replicas share its state: CPU per stream of three pickers under load, each for itself and then as one. */
import { createServer } from "node:net";
import { type Context, type FigureSpec, type Measurement, type Run, repeat } from "./measurement.ts";
import { type Picker, runLoad, startUpstream } from "./rig.ts";

const replicas = 3;
const bodyBytes = 4096;

const figures: readonly FigureSpec[] = [
  {
    name: "replicas-apart-cpu",
    title: "CPU per stream, 4 KiB, every body new, three pickers apart",
    unit: "µs",
    digits: 0,
  },
  {
    name: "replicas-synced-cpu",
    title: "CPU per stream, 4 KiB, every body new, three replicas",
    unit: "µs",
    digits: 0,
  },
];

async function measure(context: Context): Promise<readonly Run[]> {
  // Another picker takes none of these flags.
  if (!context.isOurs) return [];
  return await repeat(context, async () => ({
    "replicas-apart-cpu": await microsPerStream(context, false),
    "replicas-synced-cpu": await microsPerStream(context, true),
  }));
}

/** Mean of the three, all under load at once. */
async function microsPerStream(context: Context, isSynced: boolean): Promise<number> {
  const upstream = await startUpstream(4);
  const pickers: Picker[] = [];
  try {
    const ports = await Promise.all(Array.from({ length: replicas }, freePort));
    const peers = ports.map((port) => `127.0.0.1:${port}`).join(",");
    for (const port of ports) {
      const args = isSynced ? [`--peers=${peers}`, `--peer-port=${port}`] : [];
      pickers.push(await context.start({ endpoints: upstream.ports, args }));
    }
    const { warmupMs, measureMs } = context;
    const loads = pickers.map((picker) =>
      runLoad(picker, { warmupMs: 2 * warmupMs, measureMs, concurrency: 16, shape: { bodyBytes, distinct: true } }),
    );
    const results = await Promise.all(loads);
    return results.reduce((sum, { pickerMicrosPerStream }) => sum + pickerMicrosPerStream, 0) / replicas;
  } finally {
    for (const picker of pickers) await picker.close();
    await upstream.close();
  }
}

export function freePort(): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

export const replicaSync: Measurement = {
  name: "replicas",
  what: "CPU per stream of three pickers, each for itself and as replicas that share their state",
  isLatency: false,
  figures,
  measure,
};
