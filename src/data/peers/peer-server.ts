/** The port at which peers ask to be told. Whoever connects and does not soon say who it is, or says anything else, is hung up on. */
import { createServer, type Server, type Socket } from "node:net";
import { createServer as createSecureServer, type TLSSocket } from "node:tls";
import type { Logger } from "../../telemetry/log.ts";
import { PeerOutput, type PeerOutputInit } from "./peer-output.ts";
import type { PeerSecret } from "./peer-secret.ts";

export interface PeerServerInit extends Omit<PeerOutputInit, "wire"> {
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  readonly secret: PeerSecret | undefined;
  readonly log: Logger;
  /** There is something to send to somebody. */
  readonly wanted: () => void;
}

interface Subscriber {
  readonly output: PeerOutput;
  readonly socket: Socket;
  readonly from: string;
  heardAtMs: number;
}

const greetingTimeoutMs = 5000;
const mostConnections = 128;
/** Peers that are told at once what is known: that costs more than everything else together, and can wait. */
const mostTelling = 4;
/** A port that cannot be had may belong to a predecessor that is just ending. */
const bindTries = 10;
const bindRetryMs = 200;

export class PeerServer {
  readonly #init: PeerServerInit;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #subscribers = new Set<Subscriber>();
  #heartbeat: NodeJS.Timeout | undefined;

  constructor(init: PeerServerInit) {
    this.#init = init;
    const { secret } = init;
    if (secret === undefined) {
      this.#server = createServer({ noDelay: true }, (socket) => this.#connected(socket));
    } else {
      const server = createSecureServer({ ...secret.serverOptions(), handshakeTimeout: greetingTimeoutMs });
      server.on("secureConnection", (socket: TLSSocket) => this.#connected(socket.setNoDelay(true)));
      server.on("tlsClientError", () => {
        init.counters.refused++;
      });
      // Counted before the handshake, so that who never ends it is one of the limited number too.
      server.on("connection", (socket: Socket) => this.#track(socket));
      this.#server = server;
    }
    this.#server.maxConnections = mostConnections;
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  /** Those that have said who they are. */
  get outputs(): readonly PeerOutput[] {
    return Array.from(this.#subscribers, ({ output }) => output).filter(({ peer }) => peer !== undefined);
  }

  state(): readonly Readonly<Record<string, unknown>>[] {
    return Array.from(this.#subscribers, ({ output, from }) => ({
      from,
      peer: output.peer ?? null,
      read: output.readOffset,
      lagBytes: output.lagBytes,
    }));
  }

  /** Rejects with the system's error. */
  async listen(): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.#bind();
        break;
      } catch (error) {
        if (tries === bindTries || (error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
        await new Promise((resolve) => setTimeout(resolve, bindRetryMs));
      }
    }
    this.#server.on("error", (error) => this.#init.log.error({ error }, "the port for replicas"));
    this.#heartbeat = setInterval(() => this.#beat(), this.#init.identity.heartbeatMs);
    this.#heartbeat.unref();
  }

  pump(): void {
    let telling = 0;
    // In the order in which they came: who is first is done first.
    for (const { output, socket } of this.#subscribers) {
      if (output.peer === undefined) continue;
      socket.cork();
      output.pump(output.isTelling && ++telling <= mostTelling);
      socket.uncork();
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#heartbeat);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const { output, socket } of this.#subscribers) {
      output.leave();
      socket.end();
    }
    // What is on its way may arrive; nobody is waited for longer.
    const patience = setTimeout(() => this.#destroyAll(), 500);
    for (const socket of this.#sockets)
      if (![...this.#subscribers].some((one) => one.socket === socket)) socket.destroy();
    await closed;
    clearTimeout(patience);
  }

  #destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy();
    for (const { socket } of this.#subscribers) socket.destroy();
  }

  #bind(): Promise<void> {
    const { host, port } = this.#init;
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host, port }, () => {
        this.#server.off("error", reject);
        resolve();
      });
    });
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.once("close", () => this.#sockets.delete(socket));
  }

  #connected(socket: Socket): void {
    const { now, counters, wanted } = this.#init;
    const output = new PeerOutput({
      ...this.#init,
      wire: {
        send: (bytes) => {
          if (!socket.destroyed) socket.write(bytes);
        },
        get pendingBytes() {
          return socket.writableLength;
        },
      },
    });
    const subscriber: Subscriber = { output, socket, from: socket.remoteAddress ?? "", heardAtMs: now() };
    this.#track(socket);
    this.#subscribers.add(subscriber);
    const late = setTimeout(() => {
      if (output.peer === undefined) socket.destroy();
    }, greetingTimeoutMs);
    socket.on("data", (chunk: Buffer) => {
      subscriber.heardAtMs = now();
      const wasKnown = output.peer !== undefined;
      try {
        output.receive(chunk);
      } catch {
        counters.refused++;
        socket.destroy();
        return;
      }
      if (output.refusal !== undefined) socket.end();
      if (!wasKnown && output.peer !== undefined) wanted();
    });
    socket.on("drain", wanted);
    socket.once("close", () => {
      clearTimeout(late);
      this.#subscribers.delete(subscriber);
    });
  }

  #beat(): void {
    const { now, identity } = this.#init;
    for (const { output, socket, heardAtMs } of this.#subscribers) {
      output.heartbeat();
      // Readers say how far they are once a heartbeat; one that is long silent only holds a connection.
      if (output.peer !== undefined && now() - heardAtMs > 10 * identity.heartbeatMs) socket.destroy();
    }
  }
}
