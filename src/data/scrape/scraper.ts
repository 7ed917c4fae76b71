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
  /** Requests in flight at once; what is due beyond them is polled as soon as others are done, each endpoint in its turn. */
  readonly maxInFlight: number;
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
    maxInFlight: 256,
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
  /** Current time between two polls of an endpoint. A freshness threshold below twice this would call sound metrics stale. */
  readonly intervalMs: number;
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
/**
 * Endpoints polled in one tick before a second tick in the interval is worth it. A tick wakes the process, which costs more than a scrape
 * (some 90 µs against 30 in a process that is otherwise idle), and a tick of this many holds the event loop for well under a millisecond.
 */
const pollsPerTick = 8;
const maxTicksPerInterval = 5;
/** In a large fleet a tick is kept this short instead: about 10 ms. */
const mostPollsPerTick = 250;
/** A scrape is about 30 µs: a fleet so large that it would take more than a fraction of a core is polled less often. */
const mostPollsPerMs = 5;
/** Requests that take too long are found at ticks, so there is at least one this often. */
const maxTickMs = 250;
/** While more is due than may be in flight, or than one tick has time for. */
const crowdedTickMs = 10;
/** Connecting takes several times as long as asking again: when a whole fleet is new, a tick stops here and leaves the event loop to requests. */
const mostTickMs = 4;
/** Polls begun between two looks at the clock. */
const pollsPerLook = 8;

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
  #ticksPerInterval = 1;
  #nextTickAtMs = 0;
  /** Goes round all endpoints, from one tick to the next. */
  #turns = this.#pollers.values();
  /** The last tick could not begin all that may have been due. */
  #isCrowded = false;
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
    this.#arm(this.#trafficAtMs, 0);
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

  get intervalMs(): number {
    return this.#isIdle ? Math.max(this.#options.idleIntervalMs, this.#leastMs) : this.#fastMs;
  }

  get #fastMs(): number {
    return Math.max(this.#options.refreshIntervalMs, this.#leastMs);
  }

  get #leastMs(): number {
    return this.#pollers.size / mostPollsPerMs;
  }

  get #tickMs(): number {
    return Math.min(this.intervalMs / this.#ticksPerInterval, maxTickMs);
  }

  /** Ticks keep to a grid: a late one does not put off those after it. */
  #arm(nowMs: number, delayMs: number): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#nextTickAtMs = nowMs + delayMs;
    this.#timer = setTimeout(() => this.#tick(), Math.max(delayMs, 0));
  }

  #tick(): void {
    const nowMs = this.#now();
    const intervalMs = this.intervalMs;
    const tickMs = this.#tickMs;
    // Half a tick of tolerance: timers fire a little early or late, and a poll that misses its tick would wait for the next.
    const horizonMs = nowMs + tickMs / 2;
    this.#poll(nowMs, horizonMs, intervalMs);
    if (!this.#isIdle && nowMs - this.#trafficAtMs >= this.#options.idleAfterMs) this.#rest(nowMs);
    const lateMs = nowMs - this.#nextTickAtMs;
    const delayMs = lateMs < tickMs ? this.#tickMs - lateMs : this.#tickMs;
    this.#arm(nowMs, this.#isCrowded ? Math.min(delayMs, crowdedTickMs) : delayMs);
  }

  /** Begins what is due, as far as there is room; the next tick goes on where this one found none. */
  #poll(nowMs: number, horizonMs: number, intervalMs: number): void {
    let room = this.#options.maxInFlight;
    for (const pollers of this.#pollers.values()) {
      for (const poller of pollers) if (poller.isBusy(nowMs)) room--;
    }
    let left = this.#pollers.size;
    const endMs = nowMs + mostTickMs;
    let untilLook = pollsPerLook;
    for (; left > 0 && room > 0; left--) {
      if (untilLook <= 0) {
        if (this.#now() > endMs) break;
        untilLook = pollsPerLook;
      }
      let next = this.#turns.next();
      if (next.done === true) {
        this.#turns = this.#pollers.values();
        next = this.#turns.next();
      }
      for (const poller of next.value ?? []) {
        if (!poller.isDue(horizonMs, intervalMs)) continue;
        poller.poll(nowMs, intervalMs);
        room--;
        untilLook--;
      }
    }
    this.#isCrowded = left > 0;
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
    this.#spread(nowMs);
    // In the next turn: the request that woke the loop goes first.
    this.#arm(nowMs, 0);
  }

  /** Gives endpoints, in turn, the ticks of one interval. */
  #spread(nowMs: number): void {
    let turn = 0;
    const intervalMs = this.#fastMs;
    for (const pollers of this.#pollers.values()) {
      const delayMs = ((turn++ % this.#ticksPerInterval) * intervalMs) / this.#ticksPerInterval;
      for (const poller of pollers) poller.hurry(nowMs + delayMs, intervalMs);
    }
  }

  #add(endpoint: Endpoint): void {
    const nowMs = this.#now();
    this.#pollers.set(
      endpoint.name,
      this.#bindings.map(
        ({ source, extractors }) => new Poller(endpoint, source, extractors, this.#environment, nowMs),
      ),
    );
    this.#resize(nowMs);
    // Nothing is known of a new endpoint: its first poll does not wait for a slow tick.
    if (this.#isIdle) this.#arm(nowMs, Math.min(this.#options.refreshIntervalMs, this.#nextTickAtMs - nowMs));
  }

  #resize(nowMs: number): void {
    const polls = this.#pollers.size;
    const mostTicks = Math.max(maxTicksPerInterval, Math.ceil(polls / mostPollsPerTick));
    const ticks = Math.min(Math.max(Math.ceil(polls / pollsPerTick), 1), mostTicks);
    if (ticks === this.#ticksPerInterval) return;
    this.#ticksPerInterval = ticks;
    if (!this.#isIdle) this.#spread(nowMs);
  }

  #remove(name: EndpointName): void {
    for (const poller of this.#pollers.get(name) ?? []) poller.close();
    this.#pollers.delete(name);
    if (!this.#isClosed) this.#resize(this.#now());
  }
}
