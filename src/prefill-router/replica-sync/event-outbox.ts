/**
 * What this router says of its bookings, on its way out: in the order it happened, many events a message, none later than a millisecond after
 * the first. The queue is bounded and drops what comes last, since peers can do without an event but nobody may wait for them.
 */
import type { EventPublisher } from "../../dynamo/event-plane/event-plane.ts";
import {
  type ActiveSequenceEvent,
  batchDelayMs,
  encodeActiveSequenceEvents,
  maxEventsPerMessage,
} from "../../dynamo/kv-events/active-sequences.ts";
import type { ReplicaCounters } from "./replica-counters.ts";

/** Events that wait at most, where the channel is not open yet. */
export const outboxCapacity = 8192;

/** A map of one member "events", an array of one: what stands before the only event of a batch. */
const batchPrefixBytes = 9;

export class EventOutbox {
  readonly #counters: ReplicaCounters;
  readonly #capacity: number;
  #waiting: ActiveSequenceEvent[] = [];
  #publisher: EventPublisher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(counters: ReplicaCounters, capacity: number = outboxCapacity) {
    this.#counters = counters;
    this.#capacity = capacity;
  }

  /** The channel is open: what waits is sent, and all that follows. */
  open(publisher: EventPublisher): void {
    this.#publisher = publisher;
    this.flush();
  }

  enqueue(event: ActiveSequenceEvent): void {
    if (this.#isClosed) return;
    if (this.#waiting.length >= this.#capacity) {
      this.#counters.dropped++;
      return;
    }
    this.#waiting.push(event);
    if (this.#publisher === undefined) return;
    if (this.#waiting.length >= maxEventsPerMessage) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), batchDelayMs);
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const publisher = this.#publisher;
    if (publisher === undefined || this.#waiting.length === 0) return;
    const events = this.#waiting;
    this.#waiting = [];
    this.#counters.published += events.length;
    // Over NATS Dynamo 1.6 sends and reads each event alone, over ZeroMQ batches alone.
    if (publisher.channel.transport.kind === "nats") {
      for (const event of events) publisher.publish(encodeActiveSequenceEvents([event]).subarray(batchPrefixBytes));
      return;
    }
    for (let from = 0; from < events.length; from += maxEventsPerMessage) {
      publisher.publish(encodeActiveSequenceEvents(events.slice(from, from + maxEventsPerMessage)));
    }
  }

  /** Sends what waits and takes no more. */
  close(): void {
    this.flush();
    this.#isClosed = true;
    this.#waiting = [];
    this.#publisher = undefined;
  }
}
