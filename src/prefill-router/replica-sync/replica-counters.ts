/** What replica sync has said, heard and left out; plain counts that only grow. */

export interface ReplicaCounters {
  /** Events handed to the event plane, which may still drop them. */
  published: number;
  /** Events that found the queue full: the newest goes. */
  dropped: number;
  /** Events of other routers and of workers, each with what became of it. */
  heard: number;
  booked: number;
  prefilled: number;
  freed: number;
  /** Bookings ended because their router's channel went. */
  abandoned: number;
  readonly ignored: Record<IgnoredReason, number>;
}

export type IgnoredReason =
  /** Said by this router itself. */
  | "own"
  /** A booking that is known already. */
  | "known"
  /** The end or mark of a booking that is not known: of a router heard too late, or said twice. */
  | "unknown"
  /** The booking is on another worker, or another router's. */
  | "not-theirs"
  /** More bookings than are kept. */
  | "full"
  /** Another router's, where this one shares nothing. */
  | "unshared";

export function createReplicaCounters(): ReplicaCounters {
  return {
    published: 0,
    dropped: 0,
    heard: 0,
    booked: 0,
    prefilled: 0,
    freed: 0,
    abandoned: 0,
    ignored: { own: 0, known: 0, unknown: 0, "not-theirs": 0, full: 0, unshared: 0 },
  };
}
