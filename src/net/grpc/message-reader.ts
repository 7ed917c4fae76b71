/**
 * Cuts a stream of bytes into gRPC messages (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: one flag byte, four length bytes,
 * the message). A message that lies whole in one chunk is a view of it; one that is split is gathered in memory that grows with what has
 * come, not with what was promised, and that is taken from an allowance which all streams share until the message is whole.
 */
import { gunzipSync } from "node:zlib";
import { type ByteAllowance, grpcStatus, type UnreadableCause } from "./transport.ts";

const prefixBytes = 5;
/**
 * gzip packs a thousand bytes into one and is inflated in one go, so a compressed message may not become larger than gRPC's customary
 * limit: a few milliseconds. Gateways do not compress.
 */
const maxInflatedBytes = 4 * 1024 * 1024;
const noBytes = Buffer.alloc(0);
/** Least memory for a split message. */
const leastPartBytes = 16 * 1024;
/** Up to here memory grows to eight times what has come, which spares ordinary messages a copy; beyond it doubles. */
const quickGrowthBytes = 256 * 1024;

export interface MessageSink {
  message(bytes: Buffer): void;
  /** The stream cannot go on; nothing follows. `why` where the message is well formed and cannot be taken all the same. */
  fault(status: number, message: string, why?: UnreadableCause): void;
}

export class MessageReader {
  private readonly maxMessageBytes: number;
  private readonly encoding: string | undefined;
  private readonly allowance: ByteAllowance | undefined;
  private prefixRead: number;
  private flag: number;
  private length: number;
  private partial: Buffer | undefined;
  private filled: number;
  private stopped: boolean;

  /** `encoding` is the client's grpc-encoding: what a set compression flag means. */
  constructor(maxMessageBytes: number, encoding: string | undefined, allowance?: ByteAllowance) {
    this.maxMessageBytes = maxMessageBytes;
    this.encoding = encoding;
    this.allowance = allowance;
    this.prefixRead = 0;
    this.flag = 0;
    this.length = 0;
    this.partial = undefined;
    this.filled = 0;
    this.stopped = false;
  }

  /** True between messages: the stream may end here. */
  get isAtBoundary(): boolean {
    return this.prefixRead === 0;
  }

  /** Nothing more is handed on, the rest of the chunk being read included. */
  stop(): void {
    this.stopped = true;
    this.dropPartial();
  }

  private dropPartial(): void {
    if (this.partial === undefined) return;
    this.allowance?.give(this.partial.length);
    this.partial = undefined;
  }

  read(chunk: Buffer, sink: MessageSink): void {
    let at = 0;
    while (at < chunk.length && !this.stopped) {
      if (this.prefixRead < prefixBytes) {
        at = this.readPrefix(chunk, at);
        if (this.prefixRead < prefixBytes) return;
        if (!this.acceptPrefix(sink)) return;
        if (this.length === 0) {
          this.finish(noBytes, sink);
          continue;
        }
      }
      const missing = this.length - this.filled;
      const size = Math.min(missing, chunk.length - at);
      if (this.partial === undefined && size === missing) this.finish(chunk.subarray(at, at + size), sink);
      else this.gather(chunk, at, size, sink);
      at += size;
    }
  }

  private readPrefix(chunk: Buffer, start: number): number {
    let at = start;
    if (this.prefixRead === 0 && chunk.length - at >= prefixBytes) {
      this.flag = chunk.readUInt8(at);
      this.length = chunk.readUInt32BE(at + 1);
      this.prefixRead = prefixBytes;
      return at + prefixBytes;
    }
    while (at < chunk.length && this.prefixRead < prefixBytes) {
      const byte = chunk.readUInt8(at++);
      if (this.prefixRead === 0) {
        this.flag = byte;
        this.length = 0;
      } else {
        this.length = this.length * 256 + byte;
      }
      this.prefixRead++;
    }
    return at;
  }

  private acceptPrefix(sink: MessageSink): boolean {
    if (this.flag > 1) {
      this.fail(sink, grpcStatus.internal, "malformed gRPC frame: unknown flag");
      return false;
    }
    if (this.flag === 1 && this.encoding !== "gzip") {
      if (this.encoding === undefined || this.encoding === "identity") {
        this.fail(
          sink,
          grpcStatus.internal,
          "a message is marked as compressed and grpc-encoding names no compression",
        );
      } else {
        this.fail(sink, grpcStatus.unimplemented, "this grpc-encoding is not supported: use identity or gzip");
      }
      return false;
    }
    if (this.length > this.maxMessageBytes) {
      this.fail(sink, grpcStatus.resourceExhausted, this.tooLarge(), "too-large");
      return false;
    }
    return true;
  }

  private gather(chunk: Buffer, at: number, size: number, sink: MessageSink): void {
    const wanted = this.filled + size;
    let partial = this.partial;
    if (partial === undefined || partial.length < wanted) {
      const sizeBytes = Math.min(this.length, grownBytes(wanted));
      if (this.allowance?.take(sizeBytes - (partial?.length ?? 0)) === false) {
        const message = "too many bytes of unfinished messages are held; try again";
        this.fail(sink, grpcStatus.resourceExhausted, message, "no-room");
        return;
      }
      const grown = Buffer.allocUnsafeSlow(sizeBytes);
      partial?.copy(grown, 0, 0, this.filled);
      partial = grown;
    }
    chunk.copy(partial, this.filled, at, at + size);
    this.partial = partial;
    this.filled = wanted;
    if (wanted === this.length) this.finish(partial, sink);
  }

  private finish(bytes: Buffer, sink: MessageSink): void {
    this.prefixRead = 0;
    this.dropPartial();
    this.filled = 0;
    if (this.flag === 0) {
      sink.message(bytes);
      return;
    }
    const inflated = this.inflate(bytes, sink);
    if (inflated !== undefined) sink.message(inflated);
  }

  private inflate(bytes: Buffer, sink: MessageSink): Buffer | undefined {
    try {
      return gunzipSync(bytes, { maxOutputLength: Math.min(this.maxMessageBytes, maxInflatedBytes) });
    } catch (error) {
      const tooLarge = (error as { code?: unknown }).code === "ERR_BUFFER_TOO_LARGE";
      if (tooLarge) this.fail(sink, grpcStatus.resourceExhausted, "a compressed message is too large when inflated");
      else this.fail(sink, grpcStatus.internal, "a compressed message is not valid gzip");
      return undefined;
    }
  }

  private fail(sink: MessageSink, status: number, message: string, why?: UnreadableCause): void {
    this.stop();
    sink.fault(status, message, why);
  }

  private tooLarge(): string {
    return `received message larger than max (${this.length} vs. ${this.maxMessageBytes})`;
  }
}

/** Memory for a message of which so much has come. */
function grownBytes(wanted: number): number {
  return Math.max(leastPartBytes, Math.min(wanted * 8, quickGrowthBytes), wanted <= leastPartBytes ? 0 : wanted * 2);
}
