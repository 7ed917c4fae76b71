/** Starts a simulated worker and owns what it opened: the listener, the engine's timer and the KV event sockets. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { KvEventBatch } from "./kv-event-batch.ts";
import { type KvEventsPublisher, openKvEvents } from "./kv-events.ts";
import { type CacheListener, SimulatedModel } from "./model.ts";
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
  /** As bound, with the ports that were picked; undefined where none were asked for. */
  readonly kvEventsEndpoint: string | undefined;
  readonly kvReplayEndpoint: string | undefined;
  readonly kvEventsTopic: string;
  stats(): WorkerStats;
  /** Faults from now on. */
  setFaults(faults: Partial<WorkerFaults>): void;
  /** Stops listening, cuts open connections, resolves when all is released. Idempotent. */
  close(): Promise<void>;
}

/** Resolves once the worker listens; rejects when it cannot. An abort ends the wait before that; a running worker is closed, not aborted. */
export async function startWorker(given: Partial<WorkerOptions>, signal?: AbortSignal): Promise<RunningWorker> {
  const options: WorkerOptions = { ...defaultWorkerOptions, ...given };
  if (options.startDelayMs > 0) await delay(options.startDelayMs, undefined, signal ? { signal } : {});
  const events = await openEvents(options);
  // Known only once the port is; nothing is published before a request came in on it.
  let topic = options.kvEventsTopic ?? "";
  const publish = (payload: Uint8Array): void => events?.publish(topic, payload);
  const model = new SimulatedModel(options, events && ((served) => listenToCache(served, publish)));
  const server = new WorkerServer(options, model);
  try {
    server.http.listen(options.port, options.host);
    await once(server.http, "listening");
  } catch (error) {
    await events?.close();
    throw error;
  }
  const { address, port, family } = server.http.address() as AddressInfo;
  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    const closed = once(server.http, "close");
    server.http.close();
    server.http.closeAllConnections();
    await closed;
    model.close();
    await events?.close();
  };
  const reachable = address === "0.0.0.0" || address === "::" ? "127.0.0.1" : address;
  const { engine } = model;
  if (options.kvEventsTopic === undefined) topic = `kv@${reachable}:${port}@${options.servedModelNames[0] ?? ""}`;
  return {
    name: options.name,
    host: reachable,
    port,
    kvEventsEndpoint: events?.endpoint,
    kvReplayEndpoint: events?.replayEndpoint,
    kvEventsTopic: topic,
    url: `http://${family === "IPv6" && reachable.includes(":") ? `[${reachable}]` : reachable}:${port}`,
    stats: () => ({
      running: engine.running,
      waiting: engine.waiting,
      usedBlocks: engine.usedBlocks,
      cachedBlocks: engine.cachedBlocks,
      ...engine.counters,
    }),
    setFaults: (faults) => {
      Object.assign(model.faults, faults);
    },
    close: () => (closing ??= close()),
  };
}

async function openEvents(options: WorkerOptions): Promise<KvEventsPublisher | undefined> {
  if (options.kvEventsEndpoint === undefined) return undefined;
  const { kvEventsEndpoint: endpoint, kvReplayEndpoint: replayEndpoint, kvReplayBatches: replayBatches } = options;
  return await openKvEvents({ endpoint, replayEndpoint, replayBatches, logger: options.logger });
}

function listenToCache(model: SimulatedModel, publish: (payload: Uint8Array) => void): CacheListener {
  const batch = new KvEventBatch(model.engine, ({ adapter, owner }) => ({
    loraName: model.adapters.nameOf(adapter) ?? null,
    cacheSalt: owner.exchange.body.cacheSalt,
  }));
  return {
    stored: (sequence, firstBlock, count) => batch.stored(sequence, firstBlock, count),
    removed: (hashLo, hashHi) => batch.removed(hashLo, hashHi),
    cleared: () => batch.cleared(),
    stepEnded: () => {
      const payload = batch.take(Date.now());
      if (payload !== undefined) publish(payload);
    },
  };
}
