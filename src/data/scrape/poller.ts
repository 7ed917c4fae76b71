/**
 * Polls one data source of one endpoint: at most one request in flight, failures counted into episodes (one log line when one begins, one
 * when it ends), the next poll put off while it fails. Its scraper says when; it has no timer of its own.
 */
import { GetClient, type GetFailure, type GetHandler, type GetTarget } from "../../net/http1/get-client.ts";
import type { Logger } from "../../telemetry/log.ts";
import { type Endpoint, type EndpointName, hostPortOf } from "../endpoint.ts";
import type { ScrapeSink } from "../endpoint-store.ts";
import type { DataSource, Extractor, PageReader, ReadOutcome } from "./source.ts";

/** Counts what the reference counts: datalayer_poll_errors_total and datalayer_extract_errors_total. */
export interface ScrapeCounters {
  pollFailed(sourceType: string): void;
  extractFailed(sourceType: string, extractorType: string): void;
}

/** What pollers share. */
export interface PollEnvironment {
  readonly sink: ScrapeSink;
  /** The current object of an endpoint. */
  endpoint(name: EndpointName): Endpoint | undefined;
  readonly counters: ScrapeCounters;
  readonly log: Logger;
  now(): number;
  readonly timeoutMs: number;
  /** Failures in a row that begin an episode. */
  readonly failureThreshold: number;
  readonly maxBackoffMs: number;
}

export interface PollStatus {
  readonly endpoint: EndpointName;
  readonly source: string;
  /** False during an episode of failures. */
  readonly isHealthy: boolean;
  readonly consecutiveFailures: number;
  /** Of the last failure, also after recovery; "" when there was none. */
  readonly lastFailure: string;
  /** Wanted series that the last page lacked. */
  readonly missing: readonly string[];
  /** Milliseconds since the last good poll; undefined before the first. */
  readonly ageMs: number | undefined;
  readonly polls: number;
  readonly failures: number;
}

interface OpenExtractor {
  readonly type: string;
  readonly reader: PageReader;
}

export class Poller implements GetHandler {
  readonly #environment: PollEnvironment;
  readonly #name: EndpointName;
  readonly #source: DataSource;
  readonly #extractors: readonly OpenExtractor[];
  #target: GetTarget;
  #client: GetClient;
  #redirects = 0;
  #startedAtMs = 0;
  #succeededAtMs = Number.NEGATIVE_INFINITY;
  #consecutiveFailures = 0;
  #lastFailure = "";
  #missing: readonly string[] = [];
  #polls = 0;
  #failures = 0;
  #dueAtMs: number;

  constructor(
    endpoint: Endpoint,
    source: DataSource,
    extractors: readonly Extractor[],
    environment: PollEnvironment,
    dueAtMs: number,
  ) {
    this.#environment = environment;
    this.#name = endpoint.name;
    this.#source = source;
    this.#extractors = extractors.map((extractor) => ({ type: extractor.extractorType, reader: extractor.open() }));
    this.#target = source.target(endpoint);
    this.#client = new GetClient(this.#target, this);
    this.#dueAtMs = dueAtMs;
  }

  /** A request is in flight. One that takes too long is given up. */
  isBusy(nowMs: number): boolean {
    if (!this.#client.isBusy) return false;
    const { timeoutMs } = this.#environment;
    if (nowMs - this.#startedAtMs < timeoutMs) return true;
    this.#client.cancel(`no answer within ${timeoutMs} ms`);
    return this.#client.isBusy;
  }

  /** Its next poll comes before the horizon, and none is in flight. `intervalMs` is the scraper's current one. */
  isDue(horizonMs: number, intervalMs: number): boolean {
    if (this.#client.isBusy || this.#dueAtMs > horizonMs) return false;
    return this.#polls === 0 || this.#startedAtMs + this.#backoffMs(intervalMs) <= horizonMs;
  }

  /** Only when it is due. */
  poll(nowMs: number, intervalMs: number): void {
    this.#startedAtMs = nowMs;
    const wait = Math.max(intervalMs, this.#source.intervalMs);
    // From the last due time, so that the polls of many endpoints keep the distance they were given; not when far behind.
    this.#dueAtMs = nowMs - this.#dueAtMs < wait ? this.#dueAtMs + wait : nowMs + wait;
    this.#polls++;
    this.#client.get();
  }

  /** Moves the next poll to a time, but for the source's own interval and the back-off after failures: those are kept. */
  hurry(dueAtMs: number, intervalMs: number): void {
    const { intervalMs: ownMs } = this.#source;
    this.#dueAtMs = this.#polls > 0 && ownMs > intervalMs ? Math.max(dueAtMs, this.#startedAtMs + ownMs) : dueAtMs;
  }

  close(): void {
    this.#client.close();
  }

  status(nowMs: number): PollStatus {
    return {
      endpoint: this.#name,
      source: this.#source.sourceType,
      isHealthy: this.#consecutiveFailures < this.#environment.failureThreshold,
      consecutiveFailures: this.#consecutiveFailures,
      lastFailure: this.#lastFailure,
      missing: this.#missing,
      ageMs: Number.isFinite(this.#succeededAtMs) ? nowMs - this.#succeededAtMs : undefined,
      polls: this.#polls,
      failures: this.#failures,
    };
  }

  responded(status: number, body: Buffer, location: string): void {
    if (status !== 200) {
      if (location !== "" && this.#follow(status, location)) return;
      this.#pollFailed(`HTTP ${status}`);
      return;
    }
    const endpoint = this.#environment.endpoint(this.#name);
    if (endpoint === undefined) return;
    const nowMs = this.#environment.now();
    let failure: string | undefined;
    let missing = nothing;
    for (const { type, reader } of this.#extractors) {
      const outcome = readSafely(reader, endpoint, body, nowMs, this.#environment.sink);
      if (outcome.kind === "read") continue;
      this.#environment.counters.extractFailed(this.#source.sourceType, type);
      if (outcome.kind === "failed") failure ??= outcome.reason;
      else missing = outcome.missing;
    }
    if (missing.length > 0 && this.#missing.length === 0) {
      this.#environment.log.warn({ ...this.#fields(), missing }, "a metrics page lacks wanted series");
    }
    this.#missing = missing;
    if (failure !== undefined) this.#failed(failure);
    else this.#succeeded(nowMs);
  }

  failed(failure: GetFailure, detail: string): void {
    if (failure !== "CLOSED") this.#pollFailed(`${failure}: ${detail}`);
  }

  /**
   * Web frameworks send "/metrics" to "/metrics/". The new path is kept for the polls to come; another host is never followed: an engine has
   * no business sending the picker elsewhere.
   */
  #follow(status: number, location: string): boolean {
    if (status < 300 || status > 399 || this.#redirects >= maxRedirects) return false;
    const path = sameHostPath(this.#target, location);
    if (path === undefined) return false;
    this.#redirects++;
    this.#client.close();
    this.#target = { ...this.#target, path };
    this.#client = new GetClient(this.#target, this);
    this.#dueAtMs = this.#startedAtMs;
    return true;
  }

  #pollFailed(reason: string): void {
    this.#environment.counters.pollFailed(this.#source.sourceType);
    this.#failed(reason);
  }

  #failed(reason: string): void {
    this.#failures++;
    this.#consecutiveFailures++;
    this.#lastFailure = reason;
    if (this.#consecutiveFailures === this.#environment.failureThreshold) {
      this.#environment.log.warn({ ...this.#fields(), reason }, "an endpoint cannot be scraped");
    }
  }

  #succeeded(nowMs: number): void {
    if (this.#consecutiveFailures >= this.#environment.failureThreshold) {
      this.#environment.log.info(
        { ...this.#fields(), failures: this.#consecutiveFailures },
        "an endpoint can be scraped again",
      );
    }
    this.#consecutiveFailures = 0;
    this.#succeededAtMs = nowMs;
  }

  /** Doubles with each failure past the threshold. */
  #backoffMs(intervalMs: number): number {
    const excess = this.#consecutiveFailures - this.#environment.failureThreshold;
    if (excess < 0) return 0;
    return Math.min(intervalMs * 2 ** Math.min(excess + 1, 16), this.#environment.maxBackoffMs);
  }

  #fields(): { readonly endpoint: EndpointName; readonly source: string } {
    return { endpoint: this.#name, source: this.#source.sourceType };
  }
}

const nothing: readonly string[] = [];
/** Over the life of a poller. */
const maxRedirects = 3;

/** Path and query of a redirect that stays with the server; undefined when it leads elsewhere or nowhere. */
function sameHostPath({ address, port, path, tls }: GetTarget, location: string): string | undefined {
  const base = `${tls === undefined ? "http" : "https"}://${hostPortOf(address, port)}${path}`;
  if (!URL.canParse(location, base)) return undefined;
  const url = new URL(location, base);
  return url.origin === new URL(base).origin ? url.pathname + url.search : undefined;
}

/** An extractor may be a user's own: what it throws is a failed page, not the end of the loop. */
function readSafely(
  reader: PageReader,
  endpoint: Endpoint,
  page: Buffer,
  nowMs: number,
  sink: ScrapeSink,
): ReadOutcome {
  try {
    return reader.read(endpoint, page, nowMs, sink);
  } catch (error) {
    return { kind: "failed", reason: `the extractor failed: ${String(error)}` };
  }
}
