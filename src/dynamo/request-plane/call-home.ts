/**
 * The listener that workers dial to answer, one for all calls. Who dials says in its first message which call it answers; whoever names none
 * of ours, or says nothing in time, is hung up on.
 */
import { once } from "node:events";
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { hostAndPort, resolveAdvertisedHost } from "../advertised-host.ts";
import { ReadTurns, type TurnReader } from "./read-turns.ts";
import type { RequestPlaneSettings } from "./settings.ts";
import { TwoPartReader } from "./two-part.ts";

const handshakeTimeoutMs = 10_000;
const maxHandshakeBytes = 4096;
/** Connections that have not said yet whose they are; the oldest goes when more come. */
const maxStrangers = 1024;
const maxConnections = 65_536;

/** What a call does with the connection that answers it; `reader` already holds what came behind the handshake. */
export interface HomeListener {
  /** Defined when a call waits for this subject and nobody has answered it; it takes the socket over. */
  arrived(subject: string, socket: Socket): HomeReader | undefined;
  stranger(): void;
}

/** Returns false to stop reading. */
export interface HomeReader extends TurnReader {
  readonly maxMessageBytes: number;
  /** Nobody waits for what comes any more: it is thrown away unread. */
  readonly isDeaf: boolean;
  /** Whether there is room for a message of that size that comes in pieces. */
  admits(sizeBytes: number): boolean;
  message(header: Buffer, body: Buffer): boolean;
  /** No more messages: the connection ended, broke, or sent what is too long. */
  ended(why: "end" | "too-large", error?: Error): void;
}

export class CallHome {
  readonly address: string;
  readonly #server: Server;
  readonly #sockets: Set<Socket>;
  readonly #turns: ReadTurns;

  private constructor(server: Server, sockets: Set<Socket>, turns: ReadTurns, address: string) {
    this.#server = server;
    this.#sockets = sockets;
    this.#turns = turns;
    this.address = address;
  }

  static async listen(settings: RequestPlaneSettings, listener: HomeListener): Promise<CallHome> {
    const host = await resolveAdvertisedHost(settings.host, "DYN_TCP_RESPONSE_STREAM_HOST");
    const sockets = new Set<Socket>();
    const strangers = new Set<Socket>();
    const turns = new ReadTurns();
    const accept = (socket: Socket): void => {
      sockets.add(socket);
      strangers.add(socket);
      socket.once("close", () => {
        sockets.delete(socket);
        strangers.delete(socket);
      });
      receive(socket, listener, turns, () => strangers.delete(socket));
      if (strangers.size > maxStrangers) dropOldest(strangers, listener);
    };
    const tls = settings.serverTls;
    const server =
      tls === undefined
        ? createTcpServer({ noDelay: true }, accept)
        : createTlsServer({ ...tls, handshakeTimeout: 3000 }, accept);
    server.maxConnections = maxConnections;
    server.on("tlsClientError", () => listener.stranger());
    server.listen({
      port: settings.port,
      host: host.address === "127.0.0.1" ? "127.0.0.1" : host.family === 6 ? "::" : "0.0.0.0",
    });
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    return new CallHome(server, sockets, turns, hostAndPort(host, port));
  }

  async close(): Promise<void> {
    this.#turns.close();
    for (const socket of this.#sockets) socket.destroy();
    const closed = once(this.#server, "close");
    this.#server.close();
    await closed;
  }
}

function dropOldest(strangers: Set<Socket>, listener: HomeListener): void {
  const [oldest] = strangers;
  if (oldest === undefined) return;
  strangers.delete(oldest);
  listener.stranger();
  oldest.destroy();
}

function receive(socket: Socket, listener: HomeListener, turns: ReadTurns, known: () => void): void {
  let home: HomeReader | undefined;
  const hangUp = (): void => {
    listener.stranger();
    socket.destroy();
  };
  const timer = setTimeout(hangUp, handshakeTimeoutMs);
  const take = (header: Buffer, body: Buffer): boolean => {
    if (home !== undefined) {
      const goesOn = home.message(header, body);
      reader.maxMessageBytes = home.maxMessageBytes;
      return goesOn;
    }
    clearTimeout(timer);
    const subject = subjectOf(header);
    home = subject === undefined ? undefined : listener.arrived(subject, socket);
    if (home === undefined) {
      hangUp();
      return false;
    }
    known();
    reader.maxMessageBytes = home.maxMessageBytes;
    return true;
  };
  const reader = new TwoPartReader(maxHandshakeBytes, take, (sizeBytes) => home?.admits(sizeBytes) ?? true);
  const end = (error?: Error): void => {
    clearTimeout(timer);
    home?.ended("end", error);
  };
  socket.on("data", (chunk: Buffer) => {
    if (home !== undefined) turns.took(socket, home, chunk.length);
    if (home?.isDeaf === true || reader.push(chunk)) return;
    if (home === undefined) hangUp();
    else home.ended("too-large");
  });
  socket.on("error", end);
  socket.on("end", () => end());
  socket.on("close", () => end());
}

/** Of a CallHomeHandshake {"subject", "stream_type": "response"}. */
function subjectOf(header: Buffer): string | undefined {
  try {
    const handshake: unknown = JSON.parse(header.toString("utf8"));
    if (typeof handshake !== "object" || handshake === null || !("subject" in handshake)) return undefined;
    const isResponse = !("stream_type" in handshake) || handshake.stream_type === "response";
    return isResponse && typeof handshake.subject === "string" ? handshake.subject : undefined;
  } catch {
    return undefined;
  }
}
