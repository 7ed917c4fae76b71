/** One publisher over ZeroMQ: a PUB socket that binds a port of its own, or connects to every broker. Sending never waits. */
import { type Context, Publisher } from "zeromq";
import type { Logger } from "../../telemetry/log.ts";
import type { EventChannelRecord } from "../records.ts";
import { encodeEnvelope } from "./envelope.ts";
import type { EventCounters } from "./event-counters.ts";
import type { EventPublisher } from "./event-plane.ts";
import { encodeFrames } from "./zmq-frames.ts";

/** As Dynamo's. */
const highWaterMark = 100_000;

export function createPublisherSocket(context: Context): Publisher {
  return new Publisher({ context, sendHighWaterMark: highWaterMark, sendTimeout: 0, linger: 0 });
}

export interface ZmqPublisherOptions {
  readonly socket: Publisher;
  readonly channel: EventChannelRecord;
  readonly frameTopic: string;
  readonly counters: EventCounters;
  readonly log: Logger;
  readonly onClose: (publisher: ZmqPublisher) => void;
}

export class ZmqPublisher implements EventPublisher {
  readonly channel: EventChannelRecord;
  readonly #options: ZmqPublisherOptions;
  readonly #topicFrame: Buffer;
  readonly #brokers: Set<string>;
  #sequence: bigint;
  #isClosed: boolean;

  constructor(options: ZmqPublisherOptions) {
    this.channel = options.channel;
    this.#options = options;
    this.#topicFrame = Buffer.from(options.frameTopic);
    this.#brokers = new Set();
    this.#sequence = 0n;
    this.#isClosed = false;
  }

  get publisherId(): bigint {
    return this.channel.publisherId;
  }

  connectBroker(endpoint: string): void {
    if (this.#brokers.has(endpoint) || this.#isClosed) return;
    this.#brokers.add(endpoint);
    try {
      this.#options.socket.connect(endpoint);
    } catch (error) {
      this.#options.log.warn({ error, endpoint }, "broker has no usable endpoint");
    }
  }

  publish(payload: Uint8Array): void {
    if (this.#isClosed) return;
    const { channel, socket, counters } = this.#options;
    const sequence = this.#sequence++;
    const envelope = encodeEnvelope(channel.publisherId, sequence, Date.now(), channel.topic, payload);
    counters.published++;
    socket.send(encodeFrames(this.#topicFrame, channel.publisherId, sequence, envelope)).catch(() => {
      if (!this.#isClosed) counters.dropped["send-queue"]++;
    });
  }

  close(): Promise<void> {
    if (this.#isClosed) return Promise.resolve();
    this.#isClosed = true;
    this.#options.socket.close();
    this.#options.onClose(this);
    return Promise.resolve();
  }
}
