/**
 * One call from request to end, as a state machine over what may happen to it in any order: acknowledged, refused, dialled back, answered,
 * broken off, cancelled, timed out. Its sink hears the end exactly once, or nothing after a cancel.
 */
import type { Socket } from "node:net";
import { MalformedMessage } from "../encoding/value-reader.ts";
import type { HomeReader } from "./call-home.ts";
import type { CallEnd, CallFailure, CallOptions, CallSink, PendingCall } from "./contracts.ts";
import { readStreamItem } from "./stream-item.ts";
import { encodeTwoPart } from "./two-part.ts";
import type { AckOutcome } from "./worker-connection.ts";

/** How long a worker has to end a stream that is over, or to dial in after a cancel, before its socket is forgotten. */
const lingerMs = 10_000;
/** What may still come of a call that is over. */
const lastWordsBytes = 64 * 1024;
/** Of what a worker says of its error; it goes into logs. */
const maxMessageLength = 1000;
const killFrame = encodeTwoPart(Buffer.from('"kill"'));

export interface CallOwner {
  /** The call is over for its sink. */
  settled(call: WorkerCall, end: CallEnd | undefined): void;
  /** Its subject may be forgotten. */
  forgotten(call: WorkerCall): void;
}

export interface WorkerCallOptions extends CallOptions {
  readonly maxItemBytes: number;
  readonly answerTimeoutMs: number;
}

export class WorkerCall implements PendingCall, HomeReader {
  readonly id: string;
  readonly subject: string;
  readonly #options: WorkerCallOptions;
  readonly #sink: CallSink;
  readonly #owner: CallOwner;
  #socket: Socket | undefined;
  #hasPrologue: boolean;
  #isSettled: boolean;
  #isCancelled: boolean;
  #isForgotten: boolean;
  #isPaused: boolean;
  #timer: NodeJS.Timeout | undefined;

  constructor(id: string, subject: string, options: WorkerCallOptions, sink: CallSink, owner: CallOwner) {
    this.id = id;
    this.subject = subject;
    this.#options = options;
    this.#sink = sink;
    this.#owner = owner;
    this.#socket = undefined;
    this.#hasPrologue = false;
    this.#isSettled = false;
    this.#isCancelled = false;
    this.#isForgotten = false;
    this.#isPaused = false;
    this.#timer = setTimeout(
      () => this.#fail("no-answer", "the worker took the request and did not answer in time"),
      options.answerTimeoutMs,
    );
  }

  acknowledged(outcome: AckOutcome, message: string): void {
    if (outcome === "accepted" || this.#isSettled || this.#socket !== undefined) return;
    this.#fail(outcome, message);
  }

  /** It cannot be sent at all. */
  refuse(reason: CallFailure, message: string): void {
    if (!this.#isSettled) this.#fail(reason, message);
  }

  get maxMessageBytes(): number {
    return this.#isSettled ? lastWordsBytes : this.#options.maxItemBytes;
  }

  get isDeaf(): boolean {
    return this.#isCancelled;
  }

  admits(sizeBytes: number): boolean {
    return this.#isSettled || this.#options.admitsItem === undefined || this.#options.admitsItem(sizeBytes);
  }

  /** The worker has dialled back. False when it had before. */
  attach(socket: Socket): boolean {
    if (this.#socket !== undefined) return false;
    this.#socket = socket;
    if (this.#isSettled) {
      this.#kill(socket);
      return true;
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const { idleTimeoutMs } = this.#options;
    if (idleTimeoutMs !== undefined)
      socket.setTimeout(idleTimeoutMs, () => this.#fail("idle", "the worker's answer stands still"));
    return true;
  }

  message(header: Buffer, body: Buffer): boolean {
    if (this.#isSettled) {
      if (header.length > 0) this.#forget();
      return !this.#isForgotten;
    }
    if (header.length > 0) return this.#control(header);
    if (!this.#hasPrologue) return this.#fail("protocol", "the worker answers without a prologue");
    return this.#item(body);
  }

  ended(why: "end" | "too-large", error?: Error): void {
    if (!this.#isSettled) {
      if (why === "too-large")
        this.#fail(
          "item-too-large",
          `the worker sent an item of more than ${this.#options.maxItemBytes} bytes, or than there is room for now`,
        );
      else
        this.#fail(
          "disconnected",
          error === undefined ? "the worker's answer ended before it was complete" : error.message,
        );
    }
    this.#forget();
  }

  cancel(): void {
    if (this.#isSettled) return;
    this.#isCancelled = true;
    this.#settle(undefined);
    if (this.#socket !== undefined) this.#kill(this.#socket);
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  pause(): void {
    this.#isPaused = true;
    this.#socket?.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.#socket?.resume();
  }

  /** The plane closes. */
  abandon(): void {
    if (!this.#isSettled) this.#settle({ kind: "failed", reason: "closed", message: "the request plane is closed" });
    this.#forget();
  }

  #control(header: Buffer): boolean {
    const text = header.toString("utf8");
    if (text === '"sentinel"') return this.#fail("disconnected", "the worker's answer ended before it was complete");
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      return this.#fail("protocol", "the worker sent a control message that is no JSON");
    }
    if (typeof parsed !== "object" || parsed === null || this.#hasPrologue) return true;
    this.#hasPrologue = true;
    const { error, typed_error: typedError } = parsed as { readonly error?: unknown; readonly typed_error?: unknown };
    if (typeof error === "string") {
      this.#settle({
        kind: "failed",
        reason: "refused",
        message: error.slice(0, maxMessageLength),
        ...(typedError === undefined ? {} : { typedError }),
      });
      this.#forget();
      return false;
    }
    this.#sink.started?.();
    return true;
  }

  #item(body: Buffer): boolean {
    let item: ReturnType<typeof readStreamItem>;
    try {
      item = readStreamItem(body, this.#options.codec);
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      return this.#fail("protocol", `the worker's item ${error.message}`);
    }
    if (item.data !== undefined) this.#sink.item(item.data);
    if (item.isFinal && !this.#isSettled) this.#settle({ kind: "complete" });
    return !this.#isForgotten;
  }

  #fail(reason: CallFailure, message: string): boolean {
    if (!this.#isSettled) this.#settle({ kind: "failed", reason, message });
    const socket = this.#socket;
    if (reason === "idle" || reason === "protocol" || reason === "item-too-large") {
      if (socket !== undefined) this.#kill(socket);
    } else if (reason !== "no-answer") this.#forget();
    return false;
  }

  #settle(end: CallEnd | undefined): void {
    this.#isSettled = true;
    clearTimeout(this.#timer);
    // The worker may still dial in, or has its last words to say; then it is told, or let go.
    this.#timer = setTimeout(() => this.#forget(), lingerMs);
    this.#owner.settled(this, end);
    if (end !== undefined) this.#sink.ended(end);
  }

  /** Nothing but these control messages may be written here: anything else ends the worker's reader. */
  #kill(socket: Socket): void {
    this.#isPaused = false;
    socket.setTimeout(0);
    socket.resume();
    if (socket.writable) socket.end(killFrame);
  }

  #forget(): void {
    if (this.#isForgotten) return;
    this.#isForgotten = true;
    clearTimeout(this.#timer);
    this.#owner.forgotten(this);
    if (this.#socket !== undefined && !this.#socket.destroyed) this.#socket.destroySoon();
  }
}
