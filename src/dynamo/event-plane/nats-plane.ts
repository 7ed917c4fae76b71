/**
 * The event plane over NATS core: plain publish and subscribe on the topic's subject, every router hears every event. The server may be away
 * at start or later; the connection is sought for ever, and its return is told, since nothing that was said meanwhile is repeated.
 */
import { connect, type NatsConnection, type Subscription } from "@nats-io/transport-node";
import type { Logger } from "../../telemetry/log.ts";
import { connectionOptions, firstConnectMs, retryMs } from "../nats/connection-options.ts";
import type { NatsSettings } from "../nats/settings.ts";
import type { EventChannelRecord, EventScope } from "../records.ts";
import { encodeEnvelope, randomPublisherId } from "./envelope.ts";
import { EnvelopeReceiver } from "./envelope-receiver.ts";
import { createEventCounters, type EventCounters } from "./event-counters.ts";
import type { EventHandler, EventPlane, EventPublisher, EventSubscription } from "./event-plane.ts";
import { subjectOf, subjectPrefix } from "./subject.ts";

export class NatsEventPlane implements EventPlane {
  readonly counters: EventCounters;
  readonly #settings: NatsSettings;
  readonly #log: Logger;
  readonly #listeners: Set<() => void>;
  readonly #wanted: Set<NatsTopic>;
  readonly #closing: AbortController;
  #connection: NatsConnection | undefined;
  readonly #connected: Promise<void>;
  #isAway: boolean;
  #watch: Promise<void>;

  constructor(settings: NatsSettings, log: Logger) {
    this.counters = createEventCounters();
    this.#settings = settings;
    this.#log = log;
    this.#listeners = new Set();
    this.#wanted = new Set();
    this.#closing = new AbortController();
    this.#connection = undefined;
    this.#isAway = true;
    this.#watch = Promise.resolve();
    this.#connected = this.#connect();
  }

  get isAway(): boolean {
    return this.#isAway;
  }

  onReturn(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async subscribe(scope: EventScope, topic: string, handler: EventHandler): Promise<EventSubscription> {
    const receiver = new EnvelopeReceiver(topic, handler, this.counters, this.#log);
    const subscription = new NatsTopic(subjectOf(scope, topic), receiver, (closed) => this.#wanted.delete(closed));
    this.#wanted.add(subscription);
    await within(this.#connected, firstConnectMs, this.#closing.signal);
    const connection = this.#connection;
    if (connection !== undefined) {
      subscription.open(connection);
      if (!this.#isAway)
        await within(
          connection.flush().catch(() => {}),
          firstConnectMs,
          this.#closing.signal,
        );
    }
    return subscription;
  }

  publish(scope: EventScope, topic: string): Promise<EventPublisher> {
    const publisherId = randomPublisherId();
    const transport = { kind: "nats", subjectPrefix: subjectPrefix(scope) } as const;
    const channel: EventChannelRecord = { type: "EventChannel", scope, topic, publisherId, transport };
    return Promise.resolve(
      new NatsPublisher(channel, subjectOf(scope, topic), (subject, bytes) => this.#send(subject, bytes)),
    );
  }

  async close(): Promise<void> {
    this.#closing.abort();
    for (const subscription of this.#wanted) await subscription.close();
    await this.#connected;
    await this.#connection?.close();
    await this.#watch;
  }

  /** While the server is away nothing is queued: what is said then is lost, as on the wire. */
  #send(subject: string, bytes: Uint8Array): void {
    this.counters.published++;
    const connection = this.#connection;
    if (connection === undefined || this.#isAway || connection.isClosed()) {
      this.counters.dropped["send-queue"]++;
      return;
    }
    try {
      connection.publish(subject, bytes);
    } catch (error) {
      this.counters.dropped["send-queue"]++;
      this.#log.warn({ error, subject, sizeBytes: bytes.byteLength }, "event cannot be published");
    }
  }

  async #connect(): Promise<void> {
    const { servers } = this.#settings;
    for (let attempt = 0; !this.#closing.signal.aborted; attempt++) {
      try {
        const connection = await connect(await connectionOptions(this.#settings));
        if (this.#closing.signal.aborted) {
          await connection.close();
          return;
        }
        this.#connection = connection;
        this.#watch = this.#follow(connection);
        for (const topic of this.#wanted) topic.open(connection);
        this.#returned();
        return;
      } catch (error) {
        if (attempt === 0) this.#log.error({ error, servers }, "NATS cannot be reached; trying on");
        await waitMs(retryMs, this.#closing.signal);
      }
    }
  }

  async #follow(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status()) {
      switch (status.type) {
        case "disconnect":
        case "staleConnection":
          this.#lost(status.type);
          break;
        case "reconnect":
          this.#returned();
          break;
        case "error":
          this.#log.warn({ error: status.error }, "NATS refused something");
          break;
        default:
          break;
      }
    }
  }

  #lost(why: string): void {
    if (this.#isAway || this.#closing.signal.aborted) return;
    this.#isAway = true;
    this.counters.losses++;
    this.#log.error({ why, servers: this.#settings.servers }, "NATS is away: no events are heard until it is back");
  }

  #returned(): void {
    if (!this.#isAway) return;
    this.#isAway = false;
    this.#log.info({ server: this.#connection?.getServer() }, "NATS is connected");
    for (const listener of this.#listeners) listener();
  }
}

class NatsTopic implements EventSubscription {
  readonly #subject: string;
  readonly #receiver: EnvelopeReceiver;
  readonly #onClose: (closed: NatsTopic) => void;
  #subscription: Subscription | undefined;

  constructor(subject: string, receiver: EnvelopeReceiver, onClose: (closed: NatsTopic) => void) {
    this.#subject = subject;
    this.#receiver = receiver;
    this.#onClose = onClose;
    this.#subscription = undefined;
  }

  /** The subject reaches every publisher; channels need not be known. */
  opened(): void {}

  closed(): void {}

  /** Idempotent; the library subscribes again by itself after a reconnect. */
  open(connection: NatsConnection): void {
    this.#subscription ??= connection.subscribe(this.#subject, {
      callback: (error, message) => {
        if (error !== null) return this.#receiver.drop("malformed", error);
        const { data } = message;
        this.#receiver.receive(Buffer.from(data.buffer, data.byteOffset, data.byteLength), admitAll);
      },
    });
  }

  close(): Promise<void> {
    this.#onClose(this);
    this.#subscription?.unsubscribe();
    this.#subscription = undefined;
    return Promise.resolve();
  }
}

class NatsPublisher implements EventPublisher {
  readonly channel: EventChannelRecord;
  readonly #subject: string;
  readonly #send: (subject: string, bytes: Uint8Array) => void;
  #sequence: bigint;
  #isClosed: boolean;

  constructor(channel: EventChannelRecord, subject: string, send: (subject: string, bytes: Uint8Array) => void) {
    this.channel = channel;
    this.#subject = subject;
    this.#send = send;
    this.#sequence = 0n;
    this.#isClosed = false;
  }

  get publisherId(): bigint {
    return this.channel.publisherId;
  }

  publish(payload: Uint8Array): void {
    if (this.#isClosed) return;
    this.#send(
      this.#subject,
      encodeEnvelope(this.publisherId, this.#sequence++, Date.now(), this.channel.topic, payload),
    );
  }

  close(): Promise<void> {
    this.#isClosed = true;
    return Promise.resolve();
  }
}

const admitAll = (): undefined => undefined;

/** Waits for what may take for ever, no longer than this; its timer does not outlive it. */
async function within(work: Promise<void>, durationMs: number, signal: AbortSignal): Promise<void> {
  const done = new AbortController();
  await Promise.race([work, waitMs(durationMs, AbortSignal.any([signal, done.signal]))]);
  done.abort();
}

function waitMs(durationMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, durationMs);
    if (signal.aborted) finish();
    else signal.addEventListener("abort", finish);
  });
}
