/**
 * Asks a rank's worker for what was missed and works its answer into the index: again after failures, with growing pauses, and from the beginning where
 * the worker knows less than we do. Rules of dynamo-llm 1.6.1's worker_query: the worker chooses between events and a whole tree dump; only a dump
 * of the whole rank replaces what is held, and the newest id it covers, not its own made-up ids, is where the cursor goes on.
 */
import type { Holder } from "../../data/prefix-index/kv-index.ts";
import { MalformedMessage } from "../../dynamo/encoding/value-reader.ts";
import { ApplyAnswer, CheckAnswer } from "./answer-jobs.ts";
import { EventApplier } from "./event-applier.ts";
import type { IngestCounters } from "./ingest-counters.ts";
import type { IngestLimits, KvEventIngestOptions } from "./ingest-options.ts";
import { type RankSource, rankFields } from "./rank-source.ts";
import { RecoveryLane } from "./recovery-lane.ts";
import { type RecoveryBytes, RecoveryError } from "./recovery-query.ts";
import type { SlicedJob, TimeSlicer } from "./time-slicer.ts";

export type RecoveryEnd =
  /** `wasWhole`: everything was asked for, not what came after an event. */
  | { readonly kind: "recovered"; readonly wasWhole: boolean }
  | { readonly kind: "failed" }
  /** The worker answered about another one. */
  | { readonly kind: "foreign" }
  /** Its source left or was replaced meanwhile. */
  | { readonly kind: "gone" };

type AttemptEnd = "done" | "behind" | "foreign";

export interface RankRecoveryInit {
  readonly options: KvEventIngestOptions;
  readonly limits: IngestLimits;
  readonly counters: IngestCounters;
  readonly slicer: TimeSlicer;
  /** Takes a holder that was replaced out of the index. */
  readonly detach: (holder: Holder) => void;
}

const gone: RecoveryEnd = { kind: "gone" };

export class RankRecovery {
  readonly #init: RankRecoveryInit;
  readonly #options: KvEventIngestOptions;
  readonly #limits: IngestLimits;
  readonly #counters: IngestCounters;
  readonly #slicer: TimeSlicer;
  readonly #lane: RecoveryLane;

  constructor(init: RankRecoveryInit) {
    this.#init = init;
    this.#options = init.options;
    this.#limits = init.limits;
    this.#counters = init.counters;
    this.#slicer = init.slicer;
    this.#lane = new RecoveryLane(init.limits.concurrentRecoveries);
  }

  /** Rejects only for a defect: what workers do wrong is an outcome. */
  async run(source: RankSource, startEventId: number | undefined): Promise<RecoveryEnd> {
    const isFirst = source.isEmpty;
    let start = startEventId;
    let lastError: unknown;
    for (let attempt = 0; attempt < this.#limits.attempts; attempt++) {
      if (attempt > 0) await pause(this.#limits.firstBackoffMs * 2 ** (attempt - 1), source.abort.signal);
      if (source.state === "gone") return gone;
      this.#counters.recoveryAttempts++;
      try {
        const outcome = await this.#attempt(source, start);
        if (source.state !== "recovering") return gone;
        if (outcome === "foreign") return { kind: "foreign" };
        if (outcome === "behind") {
          start = undefined;
          continue;
        }
        this.#counters.recoveriesDone++;
        return { kind: "recovered", wasWhole: isFirst || start === undefined };
      } catch (error) {
        if (!(error instanceof RecoveryError || error instanceof MalformedMessage)) throw error;
        lastError = error;
      }
    }
    this.#counters.recoveriesFailed++;
    this.#options.log.warn(
      { error: lastError, ...rankFields(source) },
      "KV recovery failed; going on with live events",
    );
    return { kind: "failed" };
  }

  /** "behind": the worker knows less than we do, so its past is another one and all of it is needed. */
  async #attempt(source: RankSource, start: number | undefined): Promise<AttemptEnd> {
    // Held until the answer is worked off: as many answers are in memory as permits.
    const release = await this.#lane.acquire();
    try {
      if (source.abort.signal.aborted) return "done";
      const answer = await this.#options.query(source.record, start, source.abort.signal);
      try {
        return await this.#workOff(source, answer);
      } finally {
        answer.release?.();
      }
    } finally {
      release();
    }
  }

  async #workOff(source: RankSource, answer: RecoveryBytes): Promise<AttemptEnd> {
    const check = new CheckAnswer(answer, source);
    await this.#slicer.run(this.#guarded(source, check));
    if (source.state !== "recovering") return "done";
    const { kind, lastEventId, eventsAt, isWholeRank, message } = check.answer;
    if (check.isForeign) return "foreign";
    switch (kind) {
      case "events":
        await this.#slicer.run(
          this.#guarded(source, new ApplyAnswer(answer, eventsAt, source.holder, source.cursor, this.#applier())),
        );
        break;
      case "tree-dump":
        if (!isWholeRank) throw new RecoveryError("partial-dump", "the worker dumped a part of its rank only");
        await this.#replace(source, answer, eventsAt);
        break;
      case "too-new":
        return lastEventId < source.cursor ? "behind" : "done";
      case "invalid-range":
      case "tree-dump-failed":
      case "error":
      case "unknown":
        throw new RecoveryError(kind, message === "" ? "the worker cannot answer" : message);
      default:
        kind satisfies never;
    }
    if (source.state === "recovering")
      source.cursor = kind === "tree-dump" ? lastEventId : Math.max(source.cursor, lastEventId);
    return "done";
  }

  /** The old blocks answer until the new ones are all there. */
  async #replace(source: RankSource, answer: RecoveryBytes, eventsAt: number): Promise<void> {
    const { index, holderChanged } = this.#options;
    const { detach } = this.#init;
    this.#counters.treeDumps++;
    const isFresh = source.isEmpty;
    const holder = isFresh ? source.holder : index.attach();
    source.isEmpty = false;
    await this.#slicer.run(this.#guarded(source, new ApplyAnswer(answer, eventsAt, holder, -1, this.#applier())));
    if (isFresh) return;
    if (source.state !== "recovering") {
      detach(holder);
      return;
    }
    const old = source.holder;
    source.holder = holder;
    holderChanged(source.record, holder);
    detach(old);
  }

  /** A job that ends at once when its source has gone meanwhile. */
  #guarded(source: RankSource, job: SlicedJob): SlicedJob {
    return { step: (deadlineMs) => source.state === "gone" || job.step(deadlineMs) };
  }

  #applier(): EventApplier {
    return new EventApplier(this.#options.index, this.#counters);
  }
}

function pause(durationMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, durationMs);
    if (signal.aborted) finish();
    else signal.addEventListener("abort", finish, { once: true });
  });
}
