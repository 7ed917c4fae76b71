/**
 * Reads one live message against its source's cursor: checked whole before anything of it is applied, then event by event. It stops where a
 * gap begins or where its time is up, and says so.
 */
import { JsonReader } from "../../dynamo/encoding/json-reader.ts";
import { MsgpackReader } from "../../dynamo/encoding/msgpack-reader.ts";
import { payloadCodecOf } from "../../dynamo/encoding/payload-codec.ts";
import { MalformedMessage, type ValueReader } from "../../dynamo/encoding/value-reader.ts";
import { eventKinds } from "../../dynamo/kv-events/router-event.ts";
import { RouterEventReader } from "../../dynamo/kv-events/router-event-reader.ts";
import { isOfRank } from "./answer-jobs.ts";
import type { EventApplier } from "./event-applier.ts";
import type { IngestCounters } from "./ingest-counters.ts";
import type { RankSource } from "./rank-source.ts";

export type MessageCheck = "fine" | "malformed" | "foreign-events" | "empty";
export type MessageProgress = "done" | "gap" | "more";

const stride = 8;
/** Events of that many bytes are looked at the clock for, however few they are. */
const strideBytes = 32 * 1024;

export class LiveMessage {
  /** Of the message last checked. */
  firstEventId: number;
  events: number;
  fault: string;
  readonly #msgpack: MsgpackReader;
  readonly #json: JsonReader;
  readonly #events: RouterEventReader;
  readonly #applier: EventApplier;
  readonly #counters: IngestCounters;
  #hasEvent: boolean;
  #isInEvent: boolean;

  constructor(applier: EventApplier, counters: IngestCounters) {
    this.firstEventId = 0;
    this.events = 0;
    this.fault = "";
    this.#msgpack = new MsgpackReader();
    this.#json = new JsonReader();
    this.#events = new RouterEventReader(this.#msgpack);
    this.#applier = applier;
    this.#counters = counters;
    this.#hasEvent = false;
    this.#isInEvent = false;
  }

  check(payload: Buffer, source: RankSource): MessageCheck {
    const { event } = this.#events;
    this.events = 0;
    try {
      this.#begin(payload, true);
      while (this.#events.next()) {
        if (this.events++ === 0) this.firstEventId = event.eventId;
        if (!isOfRank(event, source)) return "foreign-events";
      }
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      this.fault = error.message;
      return "malformed";
    }
    return this.events === 0 ? "empty" : "fine";
  }

  /** Goes to the first event of a message that was checked. */
  open(payload: Buffer): void {
    this.#begin(payload, false);
    this.#applier.reset();
    this.#hasEvent = false;
    this.#isInEvent = false;
  }

  /**
   * Applies until the message ends, a gap begins or the deadline has passed; an infinite deadline is never looked at. After a gap the event
   * beyond it is still to come: `step` with `acceptsGap` goes over it.
   */
  step(source: RankSource, deadlineMs: number, acceptsGap: boolean): MessageProgress {
    const { event } = this.#events;
    let until = this.#events.at + strideBytes;
    for (let index = 1; ; index++) {
      if (index % stride === 0 || this.#events.at > until) {
        if (performance.now() >= deadlineMs) return "more";
        until = this.#events.at + strideBytes;
      }
      if (!this.#hasEvent && !this.#events.next()) return "done";
      this.#hasEvent = true;
      if (!this.#isInEvent && !this.#enter(source, acceptsGap)) return "gap";
      if (this.#isInEvent && !this.#applier.step(source.holder, event)) {
        if (performance.now() >= deadlineMs) return "more";
        continue;
      }
      this.#isInEvent = false;
      this.#hasEvent = false;
    }
  }

  /** False where a gap is not to be gone over. An event that is stale is entered by not being in it. */
  #enter(source: RankSource, acceptsGap: boolean): boolean {
    const { event } = this.#events;
    if (event.eventId <= source.cursor) {
      this.#counters.stale++;
      return true;
    }
    const isGap = source.cursor >= 0 && event.eventId > source.cursor + 1;
    // What is cleared needs no past.
    if (isGap && event.kind !== eventKinds.cleared) {
      if (!acceptsGap) return false;
      this.#counters.skippedIds += event.eventId - source.cursor - 1;
    }
    source.cursor = event.eventId;
    source.isEmpty = false;
    this.#isInEvent = true;
    return true;
  }

  #begin(payload: Buffer, isSkimming: boolean): void {
    const reader: ValueReader = payloadCodecOf(payload) === "json" ? this.#json : this.#msgpack;
    reader.open(payload);
    this.#events.isSkimming = isSkimming;
    this.#events.begin(reader);
  }
}
