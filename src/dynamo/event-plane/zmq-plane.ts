/** The event plane over ZeroMQ, with or without brokers: owns the context, the subscriptions and the publishers, and closes them. */
import { Context } from "zeromq";
import type { Logger } from "../../telemetry/log.ts";
import { hostAndPort, resolveAdvertisedHost } from "../advertised-host.ts";
import type { EventChannelRecord, EventScope, EventTransport } from "../records.ts";
import { randomPublisherId } from "./envelope.ts";
import { createEventCounters, type EventCounters } from "./event-counters.ts";
import type { EventHandler, EventPlane, EventPublisher, EventSubscription } from "./event-plane.ts";
import type { ZmqSettings } from "./settings.ts";
import { subjectOf } from "./subject.ts";
import { createPublisherSocket, ZmqPublisher } from "./zmq-publisher.ts";
import { ZmqSubscription } from "./zmq-subscription.ts";

/** The default, 1,023, is less than a thousand worker sets need. */
const maxSockets = 65_535;

export class ZmqEventPlane implements EventPlane {
  readonly isAway: boolean;
  readonly counters: EventCounters;
  readonly #settings: ZmqSettings;
  readonly #log: Logger;
  readonly #context: Context;
  readonly #subscriptions: Set<EventSubscription>;
  readonly #publishers: Set<ZmqPublisher>;
  /** Inputs of the brokers known. */
  readonly #xsub: Set<string>;

  constructor(settings: ZmqSettings, log: Logger) {
    this.isAway = false;
    this.counters = createEventCounters();
    this.#settings = settings;
    this.#log = log;
    this.#context = new Context({ ioThreads: settings.ioThreads, blocky: false, maxSockets });
    this.#subscriptions = new Set();
    this.#publishers = new Set();
    this.#xsub = new Set(settings.broker?.endpoints?.xsub);
  }

  subscribe(scope: EventScope, topic: string, handler: EventHandler): Promise<EventSubscription> {
    const { broker } = this.#settings;
    const subscription = new ZmqSubscription({
      context: this.#context,
      scope,
      topic,
      frameTopic: broker === undefined ? topic : subjectOf(scope, topic),
      brokerEndpoints: broker === undefined ? undefined : (broker.endpoints?.xpub ?? []),
      handler,
      counters: this.counters,
      log: this.#log,
      onBroker: (channel) => this.#meetBroker(channel),
    });
    this.#subscriptions.add(subscription);
    return Promise.resolve(subscription);
  }

  async publish(scope: EventScope, topic: string): Promise<EventPublisher> {
    const socket = createPublisherSocket(this.#context);
    const { broker } = this.#settings;
    let transport: EventTransport;
    try {
      transport =
        broker === undefined
          ? await this.#bind(socket)
          : { kind: "zmq-broker", xsub: [...this.#xsub], xpub: broker.endpoints?.xpub ?? [] };
    } catch (error) {
      socket.close();
      throw error;
    }
    const publisher = new ZmqPublisher({
      socket,
      channel: { type: "EventChannel", scope, topic, publisherId: randomPublisherId(), transport },
      frameTopic: broker === undefined ? topic : subjectOf(scope, topic),
      counters: this.counters,
      log: this.#log,
      onClose: (closed) => this.#publishers.delete(closed),
    });
    this.#publishers.add(publisher);
    if (broker !== undefined) for (const endpoint of this.#xsub) publisher.connectBroker(endpoint);
    return publisher;
  }

  onReturn(): () => void {
    return () => {};
  }

  async close(): Promise<void> {
    for (const publisher of this.#publishers) await publisher.close();
    for (const subscription of this.#subscriptions) await subscription.close();
    this.#subscriptions.clear();
  }

  async #bind(socket: ReturnType<typeof createPublisherSocket>): Promise<EventTransport> {
    const host = await resolveAdvertisedHost(this.#settings.host, "DYN_EVENT_PLANE_HOST");
    if (host.family === 6) socket.ipv6 = true;
    // A peer on this machine needs no more than loopback to be open; any other address is reached through all of them.
    const bindTo = host.address === "127.0.0.1" ? "127.0.0.1" : host.family === 6 ? "[::]" : "0.0.0.0";
    await socket.bind(`tcp://${bindTo}:*`);
    const port = Number(/:(\d+)$/.exec(socket.lastEndpoint ?? "")?.[1]);
    return { kind: "zmq", endpoint: `tcp://${hostAndPort(host, port)}` };
  }

  #meetBroker(channel: EventChannelRecord): void {
    if (channel.transport.kind !== "zmq-broker") return;
    for (const endpoint of channel.transport.xsub) {
      this.#xsub.add(endpoint);
      for (const publisher of this.#publishers) publisher.connectBroker(endpoint);
    }
  }
}
