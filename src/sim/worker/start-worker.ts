/** Starts a simulated worker and owns what it opened: the listener, the engine's timer and the KV event sockets. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { defaultWorkerOptions, type WorkerFaults, type WorkerOptions } from "./options.ts";
import { WorkerServer } from "./server.ts";

export interface WorkerStats {
  readonly running: number;
  readonly waiting: number;
  readonly usedBlocks: number;
  readonly cachedBlocks: number;
  readonly promptTokens: number;
  readonly answerTokens: number;
  readonly prefixQueries: number;
  readonly prefixHits: number;
  readonly preemptions: number;
  readonly finished: number;
  readonly aborted: number;
}

export interface RunningWorker {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  /** http://host:port, without a slash at the end. */
  readonly url: string;
  stats(): WorkerStats;
  /** Faults from now on. */
  setFaults(faults: Partial<WorkerFaults>): void;
  /** Stops listening, cuts open connections, resolves when all is released. Idempotent. */
  close(): Promise<void>;
}

/** Resolves once the worker listens; rejects when it cannot. */
export async function startWorker(given: Partial<WorkerOptions>, signal?: AbortSignal): Promise<RunningWorker> {
  const options: WorkerOptions = { ...defaultWorkerOptions, ...given };
  if (options.startDelayMs > 0) await delay(options.startDelayMs, undefined, signal ? { signal } : {});
  const server = new WorkerServer(options, undefined);
  server.http.listen(options.port, options.host);
  await once(server.http, "listening");
  const { address, port, family } = server.http.address() as AddressInfo;
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    const closed = once(server.http, "close");
    server.http.close();
    server.http.closeAllConnections();
    await closed;
    server.close();
  };
  const reachable = address === "0.0.0.0" || address === "::" ? "127.0.0.1" : address;
  const { engine } = server;
  return {
    name: options.name,
    host: reachable,
    port,
    url: `http://${family === "IPv6" && reachable.includes(":") ? `[${reachable}]` : reachable}:${port}`,
    stats: () => ({
      running: engine.running,
      waiting: engine.waiting,
      usedBlocks: engine.usedBlocks,
      cachedBlocks: engine.cachedBlocks,
      ...engine.counters,
    }),
    setFaults: (faults) => {
      Object.assign(server.faults, faults);
    },
    close: () => (closing ??= close()),
  };
}
