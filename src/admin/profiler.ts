/**
 * CPU and allocation profiles of the running process, one at a time and of bounded length, in V8's formats (.cpuprofile, .heapprofile), which
 * Chrome's developer tools and speedscope read. No heap snapshot: it would freeze the process and hold the text of prompts.
 */
import { Session } from "node:inspector/promises";
import { type AdminAnswer, type AdminRoute, text } from "./http-server.ts";

export const maxProfileSeconds = 60;
const defaultProfileSeconds = 10;

export interface Profiler {
  /** Routes by path, below /debug/pprof. */
  readonly routes: ReadonlyMap<string, AdminRoute>;
  /** Ends a profile under way with what it has. */
  close(): Promise<void>;
}

export function createProfiler(): Profiler {
  let running: { readonly stop: () => void; readonly done: Promise<unknown> } | undefined;

  const profiled =
    (kind: "cpu" | "heap"): AdminRoute =>
    async (_rest, query) => {
      const seconds = secondsOf(query.get("seconds"));
      if (seconds === undefined) return text(`seconds must be a number above 0, at most ${maxProfileSeconds}\n`, 400);
      if (running !== undefined)
        return { ...text("a profile is being taken\n", 503), headers: { "retry-after": "10" } };
      let stop = (): void => {};
      const over = new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, seconds * 1_000);
        stop = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      const done = (kind === "cpu" ? cpuProfile(over) : heapProfile(over)).finally(() => {
        running = undefined;
        stop();
      });
      running = { stop, done };
      return attachment(await done, `signalbox.${kind}profile`);
    };

  return {
    routes: new Map<string, AdminRoute>([
      ["/debug/pprof/profile", profiled("cpu")],
      ["/debug/pprof/heap", profiled("heap")],
      ["/debug/pprof/cmdline", () => text(process.argv.join("\u0000"))],
    ]),
    async close() {
      running?.stop();
      await running?.done.catch(() => {});
    },
  };
}

function secondsOf(given: string | null): number | undefined {
  if (given === null) return defaultProfileSeconds;
  const seconds = /^\d+(\.\d+)?$/.test(given) ? Number(given) : 0;
  return seconds > 0 && seconds <= maxProfileSeconds ? seconds : undefined;
}

function attachment(profile: unknown, name: string): AdminAnswer {
  return {
    status: 200,
    contentType: "application/json",
    body: JSON.stringify(profile),
    headers: { "content-disposition": `attachment; filename="${name}"` },
  };
}

async function cpuProfile(over: Promise<void>): Promise<unknown> {
  const session = new Session();
  session.connect();
  try {
    await session.post("Profiler.enable");
    await session.post("Profiler.start");
    await over;
    return (await session.post("Profiler.stop")).profile;
  } finally {
    session.disconnect();
  }
}

async function heapProfile(over: Promise<void>): Promise<unknown> {
  const session = new Session();
  session.connect();
  try {
    await session.post("HeapProfiler.startSampling", { samplingInterval: 32_768 });
    await over;
    return (await session.post("HeapProfiler.stopSampling")).profile;
  } finally {
    session.disconnect();
  }
}
