/**
 * One topic over ZeroMQ: a single SUB socket connected to every publisher (or broker) known, so a thousand workers cost one receive loop.
 * A message is only handed on when its publisher is one that discovery has named: a port taken over by a stranger says nothing.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Context, Subscriber } from "zeromq";
import type { Logger } from "../../telemetry/log.ts";
import type { EventChannelRecord, EventScope } from "../records.ts";
import { DuplicateFilter } from "./duplicate-filter.ts";
import { EnvelopeReceiver } from "./envelope-receiver.ts";
import type { EventCounters } from "./event-counters.ts";
import type { EventHandler, EventSubscription } from "./event-plane.ts";
import { isSameScope } from "./subject.ts";
import { isSameIdentity, openFrames } from "./zmq-frames.ts";

/** Messages that wait of one publisher, or of all behind a broker; what overflows is a gap, which is asked for. */
const highWaterMark = { publisher: 10_000, broker: 100_000 };
/** A prompt of a million tokens in blocks of 16, as one event. A publisher that sends more is hung up on. */
const maxMessageBytes = 8 * 1024 * 1024;
const reconnectMs = 100;
const maxReconnectMs = 2000;
/** How long a flood may hold the event loop: what is queued is received without a turn of it. */
const floodMs = 3;

export interface ZmqSubscriptionOptions {
  readonly context: Context;
  readonly scope: EventScope;
  readonly topic: string;
  /** What stands in the topic frame: the bare topic, or the subject at a broker. */
  readonly frameTopic: string;
  /** Undefined: publishers are connected directly. */
  readonly brokerEndpoints: readonly string[] | undefined;
  readonly handler: EventHandler;
  readonly counters: EventCounters;
  readonly log: Logger;
  readonly onBroker: (channel: EventChannelRecord) => void;
}

export class ZmqSubscription implements EventSubscription {
  readonly #options: ZmqSubscriptionOptions;
  readonly #socket: Subscriber;
  readonly #receiver: EnvelopeReceiver;
  readonly #topicFrame: Buffer;
  readonly #duplicates: DuplicateFilter | undefined;
  /** Endpoint by publisher, of those connected. */
  readonly #publishers: Map<bigint, string>;
  readonly #brokers: Set<string>;
  #isClosed: boolean;
  #loop: Promise<void>;

  constructor(options: ZmqSubscriptionOptions) {
    this.#options = options;
    this.#socket = new Subscriber({
      context: options.context,
      receiveHighWaterMark: options.brokerEndpoints === undefined ? highWaterMark.publisher : highWaterMark.broker,
      maxMessageSize: maxMessageBytes,
      reconnectInterval: reconnectMs,
      reconnectMaxInterval: maxReconnectMs,
      linger: 0,
    });
    this.#receiver = new EnvelopeReceiver(options.topic, options.handler, options.counters, options.log);
    this.#topicFrame = Buffer.from(options.frameTopic);
    this.#duplicates = options.brokerEndpoints === undefined ? undefined : new DuplicateFilter();
    this.#publishers = new Map();
    this.#brokers = new Set();
    this.#isClosed = false;
    this.#socket.subscribe(options.frameTopic);
    for (const endpoint of options.brokerEndpoints ?? []) this.#connectBroker(endpoint);
    this.#loop = this.#receive();
  }

  opened(channel: EventChannelRecord): void {
    if (this.#isClosed) return;
    if (channel.transport.kind === "zmq-broker") {
      if (this.#duplicates === undefined) return;
      for (const endpoint of channel.transport.xpub) this.#connectBroker(endpoint);
      this.#options.onBroker(channel);
      return;
    }
    if (!this.#isOurs(channel) || channel.transport.kind !== "zmq") return;
    const { endpoint } = channel.transport;
    const known = this.#publishers.get(channel.publisherId);
    if (known === endpoint) return;
    if (known !== undefined) this.#disconnect(channel.publisherId, known);
    try {
      this.#socket.connect(endpoint);
      this.#publishers.set(channel.publisherId, endpoint);
    } catch (error) {
      this.#options.log.warn({ error, endpoint, topic: channel.topic }, "event publisher has no usable endpoint");
    }
  }

  closed(channel: EventChannelRecord): void {
    if (this.#isClosed) return;
    if (channel.transport.kind === "zmq-broker") {
      for (const endpoint of channel.transport.xpub) this.#disconnectBroker(endpoint);
      return;
    }
    const known = this.#publishers.get(channel.publisherId);
    if (known !== undefined && this.#isOurs(channel)) this.#disconnect(channel.publisherId, known);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket.close();
    await this.#loop;
  }

  #isOurs(channel: EventChannelRecord): boolean {
    return (
      this.#duplicates === undefined &&
      channel.topic === this.#options.topic &&
      isSameScope(channel.scope, this.#options.scope)
    );
  }

  #connectBroker(endpoint: string): void {
    if (this.#brokers.has(endpoint)) return;
    this.#brokers.add(endpoint);
    try {
      this.#socket.connect(endpoint);
    } catch (error) {
      this.#options.log.warn({ error, endpoint }, "broker has no usable endpoint");
    }
  }

  #disconnectBroker(endpoint: string): void {
    const isNamed = this.#options.brokerEndpoints?.includes(endpoint) ?? true;
    if (!isNamed && this.#brokers.delete(endpoint)) this.#socketDisconnect(endpoint);
  }

  #disconnect(publisherId: bigint, endpoint: string): void {
    this.#publishers.delete(publisherId);
    for (const other of this.#publishers.values()) {
      if (other === endpoint) return;
    }
    this.#socketDisconnect(endpoint);
  }

  #socketDisconnect(endpoint: string): void {
    try {
      this.#socket.disconnect(endpoint);
    } catch (error) {
      this.#options.log.debug({ error, endpoint }, "event publisher was not connected");
    }
  }

  /** One promise a message is the library's price; a worker sends one message an engine step. */
  async #receive(): Promise<void> {
    let turnMs = performance.now();
    while (!this.#isClosed) {
      if (performance.now() - turnMs > floodMs) {
        await new Promise(setImmediate);
        turnMs = performance.now();
      }
      let frames: Buffer[];
      try {
        frames = await this.#socket.receive();
      } catch (error) {
        if (this.#isClosed) return;
        this.#options.log.error({ error, topic: this.#options.topic }, "events cannot be received; trying on");
        await delay(reconnectMs);
        continue;
      }
      if (!this.#isClosed) this.#take(frames);
    }
  }

  #take(frames: readonly Buffer[]): void {
    const envelope = openFrames(frames, this.#topicFrame);
    if (typeof envelope === "string") {
      this.#options.counters.received++;
      this.#receiver.drop(envelope);
      return;
    }
    this.#receiver.receive(envelope, (publisherId, sequence) => {
      if (!isSameIdentity(frames, publisherId, sequence)) return "identity";
      if (this.#duplicates === undefined) return this.#publishers.has(publisherId) ? undefined : "publisher";
      return this.#duplicates.admit(publisherId, sequence) ? undefined : "duplicate";
    });
  }
}
