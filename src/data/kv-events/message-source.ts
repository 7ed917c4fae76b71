/**
 * The ZeroMQ side of engine events: a SUB socket that is connected to one publisher, or bound for many, hands on `[topic, sequence, payload]` one by
 * one. ZeroMQ connects again by itself; what it drops at the high-water mark shows as a gap in the sequence.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Subscriber } from "zeromq";
import type { Logger } from "../../telemetry/log.ts";
import { maxMessageSize, sequenceOf } from "./replay-client.ts";
import { TurnBudget } from "./turn-budget.ts";
import { loadZeromq, socketOptions } from "./zeromq-context.ts";

export interface MessageHandler {
  /** The buffers are the handler's to keep. */
  message(topic: Buffer, sequence: number, payload: Buffer): void;
  /** A connection was lost. Never called for a bound socket, whose publishers come and go unseen. */
  disconnected(): void;
  /** The same of one that is there, the first included. */
  connected?(): void;
  /** Frames that are no message. */
  malformed?(): void;
}

export interface MessageSourceOptions {
  readonly endpoint: string;
  /** Binds the endpoint for publishers to connect to. */
  readonly binds: boolean;
  /** Messages whose topic begins otherwise are not received. */
  readonly topicFilter: string;
  readonly handler: MessageHandler;
  readonly log: Logger;
}

/** Messages that wait unread; ZeroMQ drops what comes beyond. */
const highWaterMark = 10_000;
const reconnect = { reconnectInterval: 100, reconnectMaxInterval: 5000 } as const;
/** An endpoint that cannot be bound is tried again: the configuration that runs may still have it. */
const rebindMs = 5000;
/** A peer that is cut off without a word is noticed after ten seconds, one that accepts and says nothing after five. */
const heartbeat = { heartbeatInterval: 3000, heartbeatTimeout: 7000, handshakeInterval: 5000 } as const;

export interface MessageSource {
  /** As bound, with the port that was picked; undefined until then, and where it could not be. */
  readonly boundEndpoint: string | undefined;
  /** Resolves once the socket is connecting, or bound (at the latest tried), or closed; never rejects. */
  readonly opened: Promise<void>;
  close(): Promise<void>;
}

export function openMessageSource(options: MessageSourceOptions): MessageSource {
  return new ZeromqSource(options);
}

class ZeromqSource implements MessageSource {
  boundEndpoint: string | undefined;
  readonly opened: Promise<void>;
  readonly #options: MessageSourceOptions;
  readonly #running: Promise<void>;
  readonly #closing = new AbortController();
  #socket: Subscriber | undefined;
  #watching: Promise<void> | undefined;

  constructor(options: MessageSourceOptions) {
    this.#options = options;
    this.opened = this.#open();
    this.#running = this.opened.then(() => this.#run());
  }

  async close(): Promise<void> {
    this.#closing.abort();
    this.#socket?.close();
    await this.#running;
    await this.#watching;
  }

  async #run(): Promise<void> {
    while (this.#socket === undefined && !this.#closing.signal.aborted) {
      await delay(rebindMs, undefined, { signal: this.#closing.signal }).catch(() => {});
      await this.#open();
    }
    await this.#read();
  }

  async #open(): Promise<void> {
    const { endpoint, binds, topicFilter, handler, log } = this.#options;
    try {
      const zeromq = await loadZeromq();
      if (this.#closing.signal.aborted) return;
      const socket = new zeromq.Subscriber({
        ...socketOptions(zeromq, endpoint),
        receiveHighWaterMark: highWaterMark,
        maxMessageSize,
        ...reconnect,
        ...heartbeat,
      });
      this.#socket = socket;
      socket.subscribe(topicFilter);
      if (binds) {
        await socket.bind(endpoint);
        this.boundEndpoint = socket.lastEndpoint ?? endpoint;
      } else {
        this.#watching = this.#watch(socket, handler);
        socket.connect(endpoint);
      }
    } catch (error) {
      this.#socket?.close();
      this.#socket = undefined;
      if (!this.#closing.signal.aborted)
        log.error({ endpoint, error: String(error) }, "engine events cannot be received");
    }
  }

  /** Ends with the socket. */
  async #watch({ events }: Subscriber, handler: MessageHandler): Promise<void> {
    try {
      while (!events.closed) {
        const { type } = await events.receive();
        if (type === "disconnect") handler.disconnected();
        if (type === "handshake") handler.connected?.();
        if (type === "end") return;
      }
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#options.log.warn(
        { endpoint: this.#options.endpoint, error: String(error) },
        "lost connections are not seen",
      );
    }
  }

  async #read(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    const budget = new TurnBudget();
    try {
      for await (const frames of socket) {
        this.#take(frames);
        await budget.pause();
      }
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#options.log.error({ endpoint: this.#options.endpoint, error: String(error) }, "engine events ended");
    }
  }

  #take(frames: readonly Buffer[]): void {
    const [topic, sequenceFrame, payload] = frames;
    const sequence = sequenceOf(sequenceFrame);
    if (frames.length !== 3 || topic === undefined || payload === undefined || sequence === undefined || sequence < 0) {
      this.#options.handler.malformed?.();
      return;
    }
    try {
      this.#options.handler.message(topic, sequence, payload);
    } catch (error) {
      this.#options.log.error({ endpoint: this.#options.endpoint, error }, "an engine event could not be applied");
    }
  }
}
