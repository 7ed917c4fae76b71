/**
 * The listener that workers dial to answer, one for all calls. Who dials says in its first message which call it answers; whoever names none
 * of ours, or says nothing in time, is hung up on.
 */
import { once } from "node:events";
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { hostAndPort, resolveAdvertisedHost } from "../advertised-host.ts";
import type { RequestPlaneSettings } from "./settings.ts";
import { TwoPartReader } from "./two-part.ts";

const handshakeTimeoutMs = 10_000;
const maxHandshakeBytes = 64 * 1024;
const maxConnections = 65_536;

/** What a call does with the connection that answers it; `reader` already holds what came behind the handshake. */
export interface HomeListener {
  /** True when a call waits for this subject; it takes the socket over. */
  arrived(subject: string, socket: Socket): HomeReader | undefined;
  stranger(): void;
}

/** Returns false to stop reading. */
export interface HomeReader {
  readonly maxMessageBytes: number;
  message(header: Buffer, body: Buffer): boolean;
  /** No more messages: the connection ended, broke, or sent what is too long. */
  ended(why: "end" | "too-large", error?: Error): void;
}

export class CallHome {
  readonly address: string;
  readonly #server: Server;
  readonly #sockets: Set<Socket>;

  private constructor(server: Server, sockets: Set<Socket>, address: string) {
    this.#server = server;
    this.#sockets = sockets;
    this.address = address;
  }

  static async listen(settings: RequestPlaneSettings, listener: HomeListener): Promise<CallHome> {
    const host = await resolveAdvertisedHost(settings.host, "DYN_TCP_RESPONSE_STREAM_HOST");
    const sockets = new Set<Socket>();
    const accept = (socket: Socket): void => {
      sockets.add(socket);
      socket.once("close", () => sockets.delete(socket));
      receive(socket, listener);
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
    return new CallHome(server, sockets, hostAndPort(host, port));
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    const closed = once(this.#server, "close");
    this.#server.close();
    await closed;
  }
}

function receive(socket: Socket, listener: HomeListener): void {
  let home: HomeReader | undefined;
  const hangUp = (): void => {
    listener.stranger();
    socket.destroy();
  };
  const timer = setTimeout(hangUp, handshakeTimeoutMs);
  const reader = new TwoPartReader(maxHandshakeBytes, (header, body) => {
    if (home !== undefined) return home.message(header, body);
    clearTimeout(timer);
    const subject = subjectOf(header);
    home = subject === undefined ? undefined : listener.arrived(subject, socket);
    if (home === undefined) {
      hangUp();
      return false;
    }
    reader.maxMessageBytes = home.maxMessageBytes;
    return true;
  });
  const end = (error?: Error): void => {
    clearTimeout(timer);
    home?.ended("end", error);
  };
  socket.on("data", (chunk: Buffer) => {
    if (reader.push(chunk)) return;
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
