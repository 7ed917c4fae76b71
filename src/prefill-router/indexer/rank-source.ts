/**
 * What is known of one source of KV events (a worker's rank, spoken for by one publisher): its cursor, its holder in the index, and the
 * messages that wait while a recovery or a long message is worked on. The buffer is bounded by events and bytes; the oldest go first.
 */
import type { Holder } from "../../data/prefix-index/kv-index.ts";
import type { EventSourceRecord } from "../../dynamo/records.ts";
import type { RankIdentity } from "./answer-jobs.ts";

export type SourceState =
  /** Messages are applied as they come. */
  | "live"
  /** Messages wait behind a recovery. */
  | "recovering"
  /** Messages wait behind others that are worked off in slices. */
  | "draining"
  /** The worker's answer was about somebody else: nothing of this publisher is believed. */
  | "fenced"
  | "gone";

export interface WaitingMessage {
  readonly payload: Buffer;
  readonly firstEventId: number;
  readonly events: number;
}

export interface BufferLimits {
  readonly events: number;
  readonly bytes: number;
  /** Of all sources together. */
  readonly totalBytes: number;
}

/** What waits of all sources. */
export interface WaitingTotal {
  bytes: number;
}

export class RankSource implements RankIdentity {
  readonly record: EventSourceRecord;
  readonly workerLow: number;
  readonly workerHigh: number;
  readonly dpRank: number;
  readonly abort: AbortController;
  state: SourceState;
  holder: Holder;
  /** Newest event id applied; -1 before the first. */
  cursor: number;
  /** Whether anything was put into the holder. */
  isEmpty: boolean;
  /** The past could not be had: the next try asks for all of it. */
  isDegraded: boolean;
  /** Recoveries in a row that left a hole. */
  rounds: number;
  timer: NodeJS.Timeout | undefined;
  readonly waiting: WaitingMessage[];
  readonly #total: WaitingTotal;
  #waitingEvents: number;
  #waitingBytes: number;

  constructor(record: EventSourceRecord, holder: Holder, total: WaitingTotal) {
    this.record = record;
    this.workerLow = Number(record.workerId & 0xffff_ffffn);
    this.workerHigh = Number(record.workerId >> 32n);
    this.dpRank = record.dpRank;
    this.abort = new AbortController();
    this.state = "live";
    this.holder = holder;
    this.cursor = -1;
    this.isEmpty = true;
    this.isDegraded = false;
    this.rounds = 0;
    this.timer = undefined;
    this.waiting = [];
    this.#total = total;
    this.#waitingEvents = 0;
    this.#waitingBytes = 0;
  }

  get isRecoverable(): boolean {
    return this.record.recovery !== undefined;
  }

  /** Copies the payload. Returns how many events had to go to keep the bounds. */
  wait(payload: Buffer, firstEventId: number, events: number, limits: BufferLimits): number {
    this.waiting.push({ payload: Buffer.from(payload), firstEventId, events });
    this.#count(events, payload.length);
    let lost = 0;
    while (this.waiting.length > 0 && this.#isOver(limits)) {
      lost += this.takeWaiting()?.events ?? 0;
    }
    return lost;
  }

  /** Two brokers, or a late one, may have swapped messages. */
  sortWaiting(): void {
    this.waiting.sort((one, other) => one.firstEventId - other.firstEventId);
  }

  takeWaiting(): WaitingMessage | undefined {
    const message = this.waiting.shift();
    if (message === undefined) return undefined;
    this.#count(-message.events, -message.payload.length);
    return message;
  }

  /** What was taken last, for another time. */
  putBack(message: WaitingMessage): void {
    this.waiting.unshift(message);
    this.#count(message.events, message.payload.length);
  }

  discardWaiting(): void {
    this.waiting.length = 0;
    this.#count(-this.#waitingEvents, -this.#waitingBytes);
  }

  #count(events: number, bytes: number): void {
    this.#waitingEvents += events;
    this.#waitingBytes += bytes;
    this.#total.bytes += bytes;
  }

  #isOver({ events, bytes, totalBytes }: BufferLimits): boolean {
    return this.#waitingEvents > events || this.#waitingBytes > bytes || this.#total.bytes > totalBytes;
  }
}

/** For logs. */
export function rankFields({ record }: RankSource): Readonly<Record<string, unknown>> {
  return { workerId: String(record.workerId), dpRank: record.dpRank, publisherId: String(record.publisherId) };
}
