/**
 * The two passes over a worker's recovery answer, both in slices and both on the same bytes: the first checks every event and changes nothing,
 * so that a broken or foreign answer leaves the index as it was; the second applies.
 */
import type { Holder } from "../../data/prefix-index/kv-index.ts";
import { JsonReader } from "../../dynamo/encoding/json-reader.ts";
import { MsgpackReader } from "../../dynamo/encoding/msgpack-reader.ts";
import type { PayloadCodec, ValueReader } from "../../dynamo/encoding/value-reader.ts";
import { RecoveryAnswer } from "../../dynamo/kv-events/recovery-query.ts";
import type { RouterEvent } from "../../dynamo/kv-events/router-event.ts";
import { RouterEventReader } from "../../dynamo/kv-events/router-event-reader.ts";
import type { EventApplier } from "./event-applier.ts";
import type { RecoveryBytes } from "./recovery-query.ts";
import type { SlicedJob } from "./time-slicer.ts";

/** Events between two looks at the clock: fewer where one of them may make the index grow. */
const checkStride = 32;
const applyStride = 8;
/** Events of that many bytes are looked at the clock for, however few they are. */
const strideBytes = 32 * 1024;

export interface RankIdentity {
  readonly workerLow: number;
  readonly workerHigh: number;
  readonly dpRank: number;
}

export function isOfRank(event: RouterEvent, rank: RankIdentity): boolean {
  return event.workerLow === rank.workerLow && event.workerHigh === rank.workerHigh && event.dpRank === rank.dpRank;
}

export function createReader(codec: PayloadCodec): ValueReader {
  return codec === "json" ? new JsonReader() : new MsgpackReader();
}

/** Throws MalformedMessage from `step` for bytes that are no answer. */
export class CheckAnswer implements SlicedJob {
  readonly answer: RecoveryAnswer;
  events: number;
  /** An event is of another worker or rank: the whole answer is not to be trusted. */
  isForeign: boolean;
  readonly #bytes: Buffer;
  readonly #rank: RankIdentity;
  readonly #reader: ValueReader;
  readonly #events: RouterEventReader;
  #isOpen: boolean;

  constructor({ bytes, codec }: RecoveryBytes, rank: RankIdentity) {
    this.#reader = createReader(codec);
    this.answer = new RecoveryAnswer(this.#reader);
    this.events = 0;
    this.isForeign = false;
    this.#bytes = bytes;
    this.#rank = rank;
    this.#events = new RouterEventReader(this.#reader);
    this.#events.isSkimming = true;
    this.#isOpen = false;
  }

  step(deadlineMs: number): boolean {
    if (!this.#isOpen) {
      if (!this.answer.open(this.#bytes)) return true;
      this.#events.begin(this.#reader);
      this.#isOpen = true;
    }
    do {
      const until = this.#reader.at + strideBytes;
      for (let index = 0; index < checkStride && this.#reader.at < until; index++) {
        // Each event may be as rich as a message.
        this.#reader.work = 0;
        if (!this.#events.next()) {
          this.answer.finish();
          return true;
        }
        this.events++;
        if (!isOfRank(this.#events.event, this.#rank)) {
          this.isForeign = true;
          return true;
        }
      }
    } while (performance.now() < deadlineMs);
    return false;
  }
}

/** Events with an id up to `after` are passed over; the ids of a tree dump mean nothing, so there `after` is below all of them. */
export class ApplyAnswer implements SlicedJob {
  readonly #reader: ValueReader;
  readonly #events: RouterEventReader;
  readonly #applier: EventApplier;
  readonly #holder: Holder;
  readonly #after: number;
  #isInEvent: boolean;

  constructor({ bytes, codec }: RecoveryBytes, eventsAt: number, holder: Holder, after: number, applier: EventApplier) {
    this.#reader = createReader(codec);
    this.#reader.open(bytes);
    this.#reader.restart(eventsAt);
    this.#events = new RouterEventReader(this.#reader);
    this.#events.begin(this.#reader);
    this.#applier = applier;
    this.#holder = holder;
    this.#after = after;
    this.#isInEvent = false;
  }

  step(deadlineMs: number): boolean {
    const { event } = this.#events;
    do {
      const until = this.#reader.at + strideBytes;
      for (let index = 0; index < applyStride && this.#reader.at < until; index++) {
        this.#reader.work = 0;
        if (!this.#isInEvent && !this.#events.next()) return true;
        if (!this.#isInEvent && event.eventId <= this.#after) continue;
        this.#isInEvent = !this.#applier.step(this.#holder, event);
        if (this.#isInEvent) break;
      }
    } while (performance.now() < deadlineMs);
    return false;
  }
}
