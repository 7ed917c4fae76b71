/** What an event plane has seen, counted; dropped messages by reason. */
import type { FrameFault } from "./zmq-frames.ts";

export type DropReason = FrameFault | "malformed" | "publisher" | "duplicate" | "handler" | "send-queue";

export interface EventCounters {
  received: number;
  published: number;
  /** Times the transport was lost. */
  losses: number;
  readonly dropped: Record<DropReason, number>;
}

export function createEventCounters(): EventCounters {
  return {
    received: 0,
    published: 0,
    losses: 0,
    dropped: {
      "frame-count": 0,
      topic: 0,
      identity: 0,
      version: 0,
      length: 0,
      malformed: 0,
      publisher: 0,
      duplicate: 0,
      handler: 0,
      "send-queue": 0,
    },
  };
}
