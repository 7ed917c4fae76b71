/**
 * The sockets between selectors: one that publishes what is booked here, one that hears every peer. Best effort, as Dynamo's: what cannot be sent at
 * once is dropped and counted, and a booking whose end is lost ends by age.
 */
import { randomBytes } from "node:crypto";
import type { Publisher, Subscriber } from "zeromq";
import type { Logger } from "../../telemetry/log.ts";
import { BadRequest } from "./body.ts";
import { encodeReplicaEvent, parseReplicaEvent, type ReplicaEvent, replicaTopic } from "./replica-codec.ts";
import type { Peers } from "./routes.ts";
import { endpointFault } from "./zmq-endpoint.ts";

export interface ReplicaMeshOptions {
  readonly port: number;
  readonly peers: readonly string[];
  readonly log: Logger;
  readonly heard: (event: ReplicaEvent) => void;
}

/** Messages that wait to be sent; what comes beyond is dropped. */
const maxQueued = 4_096;
const maxMessageBytes = 8 * 1024 * 1024;
const reconnect = { reconnectInterval: 100, reconnectMaxInterval: 5_000 } as const;

/** Rejects where the port cannot be bound or a peer's endpoint is none. */
export async function startReplicaMesh(options: ReplicaMeshOptions): Promise<ReplicaMesh> {
  const fault = options.peers.map(endpointFault).find((found) => found !== undefined);
  if (fault !== undefined) throw new Error(fault);
  const { Publisher: PublisherSocket, Subscriber: SubscriberSocket } = await import("zeromq");
  const publisher = new PublisherSocket({ sendHighWaterMark: maxQueued, linger: 0 });
  const subscriber = new SubscriberSocket({ maxMessageSize: maxMessageBytes, linger: 0, ...reconnect });
  subscriber.subscribe(replicaTopic);
  try {
    await publisher.bind(`tcp://*:${options.port}`);
  } catch (error) {
    publisher.close();
    subscriber.close();
    throw new Error(`replica sync cannot bind port ${options.port}`, { cause: error });
  }
  return new ReplicaMesh(options, publisher, subscriber);
}

export class ReplicaMesh implements Peers {
  /** Never 0, which Dynamo takes for nobody. */
  readonly id: bigint = randomBytes(8).readBigUInt64LE() | 1n;
  /** As bound. */
  readonly port: number;
  sent = 0;
  heard = 0;
  dropped = 0;
  malformed = 0;
  readonly #options: ReplicaMeshOptions;
  readonly #publisher: Publisher;
  readonly #subscriber: Subscriber;
  readonly #peers = new Set<string>();
  readonly #reading: Promise<void>;
  readonly #queue: Uint8Array[] = [];
  #sending: Promise<void> = Promise.resolve();
  #isSending = false;
  #isClosed = false;

  constructor(options: ReplicaMeshOptions, publisher: Publisher, subscriber: Subscriber) {
    this.#options = options;
    this.#publisher = publisher;
    this.#subscriber = subscriber;
    this.port = Number(/:(\d+)$/.exec(publisher.lastEndpoint ?? "")?.[1] ?? options.port);
    for (const peer of options.peers) this.register(peer);
    this.#reading = this.#read();
  }

  list(): readonly string[] {
    return [...this.#peers].sort();
  }

  register(endpoint: string): boolean {
    const fault = endpointFault(endpoint);
    if (fault !== undefined) throw new BadRequest(400, fault);
    if (this.#peers.has(endpoint)) return false;
    this.#subscriber.connect(endpoint);
    this.#peers.add(endpoint);
    return true;
  }

  deregister(endpoint: string): boolean {
    const fault = endpointFault(endpoint);
    if (fault !== undefined) throw new BadRequest(400, fault);
    if (!this.#peers.delete(endpoint)) return false;
    this.#subscriber.disconnect(endpoint);
    return true;
  }

  publish(event: Omit<ReplicaEvent, "senderId">): void {
    if (this.#isClosed) return;
    if (this.#queue.length >= maxQueued) {
      this.dropped += 1;
      return;
    }
    this.#queue.push(encodeReplicaEvent({ ...event, senderId: this.id }));
    if (!this.#isSending) this.#sending = this.#send();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    // What was said is sent first: the ends of bookings are in it.
    await this.#sending;
    this.#isClosed = true;
    this.#publisher.close();
    this.#subscriber.close();
    await this.#reading;
  }

  /** Never rejects. Its end and the look at the empty queue are one step: what is queued a moment later begins anew. */
  async #send(): Promise<void> {
    this.#isSending = true;
    for (let message = this.#queue.shift(); message !== undefined; message = this.#queue.shift()) {
      try {
        await this.#publisher.send([replicaTopic, message]);
        this.sent += 1;
      } catch (error) {
        this.dropped += 1;
        this.#options.log.debug({ error: String(error) }, "a booking could not be told to the peers");
      }
    }
    this.#isSending = false;
  }

  async #read(): Promise<void> {
    try {
      for await (const frames of this.#subscriber) this.#take(frames);
    } catch (error) {
      if (!this.#isClosed) this.#options.log.error({ error: String(error) }, "the peers' bookings are heard no more");
    }
  }

  #take(frames: readonly Buffer[]): void {
    const [topic, payload] = frames;
    const isWhole = frames.length === 2 && topic?.toString("utf8") === replicaTopic && payload !== undefined;
    const event = isWhole ? parseReplicaEvent(payload) : undefined;
    if (event === undefined) {
      this.malformed += 1;
      return;
    }
    if (event.senderId === this.id) return;
    this.heard += 1;
    try {
      this.#options.heard(event);
    } catch (error) {
      this.#options.log.error({ error: String(error) }, "a peer's booking could not be taken over");
    }
  }
}
