/**
 * The scrape loop: one timer for all endpoints of a store. Fast while traffic flows, slow when idle, endpoints spread evenly over the
 * interval. It owns every poller, follows the store, and leaves nothing running after close.
 */
import { type Logger, silentLogger } from "../../telemetry/log.ts";
import type { Endpoint, EndpointName } from "../endpoint.ts";
import type { ScrapeSink } from "../endpoint-store.ts";
import type { EndpointStoreView } from "../store-view.ts";
import { type PollEnvironment, Poller, type PollStatus, type ScrapeCounters } from "./poller.ts";
import type { DataSource, Extractor } from "./source.ts";

export interface ScrapeOptions {
  /** Time between two polls of an endpoint while traffic flows (`--refresh-metrics-interval`). */
  readonly refreshIntervalMs: number;
  /** The same when idle. */
  readonly idleIntervalMs: number;
  /** Idle begins this long after the last request, and not while requests are in flight. */
  readonly idleAfterMs: number;
  readonly timeoutMs: number;
  readonly failureThreshold: number;
  /** The longest wait between polls of an endpoint that keeps failing. */
  readonly maxBackoffMs: number;
}

/** Defaults for an interval: idle is 20 times slower, at most once a second. */
export function scrapeOptions(refreshIntervalMs: number): ScrapeOptions {
  const fast = Math.max(refreshIntervalMs, minIntervalMs);
  return {
    refreshIntervalMs: fast,
    idleIntervalMs: Math.max(fast, Math.min(fast * 20, 1000)),
    idleAfterMs: 5000,
    timeoutMs: 1000,
    failureThreshold: 3,
    maxBackoffMs: 2000,
  };
}

export interface ScrapeBinding {
  readonly source: DataSource;
  readonly extractors: readonly Extractor[];
}

export interface Scraper {
  start(): void;
  /** A request has come: cheap, called for each. The first after an idle time brings the polls forward at once. */
  noteTraffic(nowMs: number): void;
  status(): readonly PollStatus[];
  readonly isIdle: boolean;
  close(): Promise<void>;
}

export interface ScraperInit {
  readonly store: EndpointStoreView & ScrapeSink;
  readonly bindings: readonly ScrapeBinding[];
  readonly options: ScrapeOptions;
  readonly counters: ScrapeCounters;
  readonly log?: Logger;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

export function createScraper(init: ScraperInit): Scraper {
  return new ScrapeLoop(init);
}

const minIntervalMs = 10;
/** Ticks in an interval: enough to spread endpoints, few enough that polls of one tick share a turn of the event loop. */
const ticksPerInterval = 5;

class ScrapeLoop implements Scraper {
  readonly #store: EndpointStoreView & ScrapeSink;
  readonly #bindings: readonly ScrapeBinding[];
  readonly #options: ScrapeOptions;
  readonly #environment: PollEnvironment;
  readonly #now: () => number;
  readonly #pollers = new Map<EndpointName, readonly Poller[]>();
  #timer: NodeJS.Timeout | undefined;
  #unsubscribe: (() => void) | undefined;
  #trafficAtMs: number;
  #isIdle = false;
  #nextTick = 0;
  #isClosed = false;

  constructor({ store, bindings, options, counters, log = silentLogger, now = () => performance.now() }: ScraperInit) {
    this.#store = store;
    this.#bindings = bindings;
    this.#options = options;
    this.#now = now;
    this.#trafficAtMs = now();
    this.#environment = {
      sink: store,
      endpoint: (name) => store.get(name),
      counters,
      log,
      now,
      timeoutMs: options.timeoutMs,
      failureThreshold: options.failureThreshold,
      maxBackoffMs: options.maxBackoffMs,
    };
  }

  get isIdle(): boolean {
    return this.#isIdle;
  }

  start(): void {
    this.#unsubscribe = this.#store.subscribe({
      added: (endpoint) => this.#add(endpoint),
      removed: (endpoint) => this.#remove(endpoint.name),
    });
    this.#trafficAtMs = this.#now();
    for (const endpoint of this.#store.snapshot()) this.#add(endpoint);
    this.#arm();
  }

  noteTraffic(nowMs: number): void {
    this.#trafficAtMs = nowMs;
    if (this.#isIdle && !this.#isClosed) this.#wake(nowMs);
  }

  status(): readonly PollStatus[] {
    const nowMs = this.#now();
    return [...this.#pollers.values()].flatMap((pollers) => pollers.map((poller) => poller.status(nowMs)));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#unsubscribe?.();
    clearTimeout(this.#timer);
    for (const name of this.#pollers.keys()) this.#remove(name);
  }

  get #intervalMs(): number {
    return this.#isIdle ? this.#options.idleIntervalMs : this.#options.refreshIntervalMs;
  }

  #arm(): void {
    if (this.#isClosed) return;
    this.#timer = setTimeout(() => this.#tick(), this.#intervalMs / ticksPerInterval);
  }

  #tick(): void {
    const nowMs = this.#now();
    const intervalMs = this.#intervalMs;
    for (const pollers of this.#pollers.values()) {
      for (const poller of pollers) poller.tick(nowMs, intervalMs);
    }
    if (!this.#isIdle && nowMs - this.#trafficAtMs >= this.#options.idleAfterMs) this.#rest(nowMs);
    this.#arm();
  }

  #rest(nowMs: number): void {
    for (const { load } of this.#store.snapshot()) {
      if (load.requests > 0) {
        this.#trafficAtMs = nowMs;
        return;
      }
    }
    this.#isIdle = true;
  }

  #wake(nowMs: number): void {
    this.#isIdle = false;
    for (const pollers of this.#pollers.values()) {
      for (const poller of pollers) poller.hurry(nowMs, this.#options.refreshIntervalMs, this.#nextDelay());
    }
    clearTimeout(this.#timer);
    // In the next turn: the request that woke the loop goes first.
    this.#timer = setTimeout(() => this.#tick(), 0);
  }

  /** Spreads endpoints over the ticks of an interval. */
  #nextDelay(): number {
    this.#nextTick = (this.#nextTick + 1) % ticksPerInterval;
    return (this.#nextTick * this.#options.refreshIntervalMs) / ticksPerInterval;
  }

  #add(endpoint: Endpoint): void {
    const dueAtMs = this.#now() + this.#nextDelay();
    this.#pollers.set(
      endpoint.name,
      this.#bindings.map(
        ({ source, extractors }) => new Poller(endpoint, source, extractors, this.#environment, dueAtMs),
      ),
    );
    if (this.#isIdle && !this.#isClosed) {
      // Nothing is known of a new endpoint: its first poll does not wait for a slow tick.
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#tick(), this.#options.refreshIntervalMs);
    }
  }

  #remove(name: EndpointName): void {
    for (const poller of this.#pollers.get(name) ?? []) poller.close();
    this.#pollers.delete(name);
  }
}
