/**
 * Keeps a KvIndex true to what workers say: one cursor of event ids for each (worker, rank), gaps closed by asking the worker, the past fetched
 * on first contact, live events held meanwhile (rank-recovery.ts). A gap asks from the first id missing.
 */
import type { Holder } from "../../data/prefix-index/kv-index.ts";
import type { EventSourceRecord } from "../../dynamo/records.ts";
import { isLoggedAt } from "../../telemetry/log.ts";
import type { WorkerRank } from "../contracts.ts";
import { EventApplier } from "./event-applier.ts";
import { createIngestCounters, type IngestCounters } from "./ingest-counters.ts";
import { type IngestLimits, ingestDefaults, type KvEventIngestOptions, type SourceStatus } from "./ingest-options.ts";
import { LiveMessage } from "./live-message.ts";
import { RankRecovery, type RecoveryEnd } from "./rank-recovery.ts";
import { RankSource, rankFields, type WaitingMessage, type WaitingTotal } from "./rank-source.ts";
import { TimeSlicer } from "./time-slicer.ts";

/** Readers kept for the next message that is worked off in slices; their arrays may have grown to megabytes. */
const maxIdle = 2;

/** Recoveries in a row for one hole before it is gone over. */
const maxRounds = 3;

export class KvEventIngest {
  readonly counters: IngestCounters;
  readonly #options: KvEventIngestOptions;
  readonly #limits: IngestLimits;
  readonly #slicer: TimeSlicer;
  readonly #recovery: RankRecovery;
  readonly #live: LiveMessage;
  /** For messages that are worked off in slices, several at a time. */
  readonly #idle: LiveMessage[];
  readonly #waitingTotal: WaitingTotal;
  readonly #byPublisher: Map<bigint, RankSource>;
  readonly #byRank: Map<string, RankSource>;
  #isClosed: boolean;

  constructor(options: KvEventIngestOptions) {
    this.counters = createIngestCounters();
    this.#options = options;
    this.#limits = { ...ingestDefaults, ...options.limits };
    this.#slicer = new TimeSlicer(this.#limits.sliceMs, () => performance.now());
    this.#recovery = new RankRecovery({
      options,
      limits: this.#limits,
      counters: this.counters,
      slicer: this.#slicer,
      detach: (holder) => this.#detach(holder),
    });
    this.#live = this.#createMessage();
    this.#idle = [];
    this.#waitingTotal = { bytes: 0 };
    this.#byPublisher = new Map();
    this.#byRank = new Map();
    this.#isClosed = false;
  }

  /** Longest stretch of sliced work, for the record of how long the loop was held. */
  get longestSliceMs(): number {
    return this.#slicer.longestMs;
  }

  /** To be called once the events of this publisher are subscribed to. A newer publisher of the same rank replaces the older. */
  sourceAppeared(record: EventSourceRecord): void {
    if (this.#isClosed || this.#byPublisher.has(record.publisherId)) return;
    const key = rankKey(record);
    const older = this.#byRank.get(key);
    if (older !== undefined) this.#remove(older, key);
    const holder = this.#attach(record);
    if (holder === undefined) return;
    const source = new RankSource(record, holder, this.#waitingTotal);
    this.#byPublisher.set(record.publisherId, source);
    this.#byRank.set(key, source);
    this.#options.holderChanged(source.record, source.holder);
    if (source.isRecoverable) this.#recover(source, undefined);
  }

  /** Undefined where the index has no room for another rank: requests then reach it by its load alone. */
  #attach(rank: WorkerRank): Holder | undefined {
    try {
      return this.#options.index.attach();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      const count = ++this.counters.dropped["index-full"];
      if (isLoggedAt(count))
        this.#options.log.error(
          { error, count, workerId: String(rank.workerId), dpRank: rank.dpRank },
          "the index takes no more ranks",
        );
      return undefined;
    }
  }

  #createMessage(): LiveMessage {
    return new LiveMessage(this.#applier(), this.counters);
  }

  /** What it told is forgotten. */
  sourceGone(record: EventSourceRecord): void {
    const source = this.#byPublisher.get(record.publisherId);
    if (source !== undefined) this.#remove(source, rankKey(record));
  }

  workerGone(workerId: bigint): void {
    for (const [key, source] of this.#byRank) {
      if (source.record.workerId === workerId) this.#remove(source, key);
    }
  }

  /** The handler of the topic kv-events. The payload is borrowed. */
  onPayload(payload: Buffer, publisherId: bigint): void {
    this.counters.messages++;
    const source = this.#byPublisher.get(publisherId);
    if (source === undefined) {
      this.counters.dropped["unknown-source"]++;
      return;
    }
    const check = this.#live.check(payload, source);
    if (check === "malformed" || check === "foreign-events") this.#refuse(source, check);
    if (check !== "fine" || source.state === "fenced") return;
    if (source.state !== "live") this.#wait(source, payload);
    else if (payload.length > this.#limits.inlineBytes) {
      this.#wait(source, payload);
      this.#drainWaiting(source);
    } else this.#applyNow(source, payload);
  }

  /** Events may have been missed (the event plane was away): asks every source for what is newer than its cursor. */
  resync(): void {
    for (const source of this.#byRank.values()) {
      if (source.state === "live" && source.isRecoverable) this.#recover(source, nextId(source));
    }
  }

  holderOf(rank: WorkerRank): Holder | undefined {
    return this.#byRank.get(rankKey(rank))?.holder;
  }

  /** Whether every source that can be asked has been. */
  get isSettled(): boolean {
    for (const { state } of this.#byRank.values()) if (state === "recovering" || state === "draining") return false;
    return true;
  }

  sources(): SourceStatus[] {
    return [...this.#byRank.values()].map(({ record, state, cursor, isDegraded, waiting }) => ({
      workerId: record.workerId,
      dpRank: record.dpRank,
      publisherId: record.publisherId,
      state,
      cursor,
      isDegraded,
      waitingMessages: waiting.length,
    }));
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#slicer.close();
    for (const [key, source] of this.#byRank) this.#remove(source, key);
  }

  #applyNow(source: RankSource, payload: Buffer): void {
    this.#live.open(payload);
    if (this.#live.step(source, Number.POSITIVE_INFINITY, false) !== "gap") return;
    this.counters.gaps++;
    if (source.isRecoverable) {
      source.rounds = 1;
      this.#wait(source, payload);
      this.#recover(source, nextId(source));
      return;
    }
    // Nobody can say what was missed, so what is held may be gone by now: the rank starts again from here.
    this.#options.index.cleared(source.holder);
    this.#live.step(source, Number.POSITIVE_INFINITY, true);
  }

  #wait(source: RankSource, payload: Buffer): void {
    this.counters.dropped.overflow += source.wait(
      payload,
      this.#live.firstEventId,
      this.#live.events,
      this.#limits.buffer,
    );
  }

  #refuse(source: RankSource, reason: "malformed" | "foreign-events"): void {
    const count = ++this.counters.dropped[reason];
    if (!isLoggedAt(count)) return;
    const { fault } = this.#live;
    this.#options.log.warn(
      { reason, count, ...rankFields(source), ...(reason === "malformed" ? { fault } : {}) },
      "KV events dropped",
    );
  }

  #remove(source: RankSource, key: string): void {
    source.state = "gone";
    source.abort.abort();
    clearTimeout(source.timer);
    source.discardWaiting();
    this.#byPublisher.delete(source.record.publisherId);
    if (this.#byRank.get(key) !== source) return;
    this.#byRank.delete(key);
    this.#detach(source.holder);
    this.#options.holderChanged(source.record, undefined);
  }

  /** The index takes a holder's blocks out in slices of its own size. */
  #detach(holder: Holder): void {
    const { index } = this.#options;
    index.detach(holder);
    void this.#slicer.run({ step: () => !index.upkeep(performance.now()) });
  }

  #recover(source: RankSource, startEventId: number | undefined): void {
    clearTimeout(source.timer);
    source.state = "recovering";
    this.counters.recoveriesStarted++;
    this.#recovery
      .run(source, startEventId)
      .then((end) => this.#recoveryEnded(source, end))
      .catch((error: unknown) => {
        // Only a defect ends here: what workers do wrong is an outcome.
        this.#options.log.error({ error, ...rankFields(source) }, "KV recovery ended unexpectedly");
        if (source.state !== "gone") this.#degrade(source);
      });
  }

  #recoveryEnded(source: RankSource, end: RecoveryEnd): void {
    if (source.state !== "recovering") return;
    switch (end.kind) {
      case "recovered":
        source.isDegraded = false;
        if (end.wasWhole) this.#later(source, this.#limits.settleMs);
        this.#drainWaiting(source);
        return;
      case "failed":
        this.#degrade(source);
        return;
      case "foreign":
        this.#fence(source);
        return;
      case "gone":
        return;
      default:
        end satisfies never;
    }
  }

  #applier(): EventApplier {
    return new EventApplier(this.#options.index, this.counters);
  }

  #degrade(source: RankSource): void {
    source.isDegraded = true;
    source.rounds = maxRounds;
    this.#later(source, this.#limits.degradedRetryMs);
    this.#drainWaiting(source);
  }

  #later(source: RankSource, delayMs: number): void {
    clearTimeout(source.timer);
    source.timer = setTimeout(() => {
      if (source.state !== "live") this.#later(source, delayMs);
      else this.#recover(source, source.isDegraded ? undefined : nextId(source));
    }, delayMs);
  }

  #fence(source: RankSource): void {
    this.counters.dropped["foreign-events"]++;
    this.#options.log.error(
      rankFields(source),
      "KV recovery answered for another worker; this source is ignored until it is replaced",
    );
    source.state = "fenced";
    source.discardWaiting();
    this.#options.index.cleared(source.holder);
  }

  #drainWaiting(source: RankSource): void {
    source.state = "draining";
    source.sortWaiting();
    let current: WaitingMessage | undefined;
    let acceptsGap = false;
    const message = this.#idle.pop() ?? this.#createMessage();
    const step = (deadlineMs: number): boolean => {
      if (source.state !== "draining") return true;
      if (current === undefined) {
        current = source.takeWaiting();
        if (current === undefined) {
          this.#wentLive(source);
          return true;
        }
        message.open(current.payload);
        acceptsGap = source.isRecoverable && source.rounds >= maxRounds;
      }
      const progress = message.step(source, deadlineMs, acceptsGap);
      if (progress === "gap") {
        this.counters.gaps++;
        if (source.isRecoverable) {
          source.rounds++;
          source.putBack(current);
          this.#recover(source, nextId(source));
          return true;
        }
        this.#options.index.cleared(source.holder);
        acceptsGap = true;
      } else if (progress === "done") current = undefined;
      return false;
    };
    this.#slicer
      .run({ step })
      .catch((error: unknown) =>
        this.#options.log.error({ error, ...rankFields(source) }, "KV events cannot be applied"),
      )
      .finally(() => {
        if (this.#idle.length < maxIdle) this.#idle.push(message);
      });
  }

  #wentLive(source: RankSource): void {
    source.rounds = 0;
    source.state = "live";
  }
}

/** Undefined before the first event: then everything is asked for. */
function nextId({ cursor }: RankSource): number | undefined {
  return cursor < 0 ? undefined : cursor + 1;
}

function rankKey({ workerId, dpRank }: WorkerRank): string {
  return `${workerId}/${dpRank}`;
}
