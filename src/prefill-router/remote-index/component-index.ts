/**
 * The index that other processes serve for one component of the workers: asked of a prompt before it is planned, and told of decisions where no
 * events feed it. Nothing here fails a request: what cannot be had in time counts as nothing known, by reason.
 */

import { MalformedMessage } from "../../dynamo/encoding/value-reader.ts";
import { type IndexAnswer, type RankOverlap, readIndexAnswer } from "../../dynamo/kv-index/index-answer.ts";
import { encodeIndexQuestion } from "../../dynamo/kv-index/index-question.ts";
import { encodeRoutingRecord, type RecordAnswer, readRecordAnswer } from "../../dynamo/kv-index/routing-record.ts";
import type { InstanceRecord } from "../../dynamo/records.ts";
import type { PendingCall, RequestPlane } from "../../dynamo/request-plane/contracts.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { WorkerRank } from "../contracts.ts";
import { type Component, IndexInstances, type InstanceLookup } from "./index-instances.ts";
import { count, type RemoteCounters, type RemoteFailure } from "./remote-counters.ts";

export interface ComponentIndexInit {
  readonly component: Component;
  readonly model: string;
  readonly isFedByEvents: boolean;
  readonly lookup: InstanceLookup;
  readonly plane: Pick<RequestPlane, "call">;
  readonly counters: RemoteCounters;
  readonly now: () => number;
  readonly log: Logger;
  /** From a question to its whole answer. */
  readonly answerWithinMs: number;
}

/** Some 60 bytes for each tier of each rank: room for thousands of ranks. */
const maxAnswerBytes = 4 * 1024 * 1024;
/** Decisions that are being written; a server that is slow loses what comes beyond. */
const maxRecords = 1024;

type Outcome<Answer> =
  | { readonly kind: "answer"; readonly answer: Answer }
  | { readonly kind: "failed"; readonly reason: RemoteFailure; readonly message: string };

type ReadAnswer<Answer> = (bytes: Buffer, codec: InstanceRecord["codec"]) => Answer;

export class ComponentIndex {
  readonly #init: ComponentIndexInit;
  readonly #instances: IndexInstances;
  readonly #records = new Set<{ cancel(): void }>();
  /** Of questions and of decisions: what was last said in the log. */
  readonly #failing: { query: boolean; record: boolean } = { query: false, record: false };

  constructor(init: ComponentIndexInit) {
    this.#init = init;
    const { component, isFedByEvents, lookup, now } = init;
    this.#instances = new IndexInstances(component, isFedByEvents, lookup, now);
  }

  /** `done` is called exactly once, before it returns or later, unless cancelled; undefined: nothing could be learnt. */
  ask(blockHashes: Uint32Array, done: (overlaps: readonly RankOverlap[] | undefined) => void): { cancel(): void } {
    const { model, counters } = this.#init;
    const fail = (reason: RemoteFailure, message: string): void => {
      count(counters.failedQueries, reason);
      this.#note("query", reason, message);
      done(undefined);
    };
    const choice = this.#instances.forQuery();
    if (choice.kind === "none") {
      fail(choice.reason, choice.message);
      return nothingPending;
    }
    const { instance } = choice;
    const body = encodeIndexQuestion({ model, blockHashes, isDeviceOnly: false }, instance.codec);
    return this.#call<IndexAnswer>(instance, body, readIndexAnswer, (outcome) => {
      if (outcome.kind === "failed") return fail(outcome.reason, outcome.message);
      if (outcome.answer.kind === "error") return fail("error", outcome.answer.message);
      counters.answered += 1;
      this.#note("query", undefined, "");
      done(outcome.answer.overlaps);
    });
  }

  /** Sent and not waited for. */
  record(rank: WorkerRank, blockHashes: Uint32Array, sequenceHashes: Uint32Array): void {
    const { model, counters } = this.#init;
    const fail = (reason: RemoteFailure, message: string): void => {
      count(counters.failedRecords, reason);
      this.#note("record", reason, message);
    };
    if (this.#records.size >= maxRecords) {
      fail("overflow", `${maxRecords} decisions are being written already`);
      return;
    }
    const choice = this.#instances.forRecord();
    if (choice.kind === "none") {
      fail(choice.reason, choice.message);
      return;
    }
    const { instance } = choice;
    const body = encodeRoutingRecord({ model, ...rank, blockHashes, sequenceHashes }, instance.codec);
    const call = this.#call<RecordAnswer>(instance, body, readRecordAnswer, (outcome) => {
      this.#records.delete(call);
      if (outcome.kind === "failed") return fail(outcome.reason, outcome.message);
      if (outcome.answer.kind === "error") return fail("error", outcome.answer.message);
      counters.recorded += 1;
      this.#note("record", undefined, "");
    });
    this.#records.add(call);
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return {
      isAnswering: !this.#failing.query,
      isRecording: !this.#failing.record,
      recordsUnderWay: this.#records.size,
    };
  }

  /** What is being asked is its askers' to cancel. */
  close(): void {
    for (const call of this.#records) call.cancel();
    this.#records.clear();
  }

  #call<Answer extends { readonly kind: string }>(
    instance: InstanceRecord,
    body: Buffer,
    read: ReadAnswer<Answer>,
    done: (outcome: Outcome<Answer>) => void,
  ): { cancel(): void } {
    const { plane, answerWithinMs } = this.#init;
    let isOver = false;
    const finish = (outcome: Outcome<Answer>): void => {
      if (isOver) return;
      isOver = true;
      clearTimeout(timer);
      const isGood = outcome.kind === "answer" && outcome.answer.kind !== "error";
      if (isGood) this.#instances.succeeded(instance);
      else this.#instances.failed(instance);
      done(outcome);
    };
    const timer = setTimeout(() => {
      call.cancel();
      finish({ kind: "failed", reason: "too-slow", message: `no answer in ${answerWithinMs} ms` });
    }, answerWithinMs);
    const options = {
      codec: instance.codec,
      maxItemBytes: maxAnswerBytes,
      answerTimeoutMs: answerWithinMs,
      idleTimeoutMs: answerWithinMs,
    };
    const call: PendingCall = plane.call(instance, body, options, {
      // The stream's end tells nothing more: it is not waited for.
      item: (data) => finish(outcomeOf(data, instance.codec, read)),
      ended: (end) => {
        if (end.kind === "failed") finish({ kind: "failed", reason: end.reason, message: end.message });
        else finish({ kind: "failed", reason: "malformed", message: "the answer is empty" });
      },
    });
    return {
      cancel: () => {
        if (isOver) return;
        isOver = true;
        clearTimeout(timer);
        call.cancel();
      },
    };
  }

  /** Said once when it begins to fail and once when it is over. One that fails among others that answer is passed over, and counted alone. */
  #note(what: "query" | "record", reason: RemoteFailure | undefined, message: string): void {
    const isFailing = reason !== undefined && !this.#instances.isSomeoneFit;
    if (reason !== undefined && !isFailing) return;
    if (this.#failing[what] === isFailing) return;
    this.#failing[what] = isFailing;
    const { component, model, log } = this.#init;
    const fields = { ...component, model, what };
    if (isFailing) {
      const consequence = what === "query" ? "requests are planned without it" : "it misses what is routed now";
      log.warn({ ...fields, reason, message }, `the remote index cannot be used: ${consequence}`);
    } else log.info(fields, "the remote index can be used");
  }
}

const nothingPending = { cancel: (): void => undefined };

function outcomeOf<Answer>(data: Buffer, codec: InstanceRecord["codec"], read: ReadAnswer<Answer>): Outcome<Answer> {
  try {
    return { kind: "answer", answer: read(data, codec) };
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
    return { kind: "failed", reason: "malformed", message: `the answer ${error.message}` };
  }
}
