/**
 * Leader election by a Lease, as client-go contends for it (tools/leaderelection): whoever holds it renews it, whoever does not takes it once
 * it has not changed for its duration. Times are measured by the observer's own monotonic clock and never read from the record, so clocks need
 * not agree. A leader counts from the moment it sent its last good renewal and the others from when they saw it, so two never lead at once.
 */
import { KubernetesApiError } from "./api-client.ts";
import { type Lease, type LeaseRecord, type LeaseStore, microTime } from "./lease.ts";

export interface ElectionClock {
  /** Monotonic milliseconds. */
  now(): number;
  /** Milliseconds since 1970, for the record alone. */
  wallMs(): number;
  /** Resolves after the time or as soon as the signal aborts. */
  rest(ms: number, signal: AbortSignal): Promise<void>;
}

/** Milliseconds. client-go's defaults; the first is written into the lease, in whole seconds. */
export interface ElectionTimes {
  /** Without a change for so long the lease is anybody's. */
  readonly leaseMs: number;
  /** Without a renewal for so long a leader leads no more. */
  readonly renewMs: number;
  /** Between two tries. */
  readonly retryMs: number;
}

export type ElectionEvent =
  /** `after` is who held it before; "" for nobody. */
  | { readonly kind: "leads"; readonly transitions: number; readonly after: string }
  | { readonly kind: "lost"; readonly holder: string; readonly error: unknown }
  | { readonly kind: "released" }
  /** Somebody else leads. */
  | { readonly kind: "follows"; readonly holder: string }
  /** The first of a row of failed tries. */
  | { readonly kind: "failed"; readonly error: unknown };

export interface ElectionOptions {
  readonly store: LeaseStore;
  /** Unlike that of any other contender, ever. */
  readonly identity: string;
  readonly report: (event: ElectionEvent) => void;
  readonly times?: ElectionTimes;
  readonly clock?: ElectionClock;
  /** Uniform in [0, 1). */
  readonly random?: () => number;
}

export const electionTimes: ElectionTimes = { leaseMs: 15_000, renewMs: 10_000, retryMs: 2_000 };

/** Of client-go: contenders wait up to so much longer than the retry time. */
const jitter = 1.2;
/** A hanging request must not cost the lead. */
const requestShare = 0.5;
const releaseTries = 2;
const releaseTimeoutMs = 2_000;

const systemClock: ElectionClock = {
  now: () => performance.now(),
  wallMs: Date.now,
  rest: (ms, signal) =>
    new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const done = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener("abort", done);
    }),
};

export class LeaseElection {
  readonly #store: LeaseStore;
  readonly #identity: string;
  readonly #report: (event: ElectionEvent) => void;
  readonly #times: ElectionTimes;
  readonly #clock: ElectionClock;
  readonly #random: () => number;
  readonly #closing = new AbortController();
  /** Cuts the wait that is under way. */
  #waking = new AbortController();
  #run: Promise<void> | undefined;
  #closed: Promise<void> | undefined;
  /** Begun to lead and not yet told that it ended. */
  #isTold = false;
  #leadsUntilMs = Number.NEGATIVE_INFINITY;
  /** As it was last read or written. */
  #lease: Lease | undefined;
  /** Spec of the lease when its observation began. */
  #observed = "";
  #observedAtMs = 0;
  #toldHolder = "";
  #isFailing = false;
  #lastError: unknown;

  constructor(options: ElectionOptions) {
    const { store, identity, report, times = electionTimes, clock = systemClock, random = Math.random } = options;
    if (times.leaseMs <= times.renewMs || times.renewMs <= times.retryMs * jitter) {
      throw new RangeError("the lease must outlast the renewal deadline, and that one several tries");
    }
    this.#store = store;
    this.#identity = identity;
    this.#report = report;
    this.#times = times;
    this.#clock = clock;
    this.#random = random;
  }

  /** True now, and false as soon as the last good renewal is too old, whatever this process was doing meanwhile. */
  get isLeading(): boolean {
    return this.#clock.now() < this.#leadsUntilMs;
  }

  /** Who holds the lease as far as is known; "" for nobody. */
  get holder(): string {
    return this.#lease?.spec.holderIdentity ?? "";
  }

  get transitions(): number {
    return this.#lease?.spec.leaseTransitions ?? 0;
  }

  /** Why the last try failed; undefined when it did not. */
  get lastError(): unknown {
    return this.#lastError;
  }

  /** Begins to contend, until closed. */
  start(): void {
    this.#run ??= this.#contend();
  }

  /** The lease may have become free: a contender that waits tries now. */
  wake(): void {
    this.#waking.abort();
  }

  /** Leads no more from now on; resolves once the lease is given back, or cannot be. */
  close(): Promise<void> {
    this.#closed ??= this.#release();
    return this.#closed;
  }

  async #contend(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      // Before the try: what wakes during it may be newer than what it reads.
      this.#waking = new AbortController();
      try {
        await this.#try();
        this.#isFailing = false;
        this.#lastError = undefined;
      } catch (error) {
        this.#lastError = error;
        if (!this.#isFailing) this.#report({ kind: "failed", error });
        this.#isFailing = true;
      }
      this.#tellLoss();
      await this.#clock.rest(this.#pauseMs(), AbortSignal.any([signal, this.#waking.signal]));
      this.#tellLoss();
    }
  }

  /** Until the next try: of a leader no longer than it leads, of a contender no longer than the lease is held. */
  #pauseMs(): number {
    const now = this.#clock.now();
    const { retryMs } = this.#times;
    if (this.isLeading) return Math.min(retryMs, this.#leadsUntilMs - now);
    const spreadMs = retryMs * (1 + jitter * this.#random());
    const freeInMs = this.#freeAtMs() - now;
    return freeInMs > 0 ? Math.min(spreadMs, freeInMs + 1) : spreadMs;
  }

  /** When the lease as it was seen last is anybody's. */
  #freeAtMs(): number {
    return this.#observedAtMs + (this.#lease?.spec.leaseDurationSeconds ?? 0) * 1000;
  }

  #isHeldByAnother(): boolean {
    return this.holder !== "" && this.holder !== this.#identity && this.#clock.now() < this.#freeAtMs();
  }

  async #try(): Promise<void> {
    if (this.isLeading && this.#lease !== undefined && (await this.#renew(this.#lease))) return;
    const lease = await this.#store.read(this.#timeoutMs());
    if (lease === undefined) {
      // Whoever lost its lease may not know it yet.
      if (this.#isHeldByAnother()) return;
      await this.#take("", () => this.#store.create(this.#record(undefined), this.#timeoutMs()));
      return;
    }
    this.#observe(lease);
    const holder = lease.spec.holderIdentity ?? "";
    if (holder !== "" && holder !== this.#identity) {
      this.#leadsUntilMs = Number.NEGATIVE_INFINITY;
      this.#tellLoss();
      if (this.#isHeldByAnother()) {
        if (this.#toldHolder !== holder) this.#report({ kind: "follows", holder });
        this.#toldHolder = holder;
        return;
      }
    }
    await this.#take(holder, () => this.#store.replace(lease, this.#record(lease), this.#timeoutMs()));
  }

  /** Another that was faster is no fault: it is seen at the next look. */
  async #take(after: string, write: () => Promise<Lease>): Promise<void> {
    const sentAtMs = this.#clock.now();
    try {
      this.#hold(await write(), sentAtMs, after);
    } catch (error) {
      if (!hasStatus(error, 409)) throw error;
    }
  }

  /** By the version that is known, without reading first. False when the lease is another by now. */
  async #renew(lease: Lease): Promise<boolean> {
    const sentAtMs = this.#clock.now();
    try {
      this.#hold(await this.#store.replace(lease, this.#record(lease), this.#timeoutMs()), sentAtMs, this.#identity);
      return true;
    } catch (error) {
      // Gone is as good as changed: what is there now is read.
      if (hasStatus(error, 409) || hasStatus(error, 404)) return false;
      throw error;
    }
  }

  #hold(lease: Lease, sentAtMs: number, after: string): void {
    this.#observe(lease);
    if (this.#closing.signal.aborted) return;
    this.#leadsUntilMs = sentAtMs + this.#times.renewMs;
    if (!this.isLeading || this.#isTold) return;
    this.#isTold = true;
    this.#toldHolder = "";
    this.#report({ kind: "leads", transitions: this.transitions, after });
  }

  #observe(lease: Lease): void {
    this.#lease = lease;
    const spec = JSON.stringify(lease.spec);
    if (spec === this.#observed) return;
    this.#observed = spec;
    this.#observedAtMs = this.#clock.now();
  }

  #record(before: Lease | undefined): LeaseRecord {
    const now = microTime(this.#clock.wallMs());
    const { acquireTime = now, leaseTransitions = 0, holderIdentity } = before?.spec ?? {};
    const isOurs = before === undefined || holderIdentity === this.#identity;
    return {
      holderIdentity: this.#identity,
      leaseDurationSeconds: Math.ceil(this.#times.leaseMs / 1000),
      acquireTime: isOurs ? acquireTime : now,
      renewTime: now,
      leaseTransitions: isOurs ? leaseTransitions : leaseTransitions + 1,
    };
  }

  #timeoutMs(): number {
    const limitMs = this.#times.renewMs * requestShare;
    return this.isLeading ? Math.max(1, Math.min(limitMs, this.#leadsUntilMs - this.#clock.now())) : limitMs;
  }

  #tellLoss(): void {
    if (!this.#isTold || this.isLeading) return;
    this.#isTold = false;
    if (!this.#closing.signal.aborted) this.#report({ kind: "lost", holder: this.holder, error: this.#lastError });
  }

  async #release(): Promise<void> {
    this.#leadsUntilMs = Number.NEGATIVE_INFINITY;
    this.#closing.abort();
    // What is under way may still take the lease: only its outcome says whether there is something to give back.
    await this.#run;
    for (let tries = 0; tries < releaseTries; tries++) {
      try {
        const isKnown = tries === 0 && !this.#isFailing;
        const lease = isKnown ? this.#lease : await this.#store.read(releaseTimeoutMs);
        if (lease?.spec.holderIdentity !== this.#identity) return;
        this.#lease = await this.#store.replace(lease, this.#nobody(), releaseTimeoutMs);
        this.#report({ kind: "released" });
        return;
      } catch (error) {
        this.#lastError = error;
      }
    }
  }

  #nobody(): LeaseRecord {
    const now = microTime(this.#clock.wallMs());
    return { holderIdentity: "", leaseDurationSeconds: 1, acquireTime: now, renewTime: now };
  }
}

function hasStatus(error: unknown, status: number): boolean {
  return error instanceof KubernetesApiError && error.status === status;
}
