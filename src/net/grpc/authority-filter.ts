/**
 * Reads what an HTTP/2 client sends, frame by frame (RFC 9113 §4.1), and passes it on with field blocks whose `:authority` a library takes. Nothing
 * but field blocks is held back, and those only until they are whole; a client that breaks framing is passed on as it is, for the library to refuse.
 */
import { withValidAuthority } from "./hpack-block.ts";

const prefaceBytes = 24;
const frameHeadBytes = 9;
const headers = 1;
const resetStream = 3;
const settings = 4;
const ping = 6;
const continuation = 9;
const ack = 1;
const endHeaders = 4;
const padded = 8;
const priority = 32;
/** Every peer takes frames of this size (RFC 9113 §4.2). */
const maxFrameBytes = 16_384;
/** Larger field blocks are refused anyway. */
const maxBlockBytes = 1024 * 1024;

export class AuthorityFilter {
  /** Whether field blocks were seen at all, whether one of them had to be changed, and whether streams were reset. */
  sawBlock: boolean;
  changed: boolean;
  sawReset: boolean;
  /** Whether the client wants to be answered without a stream. */
  sawPing: boolean;
  /** Whether the client broke framing, so that nothing is read any more. */
  gaveUp: boolean;
  /** Set where SETTINGS were sent that the library does not know of: the first acknowledgement is left out. False once it was. */
  expectsAck: boolean;
  /** The begin of a frame that is not whole. */
  private rest: Buffer;
  /** Bytes that go through untouched before the next frame begins: the preface at first, then payloads. */
  private through: number;
  /** Frames of a field block that has no end yet. */
  private frames: Buffer[];
  private heldBytes: number;

  constructor() {
    this.sawBlock = false;
    this.changed = false;
    this.sawReset = false;
    this.sawPing = false;
    this.expectsAck = false;
    this.rest = Buffer.alloc(0);
    this.through = prefaceBytes;
    this.frames = [];
    this.heldBytes = 0;
    this.gaveUp = false;
  }

  /**
   * What goes on to the library of all that has come. A stream's reset is apart from a field block of it that came with it: a library that is given both at once
   * never tells of the stream, and nobody would count how many are opened only to be reset.
   */
  push(chunk: Buffer): readonly (readonly Buffer[])[] {
    if (this.gaveUp) return [[chunk]];
    let out: Buffer[] = [];
    const groups = [out];
    let opened: Set<number> | undefined;
    let input = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    this.rest = Buffer.alloc(0);
    for (;;) {
      if (this.through > 0) {
        const passed = Math.min(this.through, input.length);
        if (passed > 0) append(out, input.subarray(0, passed));
        this.through -= passed;
        input = input.subarray(passed);
      }
      if (input.length < frameHeadBytes) break;
      const length = input.readUIntBE(0, 3);
      const type = input[3] ?? 0;
      if (type === resetStream) {
        this.sawReset = true;
        if (opened?.has(streamOf(input))) {
          out = [];
          groups.push(out);
          opened = undefined;
        }
      }
      if (type === ping) this.sawPing = true;
      if (type === settings && this.expectsAck && length === 0 && ((input[4] ?? 0) & ack) !== 0) {
        this.expectsAck = false;
        input = input.subarray(frameHeadBytes);
        continue;
      }
      if (type !== headers && type !== continuation) {
        this.through = frameHeadBytes + length;
        continue;
      }
      // Also a frame that no server has allowed: waiting for its end would copy it once for each piece that it comes in.
      if (length > maxFrameBytes || this.heldBytes + length > maxBlockBytes) {
        append(out, ...this.takeHeld(), input);
        return groups;
      }
      if (input.length < frameHeadBytes + length) break;
      const frame = input.subarray(0, frameHeadBytes + length);
      input = input.subarray(frame.length);
      this.frames.push(frame);
      this.heldBytes += frame.length;
      if (((frame[4] ?? 0) & endHeaders) === 0) continue;
      append(out, ...this.withValidBlock(this.frames));
      opened ??= new Set();
      opened.add(streamOf(frame));
      this.frames = [];
      this.heldBytes = 0;
    }
    this.rest = input;
    return groups;
  }

  /** What has come and was not passed on yet. Nothing is read after it. */
  takeHeld(): readonly Buffer[] {
    this.gaveUp = true;
    const held = [...this.frames, this.rest];
    this.frames = [];
    this.rest = Buffer.alloc(0);
    return held;
  }

  private withValidBlock(frames: readonly Buffer[]): readonly Buffer[] {
    this.sawBlock = true;
    const [first = Buffer.alloc(frameHeadBytes)] = frames;
    const block = Buffer.concat(frames.map((frame, index) => (index === 0 ? fragmentOf(frame) : payloadOf(frame))));
    const valid = withValidAuthority(block);
    if (valid === block) return frames;
    this.changed = true;
    return framesOf(valid, first);
  }
}

/** What lies side by side stays one piece, so that most of what is read goes on without a copy. */
function append(parts: Buffer[], ...more: readonly Buffer[]): void {
  for (const part of more) {
    const last = parts.at(-1);
    const isNext = last?.buffer === part.buffer && last.byteOffset + last.length === part.byteOffset;
    if (isNext) parts[parts.length - 1] = Buffer.from(part.buffer, last.byteOffset, last.length + part.length);
    else if (part.length > 0) parts.push(part);
  }
}

function streamOf(frame: Buffer): number {
  return frame.readUInt32BE(5) & 0x7fff_ffff;
}

function payloadOf(frame: Buffer): Buffer {
  return frame.subarray(frameHeadBytes);
}

/** Of HEADERS, without padding and priority (RFC 9113 §6.2). */
function fragmentOf(frame: Buffer): Buffer {
  const flags = frame[4] ?? 0;
  const payload = payloadOf(frame);
  const begin = ((flags & padded) === 0 ? 0 : 1) + ((flags & priority) === 0 ? 0 : 5);
  const end = payload.length - ((flags & padded) === 0 ? 0 : (payload[0] ?? 0));
  return payload.subarray(Math.min(begin, end), end);
}

/** HEADERS and as many CONTINUATION frames as the block needs, with the first frame's stream and end of stream. */
function framesOf(block: Buffer, first: Buffer): readonly Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; at === 0 || at < block.length; at += maxFrameBytes) {
    const payload = block.subarray(at, at + maxFrameBytes);
    const isLast = at + maxFrameBytes >= block.length;
    const head = Buffer.alloc(frameHeadBytes);
    head.writeUIntBE(payload.length, 0, 3);
    head[3] = at === 0 ? headers : continuation;
    const endStream = at === 0 ? (first[4] ?? 0) & 1 : 0;
    head[4] = endStream | (isLast ? endHeaders : 0);
    first.copy(head, 5, 5, frameHeadBytes);
    frames.push(head, payload);
  }
  return frames;
}
