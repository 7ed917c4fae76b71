/** What stands between a transport and a subscriber: opens the envelope, drops and counts what is not for it, and keeps a handler's error out. */

import type { Logger } from "../../telemetry/log.ts";
import { MalformedMessage } from "../encoding/value-reader.ts";
import { Envelope } from "./envelope.ts";
import type { DropReason, EventCounters } from "./event-counters.ts";
import type { EventHandler } from "./event-plane.ts";

export class EnvelopeReceiver {
  readonly #envelope: Envelope;
  readonly #handler: EventHandler;
  readonly #counters: EventCounters;
  readonly #log: Logger;

  constructor(topic: string, handler: EventHandler, counters: EventCounters, log: Logger) {
    this.#envelope = new Envelope(topic);
    this.#handler = handler;
    this.#counters = counters;
    this.#log = log;
  }

  /** `admits` is asked once the publisher and sequence are known; it names the reason when it refuses. */
  receive(bytes: Buffer, admits: (publisherId: bigint, sequence: bigint) => DropReason | undefined): void {
    this.#counters.received++;
    const envelope = this.#envelope;
    try {
      envelope.read(bytes);
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      this.drop("malformed", error.message);
      return;
    }
    const refusal = envelope.isOfTopic ? admits(envelope.publisherId, envelope.sequence) : "topic";
    if (refusal !== undefined) {
      this.drop(refusal);
      return;
    }
    try {
      this.#handler(envelope.payload, envelope.publisherId);
    } catch (error) {
      this.drop("handler", error);
    }
  }

  drop(reason: DropReason, cause?: unknown): void {
    const count = ++this.#counters.dropped[reason];
    // A flood of bad messages must not become a flood of lines: the first, then each power of two.
    if ((count & (count - 1)) === 0 && reason !== "duplicate")
      this.#log.warn({ reason, count, cause }, "event dropped");
  }
}
