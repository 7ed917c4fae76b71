/**
 * One HTTP/2 connection of the load client, on a raw socket: plays a script on many streams at once. Frames of one read are all handled
 * before one write goes out; the server's windows are kept; nothing is allocated per message.
 */
import { connect, type Socket } from "node:net";
import { idDigits, type Script, type Step } from "./script.ts";
import {
  connectionStart,
  connectionWindowBytes,
  endStreamFlag,
  frameHeaderBytes,
  frameType,
  halfCloseFrame,
  processHeaders,
  resetFrame,
  settingsAck,
  windowUpdate,
  writeFrameHeader,
} from "./wire.ts";

export interface ConnectionEvents {
  /** The stream has played its script; micro-times by performance.now() in ms. */
  done(startedMs: number, decidedMs: number, connection: LoadConnection): void;
  /** A held stream has come as far as it goes. */
  held(): void;
  failed(what: string, connection: LoadConnection): void;
}

class Stream {
  readonly id: number;
  step = 0;
  replies = 0;
  /** Bytes of the step that went out. */
  sent = 0;
  bytes: Buffer;
  startedMs = 0;
  bodySentMs = 0;
  decidedMs = 0;
  prefixFill = 0;
  messageLeft = 0;
  isFirstByte = false;
  windowBytes: number;

  constructor(id: number, bytes: Buffer, windowBytes: number) {
    this.id = id;
    this.bytes = bytes;
    this.windowBytes = windowBytes;
  }
}

const maxFrameBytes = 16_384;
const outputBytes = 1024 * 1024;
const immediateResponseTag = (7 << 3) | 2;

let serial = 0;

export class LoadConnection {
  readonly #script: Script;
  readonly #headersFrame: Buffer;
  readonly #events: ConnectionEvents;
  readonly #socket: Socket;
  readonly #streams = new Map<number, Stream>();
  readonly #blocked = new Set<Stream>();
  readonly #input = Buffer.allocUnsafeSlow(256 * 1024);
  #out = Buffer.allocUnsafe(outputBytes);
  #outFill = 0;
  #rest: Buffer | undefined;
  #nextId = 1;
  #windowBytes = 65_535;
  #initialWindowBytes = 65_535;
  #consumedBytes = 0;
  #isReading = false;
  #isClosed = false;

  constructor(port: number, script: Script, events: ConnectionEvents) {
    this.#script = script;
    this.#events = events;
    this.#headersFrame = processHeaders(script.authority);
    this.#socket = connect({
      host: "127.0.0.1",
      port,
      noDelay: true,
      onread: { buffer: this.#input, callback: (length) => this.#read(length) },
    });
    this.#socket.on("error", (error) => this.#lost(error.message));
    this.#socket.on("close", () => this.#lost("the server closed the connection"));
    this.#socket.write(connectionStart());
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  close(): void {
    this.#isClosed = true;
    this.#socket.destroy();
  }

  #lost(reason: string): void {
    if (this.#isClosed) return;
    this.close();
    this.#events.failed(reason, this);
  }

  start(): void {
    const id = this.#nextId;
    this.#nextId += 2;
    const stream = new Stream(id, this.#step(0).bytes, this.#initialWindowBytes);
    stream.startedMs = performance.now();
    this.#streams.set(id, stream);
    this.#put(this.#headersFrame, id);
    this.#send(stream);
    if (!this.#isReading) this.#flush();
  }

  #step(index: number): Step {
    const step = this.#script.steps[index];
    if (step === undefined) throw new Error(`the script has no step ${index}`);
    return step;
  }

  #put(frame: Buffer, id: number): void {
    if (this.#outFill + frame.length > this.#out.length) this.#flush();
    this.#out.set(frame, this.#outFill);
    this.#out.writeUInt32BE(id, this.#outFill + 5);
    this.#outFill += frame.length;
  }

  /** As much of the step as the windows let through. */
  #send(stream: Stream): void {
    const { bytes } = stream;
    while (stream.sent < bytes.length) {
      const length = Math.min(bytes.length - stream.sent, stream.windowBytes, this.#windowBytes, maxFrameBytes);
      if (length <= 0) {
        this.#blocked.add(stream);
        return;
      }
      if (this.#outFill + frameHeaderBytes + length > this.#out.length) this.#flush();
      writeFrameHeader(this.#out, this.#outFill, length, frameType.data, 0, stream.id);
      bytes.copy(this.#out, this.#outFill + frameHeaderBytes, stream.sent, stream.sent + length);
      if (stream.sent === 0) this.#stamp(stream, this.#outFill + frameHeaderBytes, length);
      this.#outFill += frameHeaderBytes + length;
      stream.sent += length;
      stream.windowBytes -= length;
      this.#windowBytes -= length;
    }
    if (stream.step === this.#script.decisionStep) stream.bodySentMs = performance.now();
  }

  /** Writes the stream's own id (and mark of its body) into the bytes that go out: no two requests of a picker's tables are one. */
  #stamp(stream: Stream, at: number, length: number): void {
    const { idAt, distinctAt, decisionStep } = this.#script;
    const isDistinct = distinctAt >= 0 && stream.step === decisionStep;
    if (stream.step !== 0 && !isDistinct) return;
    const digits = String(stream.step === 0 ? ++serial : serial).padStart(idDigits.length, "0");
    if (stream.step === 0 && idAt + digits.length <= length) this.#out.write(digits, at + idAt, "latin1");
    if (isDistinct && distinctAt + digits.length <= length) this.#out.write(digits, at + distinctAt, "latin1");
  }

  #flush(): void {
    if (this.#outFill === 0 || this.#isClosed) return;
    this.#socket.write(this.#out.subarray(0, this.#outFill));
    // What the kernel took at once is free again; else the buffer belongs to the socket until it is written.
    if (this.#socket.writableLength > 0) this.#out = Buffer.allocUnsafe(outputBytes);
    this.#outFill = 0;
  }

  #read(length: number): boolean {
    this.#isReading = true;
    const fresh = this.#input.subarray(0, length);
    const bytes = this.#rest === undefined ? fresh : Buffer.concat([this.#rest, fresh]);
    let at = 0;
    while (bytes.length - at >= frameHeaderBytes) {
      const size = bytes.readUIntBE(at, 3);
      if (bytes.length - at < frameHeaderBytes + size) break;
      this.#frame(bytes, at, size);
      at += frameHeaderBytes + size;
    }
    // The read buffer is used again, so what is left of it is copied.
    this.#rest = at === bytes.length ? undefined : Buffer.from(bytes.subarray(at));
    if (this.#consumedBytes > connectionWindowBytes / 2) {
      this.#put(windowUpdate(0, this.#consumedBytes), 0);
      this.#consumedBytes = 0;
    }
    this.#isReading = false;
    this.#flush();
    return true;
  }

  #frame(bytes: Buffer, at: number, size: number): void {
    const type = bytes[at + 3];
    const flags = bytes[at + 4] ?? 0;
    const id = bytes.readUInt32BE(at + 5) & 0x7fffffff;
    const from = at + frameHeaderBytes;
    switch (type) {
      case frameType.data:
        this.#consumedBytes += size;
        this.#data(id, bytes, from, from + size);
        break;
      case frameType.settings:
        if ((flags & 1) === 0) this.#settings(bytes, from, from + size);
        break;
      case frameType.windowUpdate:
        this.#grant(id, bytes.readUInt32BE(from));
        break;
      case frameType.ping:
        if ((flags & 1) === 0) this.#pong(bytes.subarray(at, from + size));
        break;
      case frameType.headers:
        if ((flags & endStreamFlag) !== 0) this.#ended(id, "the server ended a stream");
        break;
      case frameType.rstStream:
        this.#ended(id, `the server reset a stream with code ${bytes.readUInt32BE(from)}`);
        break;
      case frameType.goaway:
        this.#lost(`the server sent GOAWAY with code ${bytes.readUInt32BE(from + 4)}`);
        break;
      default:
        // Anything else carries nothing that a script waits for.
        break;
    }
  }

  #pong(ping: Buffer): void {
    const answer = Buffer.from(ping);
    answer[4] = 1;
    this.#put(answer, 0);
  }

  #settings(bytes: Buffer, from: number, to: number): void {
    for (let at = from; at + 6 <= to; at += 6) {
      if (bytes.readUInt16BE(at) !== 4) continue;
      const size = bytes.readUInt32BE(at + 2);
      const change = size - this.#initialWindowBytes;
      this.#initialWindowBytes = size;
      for (const stream of this.#streams.values()) stream.windowBytes += change;
    }
    this.#put(settingsAck, 0);
    this.#resume();
  }

  #grant(id: number, increment: number): void {
    if (id === 0) {
      this.#windowBytes += increment;
      this.#resume();
      return;
    }
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    stream.windowBytes += increment;
    if (this.#blocked.delete(stream)) this.#send(stream);
  }

  #resume(): void {
    // A stream that still does not get through goes back into the set, behind this turn's end.
    const waiting = Array.from(this.#blocked);
    for (const stream of waiting) {
      if (this.#windowBytes <= 0) return;
      this.#blocked.delete(stream);
      this.#send(stream);
    }
  }

  #data(id: number, bytes: Buffer, from: number, to: number): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    let at = from;
    while (at < to) {
      if (stream.messageLeft === 0) {
        // A whole prefix in one piece is the rule; a cut one is put together in #cut.
        if (stream.prefixFill === 0 && to - at >= 5) {
          stream.messageLeft = bytes.readUInt32BE(at + 1);
          at += 5;
        } else {
          at = this.#cutPrefix(stream, bytes, at, to);
          if (stream.prefixFill !== 0) return;
        }
        stream.isFirstByte = true;
        if (stream.messageLeft === 0) this.#reply(stream);
        continue;
      }
      if (stream.isFirstByte) {
        stream.isFirstByte = false;
        if (bytes[at] === immediateResponseTag) {
          this.#ended(id, "the picker refused a request");
          return;
        }
      }
      const length = Math.min(stream.messageLeft, to - at);
      stream.messageLeft -= length;
      at += length;
      if (stream.messageLeft === 0) this.#reply(stream);
    }
  }

  /** Cut prefixes are rare (a frame ends inside one), so all streams of a connection that are in one keep their bytes in a map. */
  readonly #cut = new Map<number, Buffer>();
  #cutPrefix(stream: Stream, bytes: Buffer, from: number, to: number): number {
    const held = this.#cut.get(stream.id) ?? Buffer.alloc(5);
    const length = Math.min(5 - stream.prefixFill, to - from);
    bytes.copy(held, stream.prefixFill, from, from + length);
    stream.prefixFill += length;
    if (stream.prefixFill === 5) {
      stream.prefixFill = 0;
      stream.messageLeft = held.readUInt32BE(1);
      this.#cut.delete(stream.id);
    } else {
      this.#cut.set(stream.id, held);
    }
    return from + length;
  }

  #reply(stream: Stream): void {
    const script = this.#script;
    stream.replies++;
    if (stream.replies === 1 && stream.step === script.decisionStep)
      stream.decidedMs = performance.now() - stream.bodySentMs;
    const step = this.#step(stream.step);
    if (stream.replies < step.replies) return;
    stream.step++;
    stream.replies = 0;
    if (stream.step === script.steps.length) {
      this.#finish(stream);
      return;
    }
    stream.sent = 0;
    stream.bytes = this.#step(stream.step).bytes;
    this.#send(stream);
  }

  #finish(stream: Stream): void {
    if (this.#script.end === "hold") {
      this.#events.held();
      return;
    }
    if (this.#script.end === "half-close-and-reset") this.#put(halfCloseFrame, stream.id);
    this.#put(resetFrame, stream.id);
    this.#streams.delete(stream.id);
    this.#events.done(stream.startedMs, stream.decidedMs, this);
  }

  #ended(id: number, what: string): void {
    const stream = this.#streams.get(id);
    if (stream === undefined) return;
    this.#streams.delete(id);
    this.#blocked.delete(stream);
    this.#cut.delete(id);
    this.#events.failed(`${what} at step ${stream.step}`, this);
  }
}
