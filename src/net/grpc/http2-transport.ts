/**
 * The gRPC transport on node:http2. Every connection and stream is counted here; a connection that stays silent before its preface or
 * without any stream is closed, and draining lets open streams live on.
 */
import {
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2Server,
  type Http2Session,
  constants as http2Constants,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { createSecureContext } from "node:tls";
import {
  connectionWindowBytes,
  contextOptionsFrom,
  handshakeTimeoutMsOf,
  http2ServerOptions,
  keepaliveMsOf,
  maxPendingBytesOf,
} from "./http2-options.ts";
import { Http2GrpcStream, type StreamOwner } from "./http2-stream.ts";
import { type GrpcTransport, type GrpcTransportOptions, grpcStatus, type TlsMaterial } from "./transport.ts";

/** How long `drain` waits for goodbyes to reach clients after the last stream. */
const goodbyeMs = 1_000;

interface Connection {
  openStreams: number;
  prefaceDone: boolean;
  /** When it was opened, lost its last stream or showed other life. */
  quietSinceMs: number;
  pingedAtMs: number;
  pingOutstanding: boolean;
}

export async function createHttp2Transport(options: GrpcTransportOptions): Promise<GrpcTransport> {
  const transport = new Http2Transport(options);
  await transport.listen();
  return transport;
}

class Http2Transport implements GrpcTransport, StreamOwner {
  readonly maxMessageBytes: number;
  readonly maxSendMessageBytes: number;
  readonly maxPendingBytes: number;
  port: number;
  openStreams: number;
  private readonly options: GrpcTransportOptions;
  private readonly handshakeTimeoutMs: number;
  private readonly keepaliveMs: number;
  private readonly server: Http2Server | Http2SecureServer;
  private readonly connections: Map<Http2Session, Connection>;
  private readonly sockets: Set<Socket>;
  private readonly endedSockets: Set<Socket>;
  /** Ended streams that have not closed yet, since when. */
  private readonly endingStreams: Map<Http2GrpcStream, number>;
  private sweepTimer: NodeJS.Timeout | undefined;
  private draining: boolean;
  private quietWaiters: (() => void)[];

  constructor(options: GrpcTransportOptions) {
    this.maxMessageBytes = options.maxMessageBytes;
    this.maxSendMessageBytes = options.maxSendMessageBytes ?? Number.POSITIVE_INFINITY;
    this.maxPendingBytes = maxPendingBytesOf(options);
    this.port = 0;
    this.openStreams = 0;
    this.options = options;
    this.handshakeTimeoutMs = handshakeTimeoutMsOf(options);
    this.keepaliveMs = keepaliveMsOf(options);
    this.connections = new Map();
    this.sockets = new Set();
    this.endedSockets = new Set();
    this.endingStreams = new Map();
    this.sweepTimer = undefined;
    this.draining = false;
    this.quietWaiters = [];
    this.server = this.createServer();
  }

  private createServer(): Http2Server | Http2SecureServer {
    const { tls } = this.options;
    const common = http2ServerOptions(this.options);
    const server =
      tls === undefined
        ? createServer(common)
        : createSecureServer({
            ...common,
            ...contextOptionsFrom(tls),
            ALPNProtocols: ["h2"],
            handshakeTimeout: this.handshakeTimeoutMs,
            unknownProtocolTimeout: 1_000,
          });
    server.on("connection", (socket: Socket) => this.socketOpened(socket));
    server.on("secureConnection", (socket: Socket) => this.socketOpened(socket));
    server.on("session", (session: ServerHttp2Session) => this.sessionOpened(session));
    server.on("stream", (stream, headers) => this.streamOpened(stream, headers));
    // A peer's broken connection is its own affair.
    server.on("sessionError", () => {});
    server.on("tlsClientError", () => {});
    return server;
  }

  listen(): Promise<void> {
    const { host, port } = this.options;
    return new Promise((resolve, reject) => {
      this.server.once("error", reject);
      this.server.listen(port, host, () => {
        this.server.off("error", reject);
        this.server.on("error", (error) => this.options.onError(error, "gRPC server"));
        this.port = (this.server.address() as AddressInfo).port;
        this.startSweep();
        resolve();
      });
    });
  }

  onError(error: unknown, what: string): void {
    this.options.onError(error, what);
  }

  setTls(material: TlsMaterial): void {
    if (!("setSecureContext" in this.server))
      throw new Error("this transport serves plaintext: it has no certificate to replace");
    const context = contextOptionsFrom(material);
    // The server forgets its old context before it looks at the new one; a bad pair must not get that far.
    createSecureContext(context);
    this.server.setSecureContext(context);
  }

  async drain(): Promise<void> {
    this.stopAccepting();
    if (this.openStreams > 0) await this.untilQuiet();
    await this.untilDisconnected();
  }

  async close(): Promise<void> {
    this.stopAccepting();
    clearInterval(this.sweepTimer);
    for (const session of this.connections.keys()) session.destroy();
    for (const socket of this.sockets) socket.destroy();
    await this.untilQuiet();
  }

  private stopAccepting(): void {
    if (this.draining) return;
    this.draining = true;
    this.server.close();
    for (const session of this.connections.keys()) session.close();
  }

  /** Resolves when no stream is open. */
  private untilQuiet(): Promise<void> {
    if (this.openStreams === 0) return Promise.resolve();
    return new Promise((resolve) => this.quietWaiters.push(resolve));
  }

  /** Resolves when every connection has said goodbye, or has had the time to. */
  private async untilDisconnected(): Promise<void> {
    const deadlineMs = performance.now() + goodbyeMs;
    while (this.connections.size > 0 && performance.now() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  private startSweep(): void {
    const { idleTimeoutMs } = this.options;
    const shortestMs = Math.min(
      this.handshakeTimeoutMs,
      this.keepaliveMs,
      idleTimeoutMs > 0 ? idleTimeoutMs : Infinity,
    );
    this.sweepTimer = setInterval(() => this.sweep(performance.now()), Math.max(10, shortestMs / 4));
    this.sweepTimer.unref();
  }

  private sweep(nowMs: number): void {
    this.sweepSockets();
    for (const [stream, sinceMs] of this.endingStreams) {
      if (nowMs - sinceMs >= this.handshakeTimeoutMs) stream.reset();
    }
    const { idleTimeoutMs } = this.options;
    for (const [session, connection] of this.connections) {
      const quietMs = nowMs - connection.quietSinceMs;
      if (!connection.prefaceDone) {
        if (quietMs >= this.handshakeTimeoutMs) session.destroy();
      } else if (connection.openStreams > 0) {
        this.keepAlive(session, connection, nowMs);
      } else if (idleTimeoutMs > 0 && quietMs >= idleTimeoutMs) {
        session.close();
      }
    }
  }

  /** A peer that vanished without a word would keep its streams open for as long as TCP believes in it. */
  private keepAlive(session: Http2Session, connection: Connection, nowMs: number): void {
    if (nowMs - connection.pingedAtMs < this.keepaliveMs) return;
    if (connection.pingOutstanding) {
      session.destroy();
      return;
    }
    connection.pingedAtMs = nowMs;
    connection.pingOutstanding = session.ping(() => {
      connection.pingOutstanding = false;
    });
  }

  /** A socket that we ended and whose peer does not end its side has the time between two sweeps to do so. */
  private sweepSockets(): void {
    for (const socket of this.sockets) {
      if (!socket.writableEnded) continue;
      if (this.endedSockets.has(socket)) socket.destroy();
      else this.endedSockets.add(socket);
    }
  }

  private socketOpened(socket: Socket): void {
    this.sockets.add(socket);
    socket.setNoDelay(true);
    socket.once("close", () => {
      this.sockets.delete(socket);
      this.endedSockets.delete(socket);
    });
  }

  private sessionOpened(session: ServerHttp2Session): void {
    const connection: Connection = {
      openStreams: 0,
      prefaceDone: false,
      quietSinceMs: performance.now(),
      pingedAtMs: performance.now(),
      pingOutstanding: false,
    };
    this.connections.set(session, connection);
    session.once("close", () => this.connections.delete(session));
    session.on("remoteSettings", () => {
      connection.prefaceDone = true;
    });
    session.on("ping", () => {
      connection.quietSinceMs = performance.now();
    });
    session.setLocalWindowSize(connectionWindowBytes);
    if (this.draining) session.close();
  }

  private streamOpened(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    const { session } = stream;
    const connection = session && this.connections.get(session);
    if (session === undefined || connection === undefined || this.draining) {
      stream.on("error", () => {});
      stream.close(http2Constants.NGHTTP2_REFUSED_STREAM);
      return;
    }
    if (headers[":method"] !== "POST" || !isGrpc(headers["content-type"])) {
      refuseHttp(stream, headers[":method"] === "POST" ? 415 : 405);
      return;
    }
    connection.openStreams++;
    this.openStreams++;
    const grpcStream = new Http2GrpcStream(stream, session, headers, this);
    const factory = this.options.methods.get(headers[":path"] ?? "");
    if (factory === undefined) {
      grpcStream.open(deaf);
      grpcStream.end(grpcStatus.unimplemented, "unknown method");
      return;
    }
    try {
      grpcStream.open(factory(grpcStream));
    } catch (error) {
      this.options.onError(error, "stream handler");
      grpcStream.open(deaf);
      grpcStream.end(grpcStatus.internal, "internal error");
    }
  }

  streamEnding(stream: Http2GrpcStream): void {
    this.endingStreams.set(stream, performance.now());
  }

  streamClosed(stream: Http2GrpcStream): void {
    this.openStreams--;
    this.endingStreams.delete(stream);
    const connection = this.connections.get(stream.session);
    if (connection !== undefined) {
      connection.openStreams--;
      connection.quietSinceMs = performance.now();
    }
    if (this.openStreams === 0 && this.quietWaiters.length > 0) {
      for (const resolve of this.quietWaiters.splice(0)) resolve();
    }
  }
}

const deaf = { message: () => {}, halfClosed: () => {}, closed: () => {} };

function isGrpc(contentType: string | undefined): boolean {
  return contentType?.startsWith("application/grpc") ?? false;
}

/** What is no gRPC request gets an HTTP answer (gRPC over HTTP/2, "Requests"). */
function refuseHttp(stream: ServerHttp2Stream, status: number): void {
  stream.on("error", () => {});
  stream.respond({ ":status": status }, { endStream: true });
  setImmediate(() => {
    if (!stream.destroyed) stream.close(http2Constants.NGHTTP2_NO_ERROR);
  });
}
