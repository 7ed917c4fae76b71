/**
 * One gRPC stream on a node:http2 stream. What is sent within one tick leaves as one DATA write, the response headers joined with the
 * first; listeners are shared functions, so that neither a stream nor a message makes closures.
 */
import { constants, type Http2Session, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { MessageReader, type MessageSink } from "./message-reader.ts";
import { encodeStatusMessage } from "./status-message.ts";
import { type GrpcStream, type GrpcStreamHandler, grpcStatus, type StreamCloseCause } from "./transport.ts";

const prefixBytes = 5;
/** Up to this size the messages of a tick are copied into one buffer: cheaper than a vector of small writes. */
const coalesceBytes = 16 * 1024;
/** In a larger flush a part of this size is worth a write of its own. */
const largeBytes = 4 * 1024;

const responseHeaders = { ":status": 200, "content-type": "application/grpc" };
/** A date header says nothing to a gRPC client. */
const respondOptions = { waitForTrailers: true, sendDate: false };
const okTrailers = { "grpc-status": "0" };

/** What a stream needs of its transport. */
export interface StreamOwner {
  readonly maxMessageBytes: number;
  readonly maxSendMessageBytes: number;
  readonly maxPendingBytes: number;
  onError(error: unknown, what: string): void;
  /** Called once, after the handler heard of the end. */
  streamClosed(stream: Http2GrpcStream): void;
}

type OwnedStream = ServerHttp2Stream & { [owned]: Http2GrpcStream };
const owned = Symbol("grpc stream");

export class Http2GrpcStream implements GrpcStream, MessageSink {
  readonly stream: ServerHttp2Stream;
  /** Kept here, since a closed stream forgets it. */
  readonly session: Http2Session;
  private readonly owner: StreamOwner;
  private readonly headers: IncomingHttpHeaders;
  private readonly reader: MessageReader;
  private handler: GrpcStreamHandler | undefined;
  private written: (() => void) | undefined;
  /** Messages sent in this tick, and their sizes without prefix. */
  private queue: (readonly Uint8Array[])[];
  private sizes: number[];
  private queuedBytes: number;
  private flushScheduled: boolean;
  private isReading: boolean;
  private responded: boolean;
  private ended: boolean;
  private endWritten: boolean;
  private statusSent: boolean;
  private halfClosed: boolean;
  private closed: boolean;
  private status: number;
  private statusMessage: string;

  constructor(stream: ServerHttp2Stream, session: Http2Session, headers: IncomingHttpHeaders, owner: StreamOwner) {
    this.stream = stream;
    this.session = session;
    this.owner = owner;
    this.headers = headers;
    const encoding = headers["grpc-encoding"];
    this.reader = new MessageReader(owner.maxMessageBytes, typeof encoding === "string" ? encoding : undefined);
    this.handler = undefined;
    this.written = undefined;
    this.queue = [];
    this.sizes = [];
    this.queuedBytes = 0;
    this.flushScheduled = false;
    this.isReading = false;
    this.responded = false;
    this.ended = false;
    this.endWritten = false;
    this.statusSent = false;
    this.halfClosed = false;
    this.closed = false;
    this.status = grpcStatus.ok;
    this.statusMessage = "";
  }

  /** Begins to read: callbacks of the handler follow. */
  open(handler: GrpcStreamHandler): void {
    this.handler = handler;
    if (handler.drained !== undefined) this.written = () => this.afterWrite();
    const stream = this.stream as OwnedStream;
    stream[owned] = this;
    stream.on("data", onData);
    stream.on("end", onEnd);
    stream.on("error", onStreamError);
    stream.on("close", onClose);
    stream.on("wantTrailers", onWantTrailers);
  }

  metadata(name: string): string | undefined {
    const value = this.headers[name];
    return typeof value === "string" ? value : value?.join(",");
  }

  get pendingBytes(): number {
    return this.closed ? 0 : this.queuedBytes + this.stream.writableLength;
  }

  send(parts: readonly Uint8Array[]): void {
    if (this.ended || this.closed) return;
    let sizeBytes = 0;
    for (let index = 0; index < parts.length; index++) sizeBytes += parts[index]?.length ?? 0;
    if (sizeBytes > this.owner.maxSendMessageBytes) {
      this.end(
        grpcStatus.resourceExhausted,
        `trying to send message larger than max (${sizeBytes} vs. ${this.owner.maxSendMessageBytes})`,
      );
      return;
    }
    this.queue.push(parts);
    this.sizes.push(sizeBytes);
    this.queuedBytes += prefixBytes + sizeBytes;
    if (this.pendingBytes > this.owner.maxPendingBytes) {
      this.reset();
      return;
    }
    this.scheduleFlush();
  }

  end(status: number, message = ""): void {
    if (this.ended || this.closed) return;
    this.ended = true;
    this.status = status;
    this.statusMessage = message;
    this.reader.stop();
    this.scheduleFlush();
  }

  reset(): void {
    if (this.closed || this.statusSent) return;
    this.ended = true;
    this.reader.stop();
    this.dropQueue();
    this.stream.close(constants.NGHTTP2_CANCEL);
  }

  message(bytes: Buffer): void {
    this.handler?.message(bytes);
  }

  fault(status: number, message: string): void {
    this.end(status, message);
  }

  private scheduleFlush(): void {
    if (this.isReading || this.flushScheduled) return;
    this.flushScheduled = true;
    process.nextTick(flush, this);
  }

  /** Writes what was sent, and the end if it was asked for. */
  flush(): void {
    this.flushScheduled = false;
    const { stream } = this;
    if (this.closed || stream.destroyed || stream.closed) {
      this.dropQueue();
      return;
    }
    if (this.queue.length > 0) {
      if (!this.responded) {
        this.responded = true;
        stream.respond(responseHeaders, respondOptions);
      }
      if (this.queuedBytes <= coalesceBytes) this.writeCoalesced();
      else this.writeParts();
      this.dropQueue();
      if (this.ended) this.endWrites();
    } else if (this.ended) {
      if (this.responded) this.endWrites();
      else this.respondTrailersOnly();
    }
  }

  /** The trailers follow, when node asks for them. */
  private endWrites(): void {
    if (this.endWritten) return;
    this.endWritten = true;
    this.stream.end();
  }

  private writeCoalesced(): void {
    const out = Buffer.allocUnsafe(this.queuedBytes);
    let at = 0;
    for (let index = 0; index < this.queue.length; index++) {
      at = writePrefix(out, at, this.sizes[index] ?? 0);
      const parts = this.queue[index] ?? [];
      for (let part = 0; part < parts.length; part++) {
        const bytes = parts[part];
        if (bytes === undefined) continue;
        out.set(bytes, at);
        at += bytes.length;
      }
    }
    this.write(out, true);
  }

  /** Large parts leave uncopied; the small ones between them (prefixes, protobuf heads) are joined in one buffer, written piece by piece. */
  private writeParts(): void {
    const small = Buffer.allocUnsafe(this.queuedBytes - this.largeBytes());
    const lastMessage = this.queue.length - 1;
    let start = 0;
    let at = 0;
    this.stream.cork();
    for (let index = 0; index <= lastMessage; index++) {
      at = writePrefix(small, at, this.sizes[index] ?? 0);
      const parts = this.queue[index] ?? [];
      for (let part = 0; part < parts.length; part++) {
        const bytes = parts[part];
        if (bytes === undefined) continue;
        if (bytes.length < largeBytes) {
          small.set(bytes, at);
          at += bytes.length;
          continue;
        }
        if (at > start) this.write(small.subarray(start, at), false);
        start = at;
        this.write(bytes, index === lastMessage && part === parts.length - 1);
      }
    }
    if (at > start) this.write(small.subarray(start, at), true);
    this.stream.uncork();
  }

  private largeBytes(): number {
    let sum = 0;
    for (let index = 0; index < this.queue.length; index++) {
      const parts = this.queue[index] ?? [];
      for (let part = 0; part < parts.length; part++) {
        const size = parts[part]?.length ?? 0;
        if (size >= largeBytes) sum += size;
      }
    }
    return sum;
  }

  private write(bytes: Uint8Array, isLast: boolean): void {
    if (isLast && this.written !== undefined) this.stream.write(bytes, this.written);
    else this.stream.write(bytes);
  }

  private afterWrite(): void {
    if (!this.closed && this.pendingBytes === 0) this.handler?.drained?.();
  }

  private dropQueue(): void {
    if (this.queue.length === 0) return;
    this.queue = [];
    this.sizes = [];
    this.queuedBytes = 0;
  }

  private respondTrailersOnly(): void {
    this.responded = true;
    this.statusSent = true;
    this.stream.respond(
      {
        ":status": 200,
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity,gzip",
        "grpc-status": String(this.status),
        ...(this.statusMessage === "" ? {} : { "grpc-message": encodeStatusMessage(this.statusMessage) }),
      },
      { endStream: true },
    );
    this.dismissClient();
  }

  /** RST_STREAM(NO_ERROR) tells a client that still sends that nobody listens (RFC 9113 §8.1); it follows the trailers. */
  private dismissClient(): void {
    if (!this.halfClosed) setImmediate(closeQuietly, this.stream);
  }

  received(chunk: Buffer): void {
    this.isReading = true;
    try {
      this.reader.read(chunk, this);
    } catch (error) {
      this.failed(error);
    } finally {
      this.isReading = false;
    }
    if (this.queue.length > 0 || (this.ended && !this.endWritten && !this.statusSent)) this.flush();
  }

  peerEnded(): void {
    // A reset also ends the readable side; it is no half-close.
    if (this.halfClosed || this.stream.closed) return;
    this.halfClosed = true;
    if (this.ended) return;
    if (!this.reader.isAtBoundary) {
      this.end(grpcStatus.internal, "the stream ended within a message");
      return;
    }
    try {
      this.handler?.halfClosed();
    } catch (error) {
      this.failed(error);
    }
  }

  wantTrailers(): void {
    if (this.closed || this.stream.destroyed || this.stream.closed) return;
    this.statusSent = true;
    if (this.status === grpcStatus.ok && this.statusMessage === "") this.stream.sendTrailers(okTrailers);
    else {
      this.stream.sendTrailers({
        "grpc-status": String(this.status),
        "grpc-message": encodeStatusMessage(this.statusMessage),
      });
    }
    this.dismissClient();
  }

  streamClosed(): void {
    if (this.closed) return;
    this.closed = true;
    this.reader.stop();
    this.dropQueue();
    try {
      this.handler?.closed(this.closeCause());
    } catch (error) {
      this.owner.onError(error, "stream handler");
    }
    this.handler = undefined;
    this.owner.streamClosed(this);
  }

  private closeCause(): StreamCloseCause {
    if (this.statusSent) return "ended";
    return this.session.destroyed ? "connection-lost" : "reset";
  }

  private failed(error: unknown): void {
    this.owner.onError(error, "stream handler");
    this.end(grpcStatus.internal, "internal error");
  }
}

function writePrefix(out: Buffer, at: number, sizeBytes: number): number {
  out[at] = 0;
  out[at + 1] = sizeBytes >>> 24;
  out[at + 2] = sizeBytes >>> 16;
  out[at + 3] = sizeBytes >>> 8;
  out[at + 4] = sizeBytes;
  return at + prefixBytes;
}

function flush(stream: Http2GrpcStream): void {
  stream.flush();
}

function closeQuietly(stream: ServerHttp2Stream): void {
  if (!stream.destroyed) stream.close(constants.NGHTTP2_NO_ERROR);
}

function onData(this: ServerHttp2Stream, chunk: Buffer): void {
  (this as OwnedStream)[owned].received(chunk);
}

function onEnd(this: ServerHttp2Stream): void {
  (this as OwnedStream)[owned].peerEnded();
}

/** A reset or a lost connection: `close` follows and says so. */
function onStreamError(): void {}

function onClose(this: ServerHttp2Stream): void {
  (this as OwnedStream)[owned].streamClosed();
}

function onWantTrailers(this: ServerHttp2Stream): void {
  (this as OwnedStream)[owned].wantTrailers();
}
