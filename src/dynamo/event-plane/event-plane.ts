/**
 * Dynamo's event plane as its users see it: topics of a scope, heard from whoever publishes them now and later. Nothing is replayed: whoever
 * needs the past asks for it after `subscribe` has resolved (subscribe first, then dump).
 */
import type { EventChannelRecord, EventScope } from "../records.ts";
import type { EventCounters } from "./event-counters.ts";

/** One message; `payload` is what the publisher encoded (msgpack, or json of older ones) and is valid only during the call. */
export type EventHandler = (payload: Buffer, publisherId: bigint) => void;

export interface EventSubscription extends EventChannels {
  close(): Promise<void>;
}

/** Who publishes, as discovery tells: for ZeroMQ each channel is connected and disconnected; for NATS the subject alone is enough. */
export interface EventChannels {
  opened(channel: EventChannelRecord): void;
  closed(channel: EventChannelRecord): void;
}

export interface EventPublisher {
  readonly publisherId: bigint;
  /** What to register in discovery so that others find it. */
  readonly channel: EventChannelRecord;
  /** Never waits; drops and counts when the queue is full. */
  publish(payload: Uint8Array): void;
  close(): Promise<void>;
}

export interface EventPlane {
  subscribe(scope: EventScope, topic: string, handler: EventHandler): Promise<EventSubscription>;
  publish(scope: EventScope, topic: string): Promise<EventPublisher>;
  /** The server in between (NATS) cannot be reached: nothing is heard or said until it is back. Always false where peers connect directly. */
  readonly isAway: boolean;
  /** Called each time the server is back: events were missed, so their sources are to be asked. Returns what unregisters it. */
  onReturn(listener: () => void): () => void;
  readonly counters: Readonly<EventCounters>;
  close(): Promise<void>;
}
