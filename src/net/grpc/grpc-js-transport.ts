/**
 * The gRPC transport on @grpc/grpc-js with raw-bytes serialisers: the library's own stack behind the same interface. It copies each
 * message once when it is sent. It cannot tell a reset from a lost connection, and may report either as a half-close followed by the end.
 */
import type { Http2SecureServer, Http2Server, ServerOptions } from "node:http2";
import { createSecureContext } from "node:tls";
import { Server, ServerCredentials, type ServerDuplexStream, type ServiceDefinition } from "@grpc/grpc-js";
import { acceptAnyAuthority } from "./accept-any-authority.ts";
import {
  contextOptionsFrom,
  handshakeTimeoutMsOf,
  http2ServerOptions,
  keepaliveMsOf,
  maxConnectionsOf,
  maxPendingBytesOf,
  maxStreamsOf,
} from "./http2-options.ts";
import {
  type GrpcStream,
  type GrpcStreamHandler,
  type GrpcTransport,
  type GrpcTransportOptions,
  grpcStatus,
  type TlsMaterial,
} from "./transport.ts";

type Call = ServerDuplexStream<Buffer, Buffer>;

/** How long `drain` waits for goodbyes to reach clients after the last stream. */
const goodbyeMs = 1_000;

export async function createGrpcJsTransport(options: GrpcTransportOptions): Promise<GrpcTransport> {
  const transport = new GrpcJsTransport(options);
  await transport.listen();
  return transport;
}

/** The library's extension point for certificates that change: its watchers hand new ones to the server. */
class ReplaceableCredentials extends ServerCredentials {
  constructor(material: TlsMaterial) {
    super({}, contextOptionsFrom(material));
  }

  replace(material: TlsMaterial): void {
    const context = contextOptionsFrom(material);
    // The library drops every connection from here on when it is given a bad pair.
    createSecureContext(context);
    this.updateSecureContextOptions(context);
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}

class GrpcJsTransport implements GrpcTransport {
  port: number;
  openStreams: number;
  readonly options: GrpcTransportOptions;
  readonly maxPendingBytes: number;
  private readonly server: Server;
  private readonly credentials: ReplaceableCredentials | undefined;
  private quietWaiters: (() => void)[];
  private shutdown: Promise<void> | undefined;

  constructor(options: GrpcTransportOptions) {
    this.port = 0;
    this.openStreams = 0;
    this.options = options;
    this.maxPendingBytes = maxPendingBytesOf(options);
    this.credentials = options.tls === undefined ? undefined : new ReplaceableCredentials(options.tls);
    this.quietWaiters = [];
    this.shutdown = undefined;
    this.server = new Server({
      "grpc.max_receive_message_length": options.maxMessageBytes,
      "grpc.max_send_message_length": -1,
      "grpc.keepalive_time_ms": keepaliveMsOf(options),
      "grpc.keepalive_timeout_ms": keepaliveMsOf(options),
      ...(options.idleTimeoutMs > 0 ? { "grpc.max_connection_idle_ms": options.idleTimeoutMs } : {}),
    });
    setHttp2Options(this.server, options);
    this.server.addService(serviceOf(options), this.implementation());
  }

  private implementation(): Record<string, (call: Call) => void> {
    const handlers: Record<string, (call: Call) => void> = {};
    for (const [path, factory] of this.options.methods) {
      handlers[path] = (call) => new GrpcJsStream(call, this).open(factory);
    }
    return handlers;
  }

  listen(): Promise<void> {
    const { host, port } = this.options;
    const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
    return new Promise((resolve, reject) => {
      this.server.bindAsync(address, this.credentials ?? ServerCredentials.createInsecure(), (error, bound) => {
        if (error !== null) {
          reject(error);
          return;
        }
        this.port = bound;
        completeServers(this.server, this.options);
        resolve();
      });
    });
  }

  setTls(material: TlsMaterial): void {
    if (this.credentials === undefined) {
      throw new Error("this transport serves plaintext: it has no certificate to replace");
    }
    this.credentials.replace(material);
  }

  async drain(): Promise<void> {
    this.shutdown ??= new Promise((resolve) => this.server.tryShutdown(() => resolve()));
    await this.untilQuiet();
    const { promise: waited, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, goodbyeMs);
    await Promise.race([this.shutdown, waited]);
    clearTimeout(timer);
  }

  async close(): Promise<void> {
    this.server.forceShutdown();
    await this.untilQuiet();
  }

  private untilQuiet(): Promise<void> {
    if (this.openStreams === 0) return Promise.resolve();
    return new Promise((resolve) => this.quietWaiters.push(resolve));
  }

  streamOpened(): void {
    this.openStreams++;
  }

  streamClosed(): void {
    this.openStreams--;
    if (this.openStreams === 0) for (const resolve of this.quietWaiters.splice(0)) resolve();
  }
}

class GrpcJsStream implements GrpcStream {
  pendingBytes: number;
  private readonly call: Call;
  private readonly transport: GrpcJsTransport;
  private handler: GrpcStreamHandler | undefined;
  private halfClosed: boolean;
  private ended: boolean;
  private wasReset: boolean;
  private closed: boolean;

  constructor(call: Call, transport: GrpcJsTransport) {
    this.pendingBytes = 0;
    this.call = call;
    this.transport = transport;
    this.handler = undefined;
    this.halfClosed = false;
    this.ended = false;
    this.wasReset = false;
    this.closed = false;
  }

  open(factory: (stream: GrpcStream) => GrpcStreamHandler): void {
    const { call } = this;
    this.transport.streamOpened();
    call.on("close", () => this.callClosed());
    if (this.transport.openStreams > maxStreamsOf(this.transport.options)) {
      this.end(grpcStatus.unavailable, "too many streams are open");
      return;
    }
    try {
      this.handler = factory(this);
    } catch (error) {
      this.failed(error);
    }
    call.on("data", (bytes: Buffer) => this.received(bytes));
    call.on("end", () => this.peerEnded());
  }

  metadata(name: string): string | undefined {
    const values = this.call.metadata.get(name);
    return values.length === 0 ? undefined : values.map(String).join(",");
  }

  send(parts: readonly Uint8Array[]): void {
    if (this.ended || this.closed) return;
    const bytes = Buffer.concat(parts);
    const limit = this.transport.options.maxSendMessageBytes;
    if (limit !== undefined && bytes.length > limit) {
      this.end(grpcStatus.resourceExhausted, `trying to send message larger than max (${bytes.length} vs. ${limit})`);
      return;
    }
    if (this.transport.options.sendAllowance?.take(bytes.length) === false) {
      this.reset();
      return;
    }
    this.pendingBytes += bytes.length;
    if (this.pendingBytes > this.transport.maxPendingBytes) {
      this.reset();
      return;
    }
    this.call.write(bytes, () => this.afterWrite(bytes.length));
  }

  private afterWrite(sizeBytes: number): void {
    if (this.closed) return;
    this.transport.options.sendAllowance?.give(sizeBytes);
    this.pendingBytes -= sizeBytes;
    if (this.pendingBytes === 0) this.handler?.drained?.();
  }

  end(status: number, message = ""): void {
    if (this.ended || this.closed) return;
    this.ended = true;
    if (status === grpcStatus.ok && message === "") this.call.end();
    else this.call.emit("error", { code: status, details: message });
  }

  /** The library cannot send RST_STREAM; a client sees the same status that it makes of one. */
  reset(): void {
    if (this.closed) return;
    this.wasReset = true;
    if (!this.ended) this.end(grpcStatus.cancelled, "the stream was reset");
  }

  private received(bytes: Buffer): void {
    if (this.ended || this.closed) return;
    try {
      this.handler?.message(bytes);
    } catch (error) {
      this.failed(error);
    }
  }

  private peerEnded(): void {
    if (this.ended || this.halfClosed || this.closed) return;
    this.halfClosed = true;
    try {
      this.handler?.halfClosed();
    } catch (error) {
      this.failed(error);
    }
  }

  private callClosed(): void {
    if (this.closed) return;
    this.closed = true;
    this.transport.options.sendAllowance?.give(this.pendingBytes);
    this.pendingBytes = 0;
    try {
      this.handler?.closed(this.ended && !this.wasReset ? "ended" : "reset");
    } catch (error) {
      this.transport.options.onError(error, "stream handler");
    }
    this.handler = undefined;
    this.transport.streamClosed();
  }

  private failed(error: unknown): void {
    this.transport.options.onError(error, "stream handler");
    this.end(grpcStatus.internal, "internal error");
  }
}

/** One service of raw-bytes methods; the name of a method is its path. */
function serviceOf(options: GrpcTransportOptions): ServiceDefinition {
  const service: Record<string, ServiceDefinition[string]> = {};
  for (const path of options.methods.keys()) {
    service[path] = {
      path,
      requestStream: true,
      responseStream: true,
      requestSerialize: asBuffer,
      requestDeserialize: asBuffer,
      responseSerialize: asBuffer,
      responseDeserialize: asBuffer,
    };
  }
  return service;
}

function asBuffer(bytes: Buffer): Buffer {
  return bytes;
}

/** The library has no options for these either. */
function completeServers(server: Server, options: GrpcTransportOptions): void {
  const { http2Servers } = server as unknown as { http2Servers: Map<Http2Server | Http2SecureServer, unknown> };
  for (const http2Server of http2Servers.keys()) {
    http2Server.maxConnections = maxConnectionsOf(options);
    acceptAnyAuthority(http2Server, http2ServerOptions(options), handshakeTimeoutMsOf(options));
  }
}

/**
 * The library has no option for reset rates and header limits, and with node's defaults Envoy's ordinary resets end the connection; so its
 * options for node:http2 are completed in place.
 */
function setHttp2Options(server: Server, options: GrpcTransportOptions): void {
  const { commonServerOptions } = server as unknown as {
    commonServerOptions: ServerOptions & { handshakeTimeout?: number };
  };
  Object.assign(commonServerOptions, http2ServerOptions(options), { handshakeTimeout: handshakeTimeoutMsOf(options) });
}
