/** Limits of an HTTP/2 server that speaks gRPC, for both transports: what a peer may open, send and reset. */
import type { ServerOptions } from "node:http2";
import type { GrpcTransportOptions, TlsMaterial } from "./transport.ts";

const defaultHandshakeTimeoutMs = 10_000;
const defaultKeepaliveMs = 30_000;
const leastMaxPendingBytes = 16 * 1024 * 1024;
/** A request body of ordinary size arrives without waiting for a window update. */
const streamWindowBytes = 1024 * 1024;
/** For the whole connection; set on each session, since SETTINGS cannot carry it (RFC 9113 §6.9.2). */
export const connectionWindowBytes = 16 * 1024 * 1024;

/** A gateway has one connection a worker thread; this is a hundred gateways of a hundred threads. */
const defaultMaxConnections = 10_000;

export function maxConnectionsOf(options: GrpcTransportOptions): number {
  return options.maxConnections ?? defaultMaxConnections;
}

/** Some 12 KB each while they wait for an answer's end; a picker decides a few thousand requests a second. */
const defaultMaxStreams = 100_000;

export function maxStreamsOf(options: GrpcTransportOptions): number {
  return options.maxStreams ?? defaultMaxStreams;
}

export function handshakeTimeoutMsOf(options: GrpcTransportOptions): number {
  return options.handshakeTimeoutMs ?? defaultHandshakeTimeoutMs;
}

export function keepaliveMsOf(options: GrpcTransportOptions): number {
  return options.keepaliveMs ?? defaultKeepaliveMs;
}

export function maxPendingBytesOf(options: GrpcTransportOptions): number {
  return options.maxPendingBytes ?? Math.max(2 * options.maxMessageBytes, leastMaxPendingBytes);
}

export function http2ServerOptions(options: GrpcTransportOptions): ServerOptions {
  return {
    settings: {
      maxConcurrentStreams: options.maxStreamsPerConnection,
      initialWindowSize: streamWindowBytes,
      maxHeaderListSize: options.maxHeaderBytes,
      enablePush: false,
    },
    // An entry counts 32 bytes on top of its text (RFC 9113 §6.5.2), so the byte limit is the one that is met.
    maxHeaderListPairs: Math.max(16, Math.ceil(options.maxHeaderBytes / 32)),
    maxSendHeaderBlockLength: 1024 * 1024,
    // Streams are bounded by number and messages by size; node's own budget of 10 MB would refuse streams by chance.
    maxSessionMemory: 4096,
    // Envoy ends every ext_proc stream with RST_STREAM. Node's default allows 33 of them a second, then drops the connection.
    streamResetBurst: 1_000_000,
    streamResetRate: 1_000_000,
    maxSessionRejectedStreams: 10_000,
  };
}

/** The part of createSecureContext's options that a certificate decides. */
export interface ContextOptions {
  readonly key: string;
  readonly cert: string;
  readonly minVersion: "TLSv1.2" | "TLSv1.3";
  readonly ciphers?: string;
}

export function contextOptionsFrom(tls: TlsMaterial): ContextOptions {
  const { key, cert, minVersion = "TLSv1.2", ciphers } = tls;
  return ciphers === undefined ? { key, cert, minVersion } : { key, cert, minVersion, ciphers };
}
