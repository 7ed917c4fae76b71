/**
 * Events that `kubectl describe` shows beside an object. Whoever notes one is never held up and never fails: what is alike is one Event that
 * counts, a token bucket bounds what is sent, and what the API server does not take is dropped, said once and tried again much later.
 */
import { randomBytes } from "node:crypto";
import { type KubernetesApi, KubernetesApiError } from "./api-client.ts";

/** What an Event is about; Events are written into its namespace. */
export interface ObjectReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly namespace: string;
  readonly name: string;
  /** Without it `kubectl describe` does not show the Event. */
  readonly uid?: string;
}

export interface EventNote {
  readonly type: "Normal" | "Warning";
  /** One word in CamelCase: notes about one object with the same reason are one Event. */
  readonly reason: string;
  readonly message: string;
}

type About = () => Promise<ObjectReference | undefined>;

export interface EventRecorderOptions {
  readonly api: Pick<KubernetesApi, "request">;
  readonly component: string;
  /** The process that says so. */
  readonly instance: string;
  /** Once for each row of refusals. */
  readonly refused: (error: unknown) => void;
  readonly limits?: EventLimits;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
}

export interface EventLimits {
  /** Requests that may follow each other at once. */
  readonly burst: number;
  /** One more after each such time. */
  readonly refillMs: number;
  /** An Event that is there is told of further notes no more often than this. */
  readonly updateMs: number;
  /** After it was forbidden. */
  readonly restMs: number;
}

/** Somewhat more than client-go lets one object have, since one reason is one Event here. */
const defaultLimits: EventLimits = { burst: 10, refillMs: 12_000, updateMs: 10_000, restMs: 600_000 };
/** Different Events that one process keeps count of. */
const maxSeries = 64;
/** The API server takes 1024 bytes of message and names of 253 characters. */
const maxMessageBytes = 1024;
const maxNamePrefix = 200;
const requestTimeoutMs = 5_000;
const firstRetryMs = 1_000;
const longestRetryMs = 60_000;

interface Series {
  readonly about: About;
  readonly reason: string;
  type: EventNote["type"];
  message: string;
  count: number;
  readonly firstAt: string;
  lastAt: string;
  /** Of the Event, once it is there, and where. */
  place: { readonly namespace: string; readonly name: string } | undefined;
  isPending: boolean;
  /** Not before. */
  dueMs: number;
}

export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #limits: EventLimits;
  readonly #now: () => number;
  readonly #closing = new AbortController();
  readonly #series = new Map<string, Series>();
  #tokens: number;
  #refilledAtMs: number;
  #restUntilMs = 0;
  #failures = 0;
  #isRefusalTold = false;
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;
  #dropped = 0;

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#limits = options.limits ?? defaultLimits;
    this.#now = options.now ?? (() => performance.now());
    this.#tokens = this.#limits.burst;
    this.#refilledAtMs = this.#now();
  }

  /** Notes that came to nothing. */
  get dropped(): number {
    return this.#dropped;
  }

  /**
   * `object` names what it is about, the same for the same object; `about` says it in full when the Event is written, undefined where there is
   * no such object any more.
   */
  note(object: string, about: About, { type, reason, message }: EventNote): void {
    if (this.#closing.signal.aborted) return;
    const key = `${object} ${reason}`;
    const at = `${new Date().toISOString().slice(0, 19)}Z`;
    let series = this.#series.get(key);
    if (series === undefined) {
      if (this.#series.size >= maxSeries && !this.#forgetOne()) {
        this.#dropped++;
        return;
      }
      series = {
        about,
        reason,
        type,
        message,
        count: 0,
        firstAt: at,
        lastAt: at,
        place: undefined,
        isPending: false,
        dueMs: 0,
      };
      this.#series.set(key, series);
    }
    series.type = type;
    series.message = message;
    series.count++;
    series.lastAt = at;
    series.isPending = true;
    this.#schedule();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    clearTimeout(this.#timer);
    await this.#sending;
  }

  /** The first that says nothing new. */
  #forgetOne(): boolean {
    for (const [key, series] of this.#series) {
      if (series.isPending) continue;
      this.#series.delete(key);
      return true;
    }
    return false;
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#sending !== undefined || this.#closing.signal.aborted) return;
    const next = this.#next();
    if (next === undefined) return;
    const waitMs = Math.max(0, next.dueMs - this.#now(), this.#restUntilMs - this.#now(), this.#untilTokenMs());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#sending = this.#sendNext().finally(() => {
        this.#sending = undefined;
        this.#schedule();
      });
    }, waitMs);
    this.#timer.unref();
  }

  /** The one that is due first. */
  #next(): Series | undefined {
    let first: Series | undefined;
    for (const series of this.#series.values()) {
      if (series.isPending && (first === undefined || series.dueMs < first.dueMs)) first = series;
    }
    return first;
  }

  #untilTokenMs(): number {
    const { burst, refillMs } = this.#limits;
    const refilled = Math.floor((this.#now() - this.#refilledAtMs) / refillMs);
    this.#tokens = Math.min(burst, this.#tokens + refilled);
    this.#refilledAtMs = this.#tokens === burst ? this.#now() : this.#refilledAtMs + refilled * refillMs;
    return this.#tokens > 0 ? 0 : this.#refilledAtMs + refillMs - this.#now();
  }

  async #sendNext(): Promise<void> {
    const series = this.#next();
    const now = this.#now();
    if (series === undefined || series.dueMs > now || this.#restUntilMs > now || this.#untilTokenMs() > 0) return;
    this.#tokens--;
    series.isPending = false;
    try {
      await this.#send(series);
      series.dueMs = this.#now() + this.#limits.updateMs;
      this.#failures = 0;
      this.#isRefusalTold = false;
    } catch (error) {
      if (!this.#closing.signal.aborted) this.#failed(series, error);
    }
  }

  #failed(series: Series, error: unknown): void {
    const status = error instanceof KubernetesApiError ? error.status : 0;
    // Refused it would be again, where a token that has expired or a server in trouble is another matter.
    if (status >= 400 && status < 500 && status !== 401 && status !== 429) {
      this.#dropped++;
      if (status === 403) this.#restUntilMs = this.#now() + this.#limits.restMs;
      if (!this.#isRefusalTold) this.#options.refused(error);
      this.#isRefusalTold = true;
      return;
    }
    series.isPending = true;
    this.#failures++;
    this.#restUntilMs = this.#now() + Math.min(firstRetryMs * 2 ** (this.#failures - 1), longestRetryMs);
  }

  async #send(series: Series): Promise<void> {
    if (series.place !== undefined && (await this.#update(series, series.place))) return;
    const { component, instance } = this.#options;
    const involvedObject = await series.about();
    if (involvedObject === undefined) {
      this.#dropped++;
      return;
    }
    const { namespace } = involvedObject;
    const name = `${involvedObject.name.slice(0, maxNamePrefix)}.${randomBytes(8).toString("hex")}`;
    await this.#request("POST", `/api/v1/namespaces/${namespace}/events`, {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name, namespace },
      involvedObject,
      reason: series.reason,
      source: { component },
      reportingComponent: component,
      reportingInstance: instance,
      firstTimestamp: series.firstAt,
      ...counted(series),
    });
    series.place = { namespace, name };
  }

  /** False when the Event has gone, as all do after an hour. */
  async #update(series: Series, { namespace, name }: NonNullable<Series["place"]>): Promise<boolean> {
    try {
      await this.#request("PATCH", `/api/v1/namespaces/${namespace}/events/${name}`, counted(series));
      return true;
    } catch (error) {
      if (!(error instanceof KubernetesApiError) || error.status !== 404) throw error;
      series.place = undefined;
      return false;
    }
  }

  async #request(method: "POST" | "PATCH", path: string, body: object): Promise<void> {
    await this.#options.api.request(
      {
        method,
        path,
        body: JSON.stringify(body),
        timeoutMs: requestTimeoutMs,
        ...(method === "PATCH" ? { contentType: "application/merge-patch+json" } : {}),
      },
      this.#closing.signal,
    );
  }
}

/** What changes with each further note. */
function counted({ type, message, count, lastAt }: Series): object {
  return { type, message: cut(message, maxMessageBytes), count, lastTimestamp: lastAt };
}

/** At most so many bytes of UTF-8, at the end of a character. */
function cut(text: string, maxBytes: number): string {
  const bytes = Buffer.from(text, "utf8");
  if (bytes.length <= maxBytes) return text;
  let end = maxBytes - 3;
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return `${bytes.toString("utf8", 0, end)}…`;
}
