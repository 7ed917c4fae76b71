/**
 * One gRPC stream on a node:http2 stream. What is sent within one tick leaves as one DATA write, the response headers joined with the
 * first; listeners are shared functions, so that neither a stream nor a message makes closures.
 */
import { constants, type Http2Session, type IncomingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import { MessageReader, type MessageSink } from "./message-reader.ts";
import { MessageWriter } from "./message-writer.ts";
import { encodeStatusMessage } from "./status-message.ts";
import {
  type ByteAllowance,
  type GrpcStream,
  type GrpcStreamHandler,
  grpcStatus,
  type StreamCloseCause,
  type UnreadableCause,
} from "./transport.ts";

const responseHeaders = { ":status": 200, "content-type": "application/grpc" };
/** A date header says nothing to a gRPC client. */
const respondOptions = { waitForTrailers: true, sendDate: false };
/** A queue of this size on each stream is not worth accounting for. */
const uncountedBytes = 64 * 1024;
const okTrailers = { "grpc-status": "0" };

/** What a stream needs of its transport. */
export interface StreamOwner {
  readonly maxMessageBytes: number;
  readonly maxSendMessageBytes: number;
  readonly maxPendingBytes: number;
  readonly receiveAllowance: ByteAllowance | undefined;
  readonly sendAllowance: ByteAllowance | undefined;
  onError(error: unknown, what: string): void;
  /** Called once, when the stream has been ended and has still to say so to its client. */
  streamEnding(stream: Http2GrpcStream): void;
  /** A message has begun and is not whole yet. */
  messageUnfinished(stream: Http2GrpcStream): void;
  /** Every message that has begun is whole. */
  messageFinished(stream: Http2GrpcStream): void;
  /** Called once, after the handler heard of the end. */
  streamClosed(stream: Http2GrpcStream): void;
}

type OwnedStream = ServerHttp2Stream & { [owned]: Http2GrpcStream | undefined };
const owned = Symbol("grpc stream");

export class Http2GrpcStream implements GrpcStream, MessageSink {
  readonly stream: ServerHttp2Stream;
  /** Kept here, since a closed stream forgets it. */
  readonly session: Http2Session;
  private readonly owner: StreamOwner;
  private readonly headers: IncomingHttpHeaders;
  private readonly reader: MessageReader;
  /** A whole message has come. */
  hasMessage: boolean;
  /** Pending bytes that are taken from the send allowance. */
  private countedBytes: number;
  private handler: GrpcStreamHandler | undefined;
  private written: (() => void) | undefined;
  /** The messages of this tick. */
  private readonly outgoing: MessageWriter;
  private flushScheduled: boolean;
  private isReading: boolean;
  private isUnfinished: boolean;
  private responded: boolean;
  private ended: boolean;
  private endWritten: boolean;
  /** A reset is on its way: nothing more is written. */
  private isReset: boolean;
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
    this.reader = new MessageReader(
      owner.maxMessageBytes,
      typeof encoding === "string" ? encoding : undefined,
      owner.receiveAllowance,
    );
    this.hasMessage = false;
    this.countedBytes = 0;
    this.handler = undefined;
    this.written = undefined;
    this.outgoing = new MessageWriter();
    this.flushScheduled = false;
    this.isReading = false;
    this.isUnfinished = false;
    this.responded = false;
    this.ended = false;
    this.endWritten = false;
    this.isReset = false;
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
    stream._destroy = destroyReset;
    stream.push = handOver;
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
    return this.closed ? 0 : this.outgoing.queuedBytes + this.stream.writableLength;
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
    this.outgoing.add(parts, sizeBytes);
    const pending = this.pendingBytes;
    if (
      pending > this.owner.maxPendingBytes ||
      ((pending > uncountedBytes || this.countedBytes > 0) && !this.count(pending))
    ) {
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
    this.owner.streamEnding(this);
    this.scheduleFlush();
  }

  reset(): void {
    if (this.closed || this.statusSent || this.isReset) return;
    this.ended = true;
    this.isReset = true;
    this.reader.stop();
    this.outgoing.clear();
    setImmediate(cancelQuietly, this.stream);
  }

  message(bytes: Buffer): void {
    this.hasMessage = true;
    this.handler?.message(bytes);
  }

  fault(status: number, message: string, why?: UnreadableCause): void {
    if (why !== undefined && this.handler?.unreadable?.(why) === true) return;
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
    if (this.closed || this.isReset || stream.destroyed || stream.closed) {
      this.outgoing.clear();
      return;
    }
    if (this.outgoing.queuedBytes > 0) {
      if (!this.responded) {
        this.responded = true;
        stream.respond(responseHeaders, respondOptions);
      }
      this.outgoing.writeTo(stream, this.written);
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

  /** Brings what is taken from the send allowance up to date; false when there is no room. */
  private count(pending: number): boolean {
    const allowance = this.owner.sendAllowance;
    if (allowance === undefined) return true;
    const change = (pending > uncountedBytes ? pending : 0) - this.countedBytes;
    if (change > 0 && !allowance.take(change)) return false;
    if (change < 0) allowance.give(-change);
    this.countedBytes += change;
    this.written ??= () => this.afterWrite();
    return true;
  }

  private afterWrite(): void {
    if (this.countedBytes > 0) this.count(Math.min(this.countedBytes, this.pendingBytes));
    if (!this.closed && this.pendingBytes === 0) this.handler?.drained?.();
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
    this.noteUnfinished(!this.reader.isAtBoundary && !this.ended && !this.closed);
    if (this.outgoing.queuedBytes > 0 || (this.ended && !this.endWritten && !this.statusSent)) this.flush();
  }

  private noteUnfinished(isUnfinished: boolean): void {
    if (isUnfinished === this.isUnfinished) return;
    this.isUnfinished = isUnfinished;
    if (isUnfinished) this.owner.messageUnfinished(this);
    else this.owner.messageFinished(this);
  }

  /** The rest of a message has not come for longer than any gateway takes; what there is of it holds memory that others wait for. */
  messageOverdue(): void {
    this.noteUnfinished(false);
    this.end(grpcStatus.deadlineExceeded, "a message was not finished in time");
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
    if (this.closed || this.isReset || this.stream.destroyed || this.stream.closed) return;
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
    this.noteUnfinished(false);
    this.reader.stop();
    this.outgoing.clear();
    if (this.countedBytes > 0) this.count(0);
    try {
      this.handler?.closed(this.closeCause());
    } catch (error) {
      this.owner.onError(error, "stream handler");
    }
    this.handler = undefined;
    this.owner.streamClosed(this);
    // node keeps streams in a Map, whose old tables keep closed ones for a while (member-list.ts of the pipeline tells why).
    (this.stream as OwnedStream)[owned] = undefined;
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

/** What a stream that its client has reset is destroyed with; nobody reads it. */
const resetByClient = new Error("the client reset the stream");

/**
 * Envoy ends every ext_proc stream with an error code, and node makes an Error of each. Making it and its stack trace is a tenth of what a small request
 * costs, so all have the same one.
 */
function destroyReset(this: ServerHttp2Stream, error: Error | null, callback: (error?: Error | null) => void): void {
  const isReset = error === null && this.closed && this.rstCode !== constants.NGHTTP2_NO_ERROR;
  (Object.getPrototypeOf(this) as ServerHttp2Stream)._destroy.call(this, isReset ? resetByClient : error, callback);
}

/**
 * Takes what node has read without its queue: nothing here is ever paused, and a queue that is always empty costs each chunk a tick and a call into the
 * HTTP/2 library that asks for more. What came with the headers, before there was this, waits in the queue until `data` brings it; so does what comes
 * after it meanwhile, and the end of the stream.
 */
function handOver(this: ServerHttp2Stream, chunk: unknown): boolean {
  if (chunk === null || this.readableLength > 0) {
    return (Object.getPrototypeOf(this) as ServerHttp2Stream).push.call(this, chunk);
  }
  onData.call(this, chunk as Buffer);
  return true;
}

function flush(stream: Http2GrpcStream): void {
  stream.flush();
}

/**
 * node puts off a reset that is asked for while it reads from the socket, and forgets it when the stream is destroyed before it comes to
 * it. The HTTP/2 library then asks for the lost stream's data for ever: the process spins and its memory grows. So resets are given to
 * node from the event loop only, and never before the writes are finished, which node would wait for and then act at a moment of its own.
 */
function closeQuietly(stream: ServerHttp2Stream): void {
  if (stream.destroyed) return;
  if (stream.writableFinished) stream.close(constants.NGHTTP2_NO_ERROR);
  else stream.once("finish", () => setImmediate(closeQuietly, stream));
}

function cancelQuietly(stream: ServerHttp2Stream): void {
  if (!stream.destroyed && !stream.closed) stream.close(constants.NGHTTP2_CANCEL);
}

function onData(this: ServerHttp2Stream, chunk: Buffer): void {
  (this as OwnedStream)[owned]?.received(chunk);
}

function onEnd(this: ServerHttp2Stream): void {
  (this as OwnedStream)[owned]?.peerEnded();
}

/** A reset or a lost connection: `close` follows and says so. */
function onStreamError(): void {}

function onClose(this: ServerHttp2Stream): void {
  (this as OwnedStream)[owned]?.streamClosed();
}

function onWantTrailers(this: ServerHttp2Stream): void {
  (this as OwnedStream)[owned]?.wantTrailers();
}
