/**
 * Calls to endpoints of Dynamo workers over their request plane (TCP or NATS), as callers see them: one request in, a stream of items out. Callbacks,
 * not iterators: an item costs no promise.
 */
import type { PayloadCodec } from "../encoding/value-reader.ts";
import type { InstanceRecord } from "../records.ts";

export interface CallOptions {
  /** Of the body, and of every item that comes back. */
  readonly codec: PayloadCodec;
  /** Id of the request in the worker's eyes; minted when undefined. */
  readonly id?: string | undefined;
  /** W3C trace context, x-request-id and the like. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Largest item accepted; the plane's own limit when undefined. */
  readonly maxItemBytes?: number;
  /** Asked before memory is taken for an item that comes in pieces; false ends the call as item-too-large. */
  readonly admitsItem?: (sizeBytes: number) => boolean;
  /** From the call to the worker's dialling back; the plane's own limit when undefined. */
  readonly answerTimeoutMs?: number;
  /** Between two reads of the answer; without limit when undefined. */
  readonly idleTimeoutMs?: number;
}

export interface CallSink {
  /** The worker dialled back and began to answer. */
  started?(): void;
  /** The bytes of one item. They are never reused: whoever keeps the view keeps the read (or, above 64 KiB, just the item) it came in. */
  item(data: Buffer): void;
  /** Exactly once, last; never after `cancel`. */
  ended(end: CallEnd): void;
}

export type CallFailure =
  /** Nobody listens, or the connection broke before the request was taken. */
  | "unreachable"
  | "overloaded"
  | "unavailable"
  | "rejected"
  /** Too large for the request plane, or reached by neither TCP nor NATS. */
  | "unsendable"
  /** Taken, but the worker never dialled back: it could not read the body, or is stuck. */
  | "no-answer"
  /** generate() failed before the first item. */
  | "refused"
  /** The answer broke off: another worker may go on with it. */
  | "disconnected"
  | "idle"
  | "item-too-large"
  | "protocol"
  | "closed";

export type CallEnd =
  | { readonly kind: "complete" }
  | { readonly kind: "failed"; readonly reason: CallFailure; readonly message: string; readonly typedError?: unknown };

export interface PendingCall {
  readonly id: string;
  /** Tells the worker to stop at once. Nothing is called after it. A no-op once ended. */
  cancel(): void;
  /** Stop and resume reading the answer: back-pressure to the worker. */
  pause(): void;
  resume(): void;
}

export interface RequestPlaneCounters {
  calls: number;
  completed: number;
  cancelled: number;
  readonly failed: Record<CallFailure, number>;
  /** Connections to our listener that named no call of ours. */
  strangers: number;
  connections: number;
}

export interface RequestPlane {
  call(instance: InstanceRecord, body: Uint8Array, options: CallOptions, sink: CallSink): PendingCall;
  /** Whether a process serves a NATS subject now; never rejects. */
  isServed(subject: string, timeoutMs: number): Promise<boolean>;
  /** "host:port" that workers dial. */
  readonly address: string;
  readonly counters: Readonly<RequestPlaneCounters>;
  /** Calls under way end as "closed". */
  close(): Promise<void>;
}
