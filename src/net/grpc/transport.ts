/**
 * The narrow interface of a gRPC server transport for bidirectional streams: bytes of whole messages only. Every implementation passes
 * one shared conformance table (test/conformance).
 */

/** One open stream, server side. Methods are no-ops after the stream has ended either way. */
export interface GrpcStream {
  /** Request metadata the client sent, by lower-case name. */
  metadata(name: string): string | undefined;
  /**
   * Queues one message given as parts (not copied before they are written unless the transport must frame them; the caller does not change them afterwards).
   */
  send(parts: readonly Uint8Array[]): void;
  /** Ends with a gRPC status, after everything sent. */
  end(status: number, message?: string): void;
  /** RST_STREAM, dropping what is queued. */
  reset(): void;
  /** Bytes queued and not yet taken by the socket. */
  readonly pendingBytes: number;
}

/** What the server of a stream implements. Callbacks come in order: messages, halfClosed at most once, then closed exactly once. */
export interface GrpcStreamHandler {
  /** A whole message. The bytes stay valid as long as they are referenced. */
  message(bytes: Buffer): void;
  /** The client sent END_STREAM. */
  halfClosed(): void;
  /** The stream is gone: ended by us, reset, cancelled, or its connection was lost. */
  closed(cause: StreamCloseCause): void;
  /**
   * A message cannot be taken: it is larger than maxMessageBytes, or receiveAllowance has no room for it. True when the handler has
   * answered and ended the stream itself; otherwise the stream ends with RESOURCE_EXHAUSTED. Not called by grpc-js, which ends such
   * streams by itself.
   */
  unreadable?(why: UnreadableCause): boolean;
  /** pendingBytes fell to zero after `send` left it above it. */
  drained?(): void;
}

export type UnreadableCause = "too-large" | "no-room";

export type StreamCloseCause = "ended" | "reset" | "connection-lost";

export interface GrpcTransportOptions {
  readonly host: string;
  /** 0 picks a free port. */
  readonly port: number;
  /** Undefined serves plaintext (h2c, prior knowledge). */
  readonly tls: TlsMaterial | undefined;
  /** A larger message ends its stream with RESOURCE_EXHAUSTED. */
  readonly maxMessageBytes: number;
  readonly maxSendMessageBytes: number | undefined;
  readonly maxStreamsPerConnection: number;
  /** Streams of all connections together; more are refused (REFUSED_STREAM, or UNAVAILABLE); 100,000 unless given. */
  readonly maxStreams?: number;
  readonly maxHeaderBytes: number;
  /** More connections than this are closed as they come; 10,000 unless given. */
  readonly maxConnections?: number;
  /** A connection without any stream is closed after this long without traffic; 0 never. */
  readonly idleTimeoutMs: number;
  /**
   * A connection that has not finished its TLS handshake and HTTP/2 preface after this long is dropped, and so is an ended stream whose
   * client does not take the rest; 10 s unless given.
   */
  readonly handshakeTimeoutMs?: number;
  /** A message that has begun and is not whole after this long ends its stream (120 s; http2 only). Longer than a request may take, so that a body is refused by its session first. */
  readonly messageTimeoutMs?: number;
  /** How often a connection with open streams is pinged; one that has not answered by the next time is dropped. 30 s unless given. */
  readonly keepaliveMs?: number;
  /** A stream whose pendingBytes would exceed this (its client stopped reading) is reset; twice maxMessageBytes, at least 16 MiB, unless given. */
  readonly maxPendingBytes?: number;
  /**
   * Bytes of messages that have begun and not ended, all streams together; a message for which there is no room ends its stream with
   * RESOURCE_EXHAUSTED. No bound beyond maxMessageBytes of each stream unless given. Not kept by grpc-js, which gathers by itself.
   */
  readonly receiveAllowance?: ByteAllowance;
  /** Bytes queued on all streams together, small queues left out; a stream for whose bytes there is no room is reset. No bound unless given. */
  readonly sendAllowance?: ByteAllowance;
  /** ":path" → factory; other paths end with UNIMPLEMENTED. */
  readonly methods: ReadonlyMap<string, (stream: GrpcStream) => GrpcStreamHandler>;
  /** Faults of the transport itself (a broken connection is not one). */
  readonly onError: (error: unknown, what: string) => void;
}

/** Bytes shared by many streams: what is taken is given back once. */
export interface ByteAllowance {
  /** False, and nothing taken, when there is no room. */
  take(bytes: number): boolean;
  give(bytes: number): void;
}

/** PEM. Replaceable while serving (setTls): new connections use the new material. */
export interface TlsMaterial {
  readonly key: string;
  readonly cert: string;
  readonly minVersion?: "TLSv1.2" | "TLSv1.3";
  readonly ciphers?: string;
}

export interface GrpcTransport {
  /** Bound port. */
  readonly port: number;
  /** Streams open now. */
  readonly openStreams: number;
  setTls(material: TlsMaterial): void;
  /** Stops accepting connections and streams (GOAWAY); open streams live on. Resolves when the last has closed. */
  drain(): Promise<void>;
  /** Ends everything now. */
  close(): Promise<void>;
}

/** gRPC status codes used here (grpc.github.io/grpc/core/md_doc_statuscodes.html). */
export const grpcStatus = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  resourceExhausted: 8,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
} as const;
