/**
 * The gRPC transport on node:http2. Every stream is counted here, so that draining knows when the last has ended; what has
 * been ended and is not taken by its client is reset.
 */
import {
  createSecureServer,
  createServer,
  type Http2SecureServer,
  type Http2Server,
  constants as http2Constants,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { createSecureContext } from "node:tls";
import { acceptAnyAuthority } from "./accept-any-authority.ts";
import { ConnectionWatch } from "./connection-watch.ts";
import {
  connectionWindowBytes,
  contextOptionsFrom,
  handshakeTimeoutMsOf,
  http2ServerOptions,
  keepaliveMsOf,
  maxConnectionsOf,
  maxPendingBytesOf,
  maxStreamsOf,
} from "./http2-options.ts";
import { Http2GrpcStream, type StreamOwner } from "./http2-stream.ts";
import {
  type ByteAllowance,
  type GrpcTransport,
  type GrpcTransportOptions,
  grpcStatus,
  type TlsMaterial,
} from "./transport.ts";

/** How long `drain` waits for goodbyes to reach clients after the last stream. */
const goodbyeMs = 1_000;
/** Above the sessions' default deadline of 90 s. */
const defaultMessageTimeoutMs = 120_000;

export async function createHttp2Transport(options: GrpcTransportOptions): Promise<GrpcTransport> {
  const transport = new Http2Transport(options);
  await transport.listen();
  return transport;
}

class Http2Transport implements GrpcTransport, StreamOwner {
  readonly maxMessageBytes: number;
  readonly maxSendMessageBytes: number;
  readonly maxPendingBytes: number;
  readonly receiveAllowance: ByteAllowance | undefined;
  readonly sendAllowance: ByteAllowance | undefined;
  port: number;
  openStreams: number;
  private readonly options: GrpcTransportOptions;
  private readonly maxStreams: number;
  private readonly handshakeTimeoutMs: number;
  private readonly server: Http2Server | Http2SecureServer;
  private readonly connections: ConnectionWatch;
  /** Ended streams that have not closed yet, since when. */
  private readonly endingStreams: Map<Http2GrpcStream, number>;
  /** Streams with a message that is not whole, and since when. */
  private readonly unfinishedStreams: Map<Http2GrpcStream, number>;
  private draining: boolean;
  private quietWaiters: (() => void)[];

  constructor(options: GrpcTransportOptions) {
    this.maxMessageBytes = options.maxMessageBytes;
    this.maxSendMessageBytes = options.maxSendMessageBytes ?? Number.POSITIVE_INFINITY;
    this.maxPendingBytes = maxPendingBytesOf(options);
    this.receiveAllowance = options.receiveAllowance;
    this.sendAllowance = options.sendAllowance;
    this.port = 0;
    this.openStreams = 0;
    this.options = options;
    this.maxStreams = maxStreamsOf(options);
    this.handshakeTimeoutMs = handshakeTimeoutMsOf(options);
    this.connections = new ConnectionWatch({
      handshakeTimeoutMs: this.handshakeTimeoutMs,
      idleTimeoutMs: options.idleTimeoutMs,
      keepaliveMs: keepaliveMsOf(options),
    });
    this.endingStreams = new Map();
    this.unfinishedStreams = new Map();
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
    server.maxConnections = maxConnectionsOf(this.options);
    acceptAnyAuthority(server, common, this.handshakeTimeoutMs);
    server.on("connection", (socket: Socket) => this.connections.addSocket(socket));
    server.on("secureConnection", (socket: Socket) => this.connections.addSocket(socket));
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
        this.connections.start((nowMs) => this.sweepStreams(nowMs));
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
    this.connections.destroy();
    await this.untilQuiet();
  }

  private stopAccepting(): void {
    if (this.draining) return;
    this.draining = true;
    this.server.close();
    this.connections.sayGoodbye();
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

  private sweepStreams(nowMs: number): void {
    for (const [stream, sinceMs] of this.endingStreams) {
      if (nowMs - sinceMs >= this.handshakeTimeoutMs) stream.reset();
    }
    const messageTimeoutMs = this.options.messageTimeoutMs ?? defaultMessageTimeoutMs;
    for (const [stream, sinceMs] of this.unfinishedStreams) {
      if (nowMs - sinceMs >= messageTimeoutMs) stream.messageOverdue();
    }
  }

  private sessionOpened(session: ServerHttp2Session): void {
    this.connections.addSession(session);
    session.setLocalWindowSize(connectionWindowBytes);
    if (this.draining) session.close();
  }

  private streamOpened(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    const { session } = stream;
    if (session === undefined || this.draining || this.openStreams >= this.maxStreams) {
      stream.on("error", () => {});
      stream.close(http2Constants.NGHTTP2_REFUSED_STREAM);
      return;
    }
    if (headers[":method"] !== "POST" || !isGrpc(headers["content-type"])) {
      this.connections.streamWasBarren(session);
      refuseHttp(stream, headers[":method"] === "POST" ? 415 : 405);
      return;
    }
    this.connections.streamOpened(session);
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

  messageUnfinished(stream: Http2GrpcStream): void {
    this.unfinishedStreams.set(stream, performance.now());
  }

  messageFinished(stream: Http2GrpcStream): void {
    this.unfinishedStreams.delete(stream);
  }

  streamClosed(stream: Http2GrpcStream): void {
    this.openStreams--;
    this.endingStreams.delete(stream);
    this.connections.streamClosed(stream.session);
    if (!stream.hasMessage) this.connections.streamWasBarren(stream.session);
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
